use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millstream_types::{Barrier, CheckpointId, LatencyMarker, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::doorbell::Wake;

/// A batch that keeps its identity when it is cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rows {
    id: usize,
    rows: Vec<u32>,
}

impl Batch for Rows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn clear(&mut self) {
        self.rows.clear();
    }
}

/// Counts how often a slot was woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn slot() -> (Doorbell, Arc<Wakes>) {
    let wakes = Arc::new(Wakes::default());
    (Doorbell::new(wakes.clone()), wakes)
}

fn connected(credits: usize) -> (Sender<Rows>, Receiver<Rows>) {
    channel(credits, &slot().0, &slot().0)
}

fn watermark(millis: i64) -> Element<Rows> {
    Element::Watermark(Timestamp::from_millis(millis))
}

fn barrier(id: u64) -> Element<Rows> {
    Element::Barrier(Barrier { checkpoint: CheckpointId(id) })
}

fn rows(id: usize) -> Rows {
    Rows { id, rows: vec![id as u32] }
}

fn drain(receiver: &mut Receiver<Rows>) -> Vec<Element<Rows>> {
    std::iter::from_fn(|| receiver.receive()).collect()
}

#[derive(Clone, Debug)]
enum Operation {
    /// Acquires a batch if there is a credit, fills it with that many rows and keeps it.
    Fill(usize),
    SendBatch,
    SendSignal(Element<Rows>),
    FlushOverflow,
    Receive,
    GiveBack,
}

fn operation() -> impl Strategy<Value = Operation> {
    let signal = prop_oneof![
        6 => (0_i64..1_000).prop_map(watermark),
        2 => (0_u64..1_000).prop_map(barrier),
        1 => Just(Element::LatencyMarker(LatencyMarker { emitted: Timestamp::MIN })),
        1 => Just(Element::Idle),
        1 => Just(Element::Active),
    ];
    prop_oneof![
        3 => (0_usize..5).prop_map(Operation::Fill),
        3 => Just(Operation::SendBatch),
        6 => signal.prop_map(Operation::SendSignal),
        1 => Just(Operation::FlushOverflow),
        6 => Just(Operation::Receive),
        3 => Just(Operation::GiveBack),
    ]
}

/// What must arrive of `elements`: of watermarks in direct succession, the newest.
fn without_superseded(elements: &[Element<Rows>]) -> Vec<Element<Rows>> {
    let mut kept: Vec<Element<Rows>> = Vec::new();
    for element in elements {
        if matches!((kept.last(), element), (Some(Element::Watermark(_)), Element::Watermark(_))) {
            kept.pop();
        }
        kept.push(element.clone());
    }
    kept
}

proptest! {
    #[test]
    fn channel_behaves_like_a_queue_with_a_fixed_set_of_batches(
        credits in 1_usize..5,
        operations in prop::collection::vec(operation(), 0..300),
    ) {
        let (mut sender, mut receiver) = connected(credits);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        let (mut filled, mut consumed) = (VecDeque::new(), VecDeque::new());
        let mut created = 0;
        // The batches that are not free: with the sender's subtask, in flight, with the receiver's.
        let mut out = BTreeSet::new();
        let mut stats = ChannelStats::default();
        for operation in operations {
            match operation {
                Operation::Fill(records) => {
                    let batch = sender.acquire(|| {
                        created += 1;
                        Rows { id: created - 1, rows: Vec::new() }
                    });
                    prop_assert_eq!(batch.is_some(), out.len() < credits);
                    if let Some(mut batch) = batch {
                        prop_assert!(batch.is_empty(), "a batch came back with records");
                        prop_assert!(out.insert(batch.id), "batch {} is in two places", batch.id);
                        batch.rows.extend((0..records).map(|row| row as u32));
                        filled.push_back(batch);
                    }
                }
                Operation::SendBatch => {
                    if let Some(batch) = filled.pop_front() {
                        stats.batches += 1;
                        stats.records += batch.len() as u64;
                        sent.push(Element::Batch(batch.clone()));
                        sender.send(Element::Batch(batch));
                    }
                }
                Operation::SendSignal(signal) => {
                    sent.push(signal.clone());
                    sender.send(signal);
                }
                Operation::FlushOverflow => {
                    sender.flush_overflow();
                }
                Operation::Receive => {
                    let queued = receiver.queued();
                    prop_assert_eq!(receiver.is_empty(), queued == 0);
                    let element = receiver.receive();
                    prop_assert_eq!(element.is_some(), queued > 0);
                    if let Some(Element::Batch(batch)) = &element {
                        consumed.push_back(batch.clone());
                    }
                    received.extend(element);
                }
                Operation::GiveBack => {
                    if let Some(batch) = consumed.pop_front() {
                        prop_assert!(out.remove(&batch.id));
                        receiver.give_back(batch);
                    }
                }
            }
            prop_assert!(created <= credits);
            prop_assert_eq!(sender.batches_out(), out.len());
            prop_assert_eq!(sender.has_credit(), out.len() < credits);
            let overflows = !sender.flush_overflow();
            prop_assert_eq!(sender.is_blocked(), overflows || out.len() == credits);
            prop_assert!(!overflows || receiver.queued() >= credits * SLOTS_PER_CREDIT);
        }

        while !receiver.is_empty() {
            let element = receiver.receive();
            if let Some(Element::Batch(batch)) = &element {
                consumed.push_back(batch.clone());
            }
            received.extend(element);
            sender.flush_overflow();
        }
        prop_assert_eq!(without_superseded(&received), without_superseded(&sent));
        prop_assert_eq!(sender.stats().batches, stats.batches);
        prop_assert_eq!(sender.stats().records, stats.records);
        for batch in consumed {
            out.remove(&batch.id);
            receiver.give_back(batch);
        }
        for batch in filled {
            out.remove(&batch.id);
        }
        prop_assert!(out.is_empty(), "lost: {:?}", out);
    }
}

