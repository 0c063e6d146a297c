use super::*;

use crate::checkpoint::{Beginning, Participant, Report, SubtaskCheckpoints};
use crate::exchange::{
    Event, ExchangeSettings, Global, Inlet, InputGate, Outlet, Outputs, Partitioned,
};
use crate::operator::{Operator, Passing, Signal};
use crate::subtask::{HeadSubtask, Subtask};
use millstream_network::{Doorbell, Wake, channel as connect};
use millstream_protocol::{Aligner, Alignment, CheckpointKind, CheckpointMode, CheckpointSettings};
use millstream_state::{RestoredState, Snapshot};
use millstream_types::{Barrier, CheckpointId};
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

fn channel() -> ChannelId {
    let edge = EdgeId { receiver: OperatorId(3), input: 1 };
    ChannelId { edge, sender: 4, target: 5, targets: 6 }
}

proptest! {
    #[test]
    fn what_was_in_flight_is_read_back(
        records in prop::collection::vec((any::<i64>(), ".{0,40}"), 0..20), at_sender: bool,
    ) {
        let mut rows = Rows::default();
        for (timestamp, text) in &records {
            rows.push(text.clone(), Timestamp::from_nanos(*timestamp));
        }
        let end = if at_sender { End::Sender } else { End::Receiver };
        let item = encode(channel(), end, &rows).unwrap();
        let read = decode::<String>(&item).unwrap();
        prop_assert_eq!(
            (read.sender, read.target, read.targets, read.end),
            (4, 5, 6, end)
        );
        prop_assert_eq!(read.rows.values(), rows.values());
        for index in 0..rows.len() {
            prop_assert_eq!(read.rows.timestamp(index), rows.timestamp(index));
        }
        // Cut off within a record it is an error, never something else.
        for len in 0..item.len() {
            if let Ok(cut) = decode::<String>(&item[..len]) {
                prop_assert!(cut.rows.values() == &rows.values()[..cut.rows.len()]);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<(u64, String)>(&bytes);
    }
}

#[test]
fn records_of_another_type_are_refused_in_words() {
    let mut rows = Rows::default();
    rows.push(7_u64, Timestamp::MIN);
    let item = encode(channel(), End::Sender, &rows).unwrap();
    let error = decode::<u32>(&item).unwrap_err().to_string();
    assert!(error.contains("8 bytes") && error.contains("not 4"), "{error}");
}

/// The end of a chain that can be out of credits.
#[derive(Clone, Default)]
struct Tap(Rc<RefCell<Seen>>);

#[derive(Default)]
struct Seen {
    records: Vec<u64>,
    /// How many there were at the barrier.
    at_barrier: Option<usize>,
    is_blocked: bool,
}

impl Operator<u64> for Tap {
    fn record(&mut self, value: u64, _: Timestamp) {
        self.0.borrow_mut().records.push(value);
    }
    fn watermark(&mut self, _: Timestamp) {}
    fn resume(&mut self, _: Timestamp) {}
    fn signal(&mut self, signal: Signal) {
        if let Signal::Barrier(..) = signal {
            let mut seen = self.0.borrow_mut();
            assert_eq!(seen.at_barrier, None, "one barrier for each checkpoint");
            seen.at_barrier = Some(seen.records.len());
        }
    }
    fn tick(&mut self, _: Timestamp) {}
    fn next_deadline(&self) -> Timestamp {
        Timestamp::MAX
    }
    fn flush(&mut self) {}
    fn is_blocked(&mut self) -> bool {
        self.0.borrow().is_blocked
    }
    fn is_finished(&mut self) -> bool {
        true
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A sender emits so many records.
    Emit(usize, usize),
    /// It flushes what it has, and sends on what waits.
    Flush(usize),
    /// It passes on the barrier, if it has not.
    Barrier(usize),
    /// The receiver's chain is out of credits from now on, or has some.
    Block(bool),
    Poll,
}

fn step() -> impl Strategy<Value = Step> {
    let sender = 0..SENDERS;
    prop_oneof![
        4 => (sender.clone(), 1_usize..20).prop_map(|(sender, count)| Step::Emit(sender, count)),
        2 => sender.clone().prop_map(Step::Flush),
        1 => sender.prop_map(Step::Barrier),
        1 => any::<bool>().prop_map(Step::Block),
        4 => Just(Step::Poll),
    ]
}

const SENDERS: usize = 2;
const CHECKPOINT: CheckpointId = CheckpointId(1);

/// What reads the channels: a subtask, or a gate of which every barrier is found after an element, as
/// happens to a subtask if the barrier comes while it reads.
enum TestReceiver {
    Subtask(HeadSubtask<u64, Tap>, i64),
    Gate(InputGate<u64>, Aligner, Rc<SubtaskCheckpoints>, Tap),
}

impl TestReceiver {
    fn subtask(
        inlets: Vec<Inlet<u64>>,
        chain: Tap,
        settings: CheckpointSettings,
    ) -> (Self, Receiver<Report>) {
        let (participant, reports) =
            Participant::of_no_job(SENDERS, settings, Beginning::default());
        let gate = InputGate::new(inlets, 0);
        (Self::Subtask(HeadSubtask::new(gate, chain, participant, Arc::default()), 0), reports)
    }

    fn gate(
        inlets: Vec<Inlet<u64>>,
        chain: Tap,
        settings: CheckpointSettings,
    ) -> (Self, Receiver<Report>) {
        let (checkpoints, reports) = SubtaskCheckpoints::of_no_job(settings, Beginning::default());
        let mut gate = InputGate::new(inlets, 0);
        gate.capture_into(Some(Rc::clone(&checkpoints)));
        let aligner = checkpoints.aligner(SENDERS);
        (Self::Gate(gate, aligner, checkpoints, chain), reports)
    }

    fn announce(&mut self) {
        match self {
            Self::Subtask(subtask, _) => subtask.announce(CHECKPOINT, CheckpointKind::Checkpoint),
            Self::Gate(_, aligner, ..) => {
                assert_eq!(aligner.on_trigger(CHECKPOINT), Alignment::Waiting);
            }
        }
    }

    fn poll(&mut self) {
        match self {
            Self::Subtask(subtask, now) => {
                *now += 1;
                subtask.poll(Timestamp::from_nanos(*now));
            }
            Self::Gate(gate, aligner, checkpoints, chain) => match gate.poll(aligner) {
                Some(Event::Batch { channel, mut rows }) => {
                    chain.batch(&mut rows);
                    gate.give_back(channel, rows);
                }
                Some(Event::Checkpoint(mut alignment)) => {
                    while alignment != Alignment::Waiting {
                        match alignment {
                            Alignment::Overtake(barrier) => {
                                chain.signal(Signal::Barrier(barrier, Passing::Overtaking));
                                checkpoints.snapshot(CHECKPOINT);
                            }
                            Alignment::Captured(checkpoint) => checkpoints.complete(checkpoint),
                            other => panic!("{other:?}"),
                        }
                        alignment = aligner.follow_up();
                    }
                }
                _ => {}
            },
        }
    }
}

/// What is in the snapshot that was reported, if one was.
fn captured_in(reports: &Receiver<Report>) -> Option<Vec<Vec<u8>>> {
    let sealed = reports.try_iter().find_map(|report| match report {
        Report::Sealed(sealed) => Some(sealed),
        _ => None,
    })?;
    let snapshot = Snapshot::read(sealed.bytes.unwrap()).unwrap();
    let list = RestoredState::new(vec![snapshot]).items("operator", "in flight 0").unwrap();
    Some(list.unwrap_or_default())
}

proptest! {
    /// What was processed before the barrier, and what the ends of the channels have captured, is
    /// exactly what was emitted before the barrier, in order; whatever the modes of the ends, and
    /// though the receiver's chain takes no input.
    #[test]
    fn snapshots_hold_what_was_emitted_before_the_barrier_once(
        steps in prop::collection::vec(step(), 1..80),
        alone: bool,
        timeout: bool,
    ) {
        // Only a subtask counts the time.
        let timeout = timeout && !alone;
        let settings = if timeout {
            let alignment_timeout = Some(std::time::Duration::from_nanos(1));
            CheckpointSettings { alignment_timeout, ..CheckpointSettings::default() }
        } else {
            CheckpointSettings { mode: CheckpointMode::Unaligned, ..CheckpointSettings::default() }
        };
        let passing = if timeout { Passing::InOrder } else { Passing::Overtaking };
        let slot = Doorbell::new(Arc::new(Nobody));
        let exchange = ExchangeSettings { credits: 2, ..ExchangeSettings::default() };
        let (mut senders, mut inlets) = (Vec::new(), Vec::new());
        for sender in 0..SENDERS as u32 {
            let (to, receiver) = connect(exchange.credits, &slot, &slot);
            let (checkpoints, reports) = SubtaskCheckpoints::of_no_job(settings, Beginning::default());
            let outputs = Outputs::<u64>::new(
                vec![(Outlet::Here(to), ChannelId::to_one(sender))],
                Vec::new(),
                &exchange,
                Arc::default(),
                Rc::clone(&checkpoints),
            );
            let outputs = Partitioned::new(outputs, Global);
            senders.push((outputs, (checkpoints, reports), 0_u64, None::<u64>));
            inlets.push(Inlet { receiver, id: ChannelId::to_one(sender) });
        }
        let chain = Tap::default();
        let (mut receiver, reports) = if alone {
            TestReceiver::gate(inlets, chain.clone(), settings)
        } else {
            TestReceiver::subtask(inlets, chain.clone(), settings)
        };
        let mut announced = false;
        let everything = [
            Step::Block(true), Step::Barrier(0), Step::Barrier(1), Step::Poll, Step::Poll,
            Step::Block(false),
        ];
        for step in steps.into_iter().chain(everything) {
            match step {
                Step::Emit(sender, count) => {
                    let (outputs, _, emitted, _) = &mut senders[sender];
                    for _ in 0..count {
                        // Named so that they tell whose they are, and in which order they came.
                        outputs.record(*emitted * 2 + sender as u64, Timestamp::MIN);
                        *emitted += 1;
                    }
                }
                Step::Flush(sender) => {
                    senders[sender].0.flush();
                    senders[sender].0.is_blocked();
                }
                Step::Barrier(sender) => {
                    if !std::mem::replace(&mut announced, true) {
                        receiver.announce();
                    }
                    let (outputs, (checkpoints, _), emitted, before) = &mut senders[sender];
                    if before.is_none() {
                        *before = Some(*emitted);
                        let barrier = Barrier { checkpoint: CHECKPOINT };
                        outputs.signal(Signal::Barrier(barrier, passing));
                        checkpoints.snapshot(CHECKPOINT);
                        checkpoints.complete(CHECKPOINT);
                    }
                }
                Step::Block(is_blocked) => chain.0.borrow_mut().is_blocked = is_blocked,
                Step::Poll => {
                    receiver.poll();
                }
            }
        }
        let mut captured = captured_in(&reports);
        // No credit was needed, and none was there.
        prop_assert!(timeout || alone || captured.is_some());
        for _ in 0..200 {
            senders.iter_mut().for_each(|(outputs, ..)| {
                outputs.flush();
                outputs.is_blocked();
            });
            receiver.poll();
        }
        let captured = captured.take().or_else(|| captured_in(&reports));
        let captured = captured.expect("the snapshot is whole");
        let seen = chain.0.borrow();
        let at_barrier = seen.at_barrier.expect("the barrier was passed on");
        for (sender, (_, (_, of_sender), emitted, before)) in senders.iter().enumerate() {
            let all: Vec<u64> = (0..*emitted).map(|n| n * 2 + sender as u64).collect();
            let mine = |value: &u64| *value % 2 == sender as u64;
            let processed: Vec<u64> = seen.records.iter().copied().filter(mine).collect();
            prop_assert_eq!(&processed, &all, "nothing is lost or out of order");
            let mut snapshot: Vec<u64> = seen.records[..at_barrier].iter().copied().filter(mine).collect();
            let of_sender = captured_in(of_sender).expect("the snapshot is whole");
            let items = captured.iter().chain(&of_sender);
            let mut batches: Vec<InFlight<u64>> = items.map(|item| decode(item).unwrap()).collect();
            batches.retain(|batch| batch.sender == sender as u32);
            batches.sort_by_key(|batch| (batch.sender, batch.end));
            snapshot.extend(batches.iter().flat_map(|batch| batch.rows.values()));
            prop_assert_eq!(&snapshot, &all[..before.unwrap() as usize]);
        }
    }
}
