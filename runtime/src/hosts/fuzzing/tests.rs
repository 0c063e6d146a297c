use super::*;
use crate::fuzzing::tests::check_seed;
use crate::hosts::connection::{Identity, Purpose};
use crate::hosts::message::{
    CountersMessage, Ending, FailureMessage, FileMessage, MailMessage, StateFileMessage,
    TransactionMessage,
};
use crate::metrics::SubtaskMetrics;

fn framed(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(message, &mut bytes).unwrap();
    bytes
}

fn check_seeds(kind: u8, seeds: &[(&str, Vec<u8>)]) {
    for (name, message) in seeds {
        check_seed("messages", name, &[&[kind], message.as_slice()].concat());
        check_message(kind, message).unwrap();
    }
}

#[test]
fn orders_to_begin_with_are_what_is_written_and_are_read() {
    let damaged = vec!["0000000000000001.segment".to_owned(), "b".to_owned()];
    let announce = MailMessage::Announce { checkpoint: 8, kind: 1 };
    let complete = MailMessage::Complete { checkpoint: 8, oldest: 5 };
    let seeds = [
        ("order_heartbeat", Order::Heartbeat),
        ("order_directory", Order::Directory { words: "words in a lock".into() }),
        (
            "order_begin",
            Order::Begin {
                attempt: 3,
                slots: (2, 4),
                restored: Some(b"a manifest".to_vec()),
                damaged,
            },
        ),
        ("order_announce", Order::Mail { attempt: 3, mail: announce }),
        ("order_complete", Order::Mail { attempt: 3, mail: complete }),
        ("order_over", Order::Over { ending: Ending::Failed("an operator".into()) }),
    ];
    check_seeds(0, &seeds.map(|(name, order)| (name, framed(&order))));
}

#[test]
fn reports_to_begin_with_are_what_is_written_and_are_read() {
    let (attempt, slot, checkpoint) = (3, 1, 8);
    let transactions = || {
        let one = TransactionMessage { operator: 2, bytes: (1..10).collect() };
        vec![one, TransactionMessage { operator: 4, bytes: Vec::new() }]
    };
    let file = FileMessage { name: "slot-1.snapshot".into(), len: 4096, crc32c: 0xdead_beef };
    let state = StateFileMessage { name: "1.segment".into(), len: 1 << 20, note: vec![7; 20] };
    let failure = FailureMessage {
        blamed: Some((1, 2)),
        is_panic: true,
        error: "it has panicked".into(),
        damaged: Some("1.segment".into()),
    };
    let counters = SubtaskMetrics::default().counters();
    let subtasks = vec![CountersMessage { vertex: 1, subtask: 2, counters }];
    let full = || "no space left on device".to_owned();
    let with_state = vec!["count".to_owned(), "a longer uid of an operator".to_owned()];
    let seeds = [
        ("told_heartbeat", Told::Heartbeat),
        ("told_directory", Told::Directory { is_shared: true }),
        ("told_ready", Told::Ready { attempt, with_state }),
        ("told_finished", Told::Finished { attempt, transactions: transactions() }),
        ("told_sealed", Told::Sealed { attempt, slot, checkpoint, transactions: transactions() }),
        ("told_stored", Told::Stored { attempt, slot, checkpoint, result: Ok(file) }),
        ("told_not_stored", Told::Stored { attempt, slot, checkpoint, result: Err(full()) }),
        ("told_durable", Told::Durable { attempt, slot, checkpoint, result: Ok(vec![state]) }),
        ("told_recovered", Told::Recovered { attempt, vertex: 1, subtask: 2 }),
        (
            "told_declined",
            Told::Declined { attempt, vertex: 1, subtask: 2, checkpoint, reason: full() },
        ),
        ("told_failed", Told::Failed { attempt, failure }),
        ("told_counters", Told::Counters { subtasks }),
    ];
    check_seeds(1, &seeds.map(|(name, told)| (name, framed(&told))));
}

#[test]
fn requests_for_files_to_begin_with_are_what_is_written_and_are_read() {
    let manifest = || "chk-8/MANIFEST".to_owned();
    let segment = || "state/0000000000000001.segment".to_owned();
    let requests = [
        ("request_put", Request::Put { path: manifest(), bytes: vec![9; 33] }),
        ("request_create", Request::Create { path: manifest(), bytes: Vec::new() }),
        ("request_append", Request::Append { path: segment(), offset: 4096, bytes: vec![1; 64] }),
        ("request_read", Request::Read { path: segment(), offset: 4096, len: 8192 }),
        ("request_list", Request::List { folder: "state".into() }),
        ("request_delete", Request::DeleteFolder { folder: "chk-7".into() }),
    ];
    check_seeds(2, &requests.map(|(name, request)| (name, framed(&request))));
    let answers = [
        ("answer_done", Answer::Done),
        ("answer_bytes", Answer::Bytes(vec![5; 40])),
        ("answer_listing", Answer::Listing(vec![(manifest(), 400), (segment(), 1)])),
        ("answer_too_short", Answer::TooShort { expected: 8192, found: 4096 }),
        ("answer_failed", Answer::Failed("no space left on device".into())),
    ];
    check_seeds(3, &answers.map(|(name, answer)| (name, framed(&answer))));
}

#[test]
fn what_is_said_first_to_begin_with_is_what_is_written_and_is_read() {
    let identity = Identity::new("job", 2, 77, None);
    let purposes = [
        ("hello_control", Purpose::Control { member: 1 }),
        ("hello_slot", Purpose::Slot { attempt: 3, from: 1, to: 2 }),
        ("hello_files", Purpose::Files { member: 1 }),
        ("hello_peer", Purpose::Peer { attempt: 3, member: 1 }),
    ];
    let hello = |(name, purpose)| (name, Hello::new(&identity, purpose).encode().to_vec());
    check_seeds(4, &purposes.map(hello));
}