#[test]
fn a_watermark_that_overflows_is_replaced_by_a_newer_one_and_passes_no_batch() {
    let (mut sender, mut receiver) = connected(1);
    let batch = sender.acquire(|| rows(1)).unwrap();
    let mut expected = vec![watermark(1), watermark(2)];
    for element in [watermark(1), watermark(2), watermark(3), watermark(4)] {
        sender.send(element);
    }
    sender.send(Element::Batch(batch));
    for element in [watermark(5), watermark(6), barrier(1), watermark(7)] {
        sender.send(element);
    }
    assert!(sender.is_blocked());
    assert_eq!(drain(&mut receiver), expected);
    let mut rest = Vec::new();
    while !sender.flush_overflow() || !receiver.is_empty() {
        rest.extend(drain(&mut receiver));
    }
    expected = vec![watermark(4), Element::Batch(rows(1)), watermark(6), barrier(1), watermark(7)];
    assert_eq!(rest, expected);
}

#[test]
fn a_batch_comes_back_with_its_memory() {
    let (mut sender, mut receiver) = connected(1);
    let batch = sender.acquire(|| Rows { id: 0, rows: Vec::with_capacity(100) }).unwrap();
    let memory = batch.rows.as_ptr();
    sender.send(Element::Batch(batch));
    assert_eq!(sender.acquire(|| unreachable!("there is one credit")), None);
    let Some(Element::Batch(batch)) = receiver.receive() else { panic!("a batch was sent") };
    receiver.give_back(batch);
    let again = sender.acquire(|| unreachable!("a batch came back")).unwrap();
    assert_eq!((again.rows.as_ptr(), again.rows.capacity()), (memory, 100));
}

#[test]
fn a_received_batch_is_passed_on_by_exchange() {
    let (mut upstream, mut input) = connected(1);
    let (mut output, mut downstream) = connected(1);
    let mut batch = upstream.acquire(|| rows(1)).unwrap();
    batch.rows.push(5);
    upstream.send(Element::Batch(batch.clone()));

    let Some(Element::Batch(mut passed_on)) = input.receive() else { panic!("a batch was sent") };
    let mut empty = output.acquire(|| Rows { id: 2, rows: Vec::new() }).unwrap();
    std::mem::swap(&mut passed_on, &mut empty);
    output.send(Element::Batch(empty));
    input.give_back(passed_on);

    assert_eq!(downstream.receive(), Some(Element::Batch(batch)));
    assert_eq!(upstream.acquire(|| unreachable!("a batch came back")).map(|rows| rows.id), Some(2));
}

#[test]
fn only_a_parked_slot_is_woken_once_per_sleep_and_once_per_burst() {
    let ((here, _), (there, wakes)) = (slot(), slot());
    let (mut sender, _receiver) = channel::<Rows>(4, &here, &there);
    sender.send(Element::Idle);
    sender.notify();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "the slot is awake");

    there.prepare_park();
    sender.notify();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "nothing was sent since the last call");
    sender.send(Element::Active);
    sender.send(Element::Idle);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "the burst goes on");
    sender.notify();
    sender.send(Element::Active);
    sender.notify();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);

    there.prepare_park();
    there.cancel_park();
    sender.send(Element::Idle);
    sender.notify();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the slot found something by itself");
}

#[test]
fn a_parked_sender_is_woken_by_a_signals_slot_and_by_a_credit() {
    let ((here, wakes), (there, _)) = (slot(), slot());
    let (mut sender, mut receiver) = channel::<Rows>(1, &here, &there);
    let batch = sender.acquire(|| rows(0)).unwrap();
    sender.send(barrier(1));
    sender.send(Element::Batch(batch));
    here.prepare_park();
    receiver.receive();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the barrier's slot is free");
    here.prepare_park();
    let Some(Element::Batch(batch)) = receiver.receive() else { panic!("a batch was sent") };
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the batch is with the receiver");
    receiver.give_back(batch);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
}

#[test]
fn ends_on_one_slot_never_ring() {
    let (slot, wakes) = slot();
    let (mut sender, mut receiver) = channel::<Rows>(1, &slot, &slot.clone());
    slot.prepare_park();
    let batch = sender.acquire(|| rows(0)).unwrap();
    sender.send(Element::Batch(batch));
    sender.send(Element::EndOfInput);
    sender.notify();
    let Some(Element::Batch(batch)) = receiver.receive() else { panic!("a batch was sent") };
    receiver.give_back(batch);
    assert_eq!(receiver.receive(), Some(Element::EndOfInput));
    drop((sender, receiver));
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
}

#[test]
fn a_sender_that_is_dropped_early_disconnects_after_its_last_element() {
    let ((here, _), (there, wakes)) = (slot(), slot());
    let (mut sender, mut receiver) = channel::<Rows>(1, &here, &there);
    sender.send(barrier(1));
    there.prepare_park();
    drop(sender);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert!(!receiver.is_disconnected(), "a barrier is still there");
    assert_eq!(receiver.receive(), Some(barrier(1)));
    assert!(receiver.is_disconnected());
}

#[test]
fn a_sender_that_is_done_does_not_disconnect() {
    let (mut sender, mut receiver) = connected(1);
    sender.send(Element::EndOfInput);
    drop(sender);
    assert!(!receiver.is_disconnected());
    assert_eq!(receiver.receive(), Some(Element::EndOfInput));
    assert!(!receiver.is_disconnected());
}

#[test]
fn a_batch_given_back_to_nobody_is_dropped() {
    struct Counted(#[expect(dead_code, reason = "counted, not read")] Arc<()>);
    impl Batch for Counted {
        fn len(&self) -> usize {
            1
        }
        fn clear(&mut self) {
            unreachable!("a batch that nobody fills again need not be cleared")
        }
    }
    let token = Arc::new(());
    let (mut sender, mut receiver) = channel(1, &slot().0, &slot().0);
    let batch = sender.acquire(|| Counted(token.clone())).unwrap();
    sender.send(Element::Batch(batch));
    let Some(Element::Batch(batch)) = receiver.receive() else { panic!("a batch was sent") };
    drop(sender);
    receiver.give_back(batch);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn a_sender_without_a_receiver_keeps_nothing_that_overflows() {
    let ((here, wakes), (there, _)) = (slot(), slot());
    let (mut sender, receiver) = channel::<Rows>(1, &here, &there);
    for id in 0..4 {
        sender.send(barrier(id));
    }
    assert!(!sender.flush_overflow());
    here.prepare_park();
    drop(receiver);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    assert!(sender.is_disconnected());
    assert!(sender.flush_overflow());
    sender.send(barrier(5));
    assert!(sender.flush_overflow(), "a discarded element does not block");
}

#[test]
fn blocked_checks_and_time_are_counted_until_the_sender_is_free() {
    let (mut sender, mut receiver) = connected(1);
    assert!(!sender.is_blocked());
    assert_eq!(sender.stats(), ChannelStats::default());
    let batch = sender.acquire(|| rows(0)).unwrap();
    sender.send(Element::Batch(batch));
    assert!(sender.is_blocked() && sender.is_blocked());
    let waiting = sender.stats();
    let started = Instant::now();
    while started.elapsed() < Duration::from_micros(10) {}
    assert!(sender.stats().blocked_time >= waiting.blocked_time + Duration::from_micros(10));
    let Some(Element::Batch(batch)) = receiver.receive() else { panic!("a batch was sent") };
    receiver.give_back(batch);
    assert!(!sender.is_blocked());
    let after = sender.stats();
    assert_eq!((after.batches, after.records, after.blocked_checks), (1, 1, 2));
    assert!(after.blocked_time >= Duration::from_micros(10));
    assert_eq!(sender.stats(), after, "the time stands still while the sender is free");
}

#[test]
#[should_panic(expected = "not acquired")]
fn sending_a_batch_without_a_credit_is_a_broken_invariant() {
    connected(1).0.send(Element::Batch(rows(0)));
}

#[test]
#[should_panic(expected = "did not deliver")]
fn giving_back_more_than_was_received_is_a_broken_invariant() {
    connected(1).1.give_back(rows(0));
}

/// What a barrier has overtaken, on both sides, as the ids of batches; and whether it includes what
/// was received last.
fn overtaken(sender: &[Element<Rows>], receiver: &mut Receiver<Rows>) -> (bool, Vec<usize>) {
    let id = |element: &Element<Rows>| match element {
        Element::Batch(batch) => Some(batch.id),
        _ => None,
    };
    let overtaking = receiver.take_overtaking().expect("a barrier has overtaken");
    let mut ids = Vec::new();
    receiver.peek_each(overtaking.waiting, |element| {
        ids.extend(id(element));
        true
    });
    ids.extend(sender.iter().filter_map(id));
    (overtaking.includes_last, ids)
}

proptest! {
    /// Batches by number, as many as the sender has credits for; a barrier goes ahead at any moment and
    /// is found after any element.
    #[test]
    fn a_barrier_that_overtakes_divides_what_was_sent(
        before in 0_usize..12, received_before in 0_usize..12, after in 0_usize..4,
        received_between in 0_usize..12,
    ) {
        let (mut sender, mut receiver) = connected(16);
        let send = |sender: &mut Sender<Rows>, id| {
            let mut batch = sender.acquire(|| rows(id)).expect("there are credits");
            batch = Rows { id, ..batch };
            sender.send(Element::Batch(batch));
            // Signals take slots of the ring, so that some batches overflow.
            for _ in 0..3 {
                sender.send(Element::Idle);
            }
        };
        (0..before).for_each(|id| send(&mut sender, id));
        let mut read = Vec::new();
        for _ in 0..received_before {
            read.extend(receiver.receive());
            prop_assert!(!receiver.has_overtaking());
        }
        let kept: Vec<_> = sender.overtake(Barrier { checkpoint: CheckpointId(1) }).cloned().collect();
        (before..before + after).for_each(|id| send(&mut sender, id));
        // Nothing of what the receiver took after the barrier was sent may be from behind it without
        // the barrier being seen.
        let mut last = None;
        for _ in 0..received_between {
            last = receiver.receive();
            prop_assert!(receiver.has_overtaking());
            if last.is_some() {
                break;
            }
        }
        let (includes_last, ids) = overtaken(&kept, &mut receiver);
        let batch_ids = |elements: &[Element<Rows>]| -> Vec<usize> {
            elements.iter().filter_map(|element| match element {
                Element::Batch(batch) => Some(batch.id),
                _ => None,
            }).collect()
        };
        let mut all = batch_ids(&read);
        if includes_last {
            all.extend(batch_ids(&last.iter().cloned().collect::<Vec<_>>()));
        }
        all.extend(ids);
        prop_assert_eq!(all, (0..before).collect::<Vec<_>>());
        prop_assert!(!receiver.has_overtaking());
        // And all of it is still received, in order.
        let mut rest = batch_ids(&read);
        rest.extend(batch_ids(&last.into_iter().collect::<Vec<_>>()));
        loop {
            let Some(element) = receiver.receive() else {
                if sender.flush_overflow() && receiver.is_empty() {
                    break;
                }
                continue;
            };
            rest.extend(batch_ids(&[element]));
        }
        prop_assert_eq!(rest, (0..before + after).collect::<Vec<_>>());
    }
}

#[test]
fn barriers_that_overtake_are_taken_in_order_and_wake_a_parked_receiver() {
    let ((here, _), (there, wakes)) = (slot(), slot());
    let (mut sender, mut receiver) = channel::<Rows>(2, &here, &there);
    there.prepare_park();
    for id in 1..3 {
        assert_eq!(sender.overtake(Barrier { checkpoint: CheckpointId(id) }).count(), 0);
    }
    sender.notify();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    let ids = std::iter::from_fn(|| receiver.take_overtaking());
    let ids: Vec<_> = ids.map(|overtaking| overtaking.barrier.checkpoint.0).collect();
    assert_eq!(ids, [1, 2]);
    assert!(!receiver.has_overtaking());
}
