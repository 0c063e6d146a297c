//! What waits at a sender when its ring is full and its credits are used up.

use super::*;
use crate::operator::SideOutputs;
use millstream_network::{Doorbell, Receiver, Wake, channel};
use millstream_protocol::CheckpointSettings;
use millstream_types::LatencyMarker;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts how often a slot is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

const CREDITS: usize = 2;

/// Outputs to one receiver on another slot, that slot's doorbell, and how often it was woken.
fn outputs() -> (Outputs<u64>, Receiver<Rows<u64>>, Doorbell, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    let here = Doorbell::new(Arc::new(Woken::default()));
    let there = Doorbell::new(Arc::clone(&woken) as Arc<dyn Wake>);
    let (sender, receiver) = channel(CREDITS, &here, &there);
    let settings = ExchangeSettings { credits: CREDITS, ..ExchangeSettings::default() };
    let checkpoints =
        SubtaskCheckpoints::of_no_job(CheckpointSettings::default(), Default::default()).0;
    let lanes = vec![(Outlet::Here(sender), ChannelId::to_one(0))];
    let outputs = Outputs::new(lanes, Vec::new(), &settings, Arc::default(), checkpoints);
    (outputs, receiver, there, woken)
}

fn send(outputs: &mut Outputs<u64>, value: u64) {
    outputs.push(0, value, Timestamp::MIN);
    outputs.flush();
}

/// Receives markers until a batch comes; gives the batch back and returns its values.
fn receive(receiver: &mut Receiver<Rows<u64>>) -> Option<Vec<u64>> {
    loop {
        match receiver.receive()? {
            Element::Batch(rows) => {
                let values = rows.values().to_vec();
                receiver.give_back(rows);
                return Some(values);
            }
            Element::LatencyMarker(_) => {}
            other => panic!("{other:?} was never sent"),
        }
    }
}

/// Fills the ring with signals, so that batches overflow, until one waits for a credit.
fn crowd(outputs: &mut Outputs<u64>, receiver: &mut Receiver<Rows<u64>>) {
    let mut queued = usize::MAX;
    while receiver.queued() != queued {
        queued = receiver.queued();
        outputs.signal(Signal::LatencyMarker(LatencyMarker { emitted: Timestamp::MIN }));
    }
    for value in 0..=CREDITS as u64 {
        assert!(value == 0 || !outputs.is_drained(), "the ring is full");
        send(outputs, value);
    }
    assert!(outputs.is_blocked());
    assert_eq!(receiver.queued(), queued, "no batch is in the ring");
}

#[test]
fn what_overflows_is_sent_while_something_waits_for_a_credit() {
    let (mut outputs, mut receiver, ..) = outputs();
    crowd(&mut outputs, &mut receiver);
    // All that can be received are signals; the credits lie in what overflows.
    assert_eq!(receive(&mut receiver), None);
    assert!(outputs.is_blocked(), "no credit is back");
    assert_eq!(receive(&mut receiver), Some(vec![0]));
    let mut received = vec![0];
    while received.len() <= CREDITS {
        outputs.is_blocked();
        received.extend(receive(&mut receiver).expect("a credit has come back"));
    }
    assert_eq!(received, (0..=CREDITS as u64).collect::<Vec<_>>());
    assert!(!outputs.is_blocked() && outputs.is_drained());
}

#[test]
fn a_receiver_that_sleeps_is_told_of_what_a_blocked_sender_moved() {
    let (mut outputs, mut receiver, doorbell, woken) = outputs();
    crowd(&mut outputs, &mut receiver);
    assert_eq!(receive(&mut receiver), None);
    doorbell.prepare_park();
    let before = woken.times();
    // The chain is not polled while it is blocked, so that nothing but this call can tell.
    assert!(outputs.is_blocked());
    assert!(receiver.queued() > 0, "there was room for what overflowed");
    assert_eq!(woken.times(), before + 1);
}

/// A branch that is blocked or not, and counts how often it was asked.
struct Branch {
    blocked: bool,
    asked: Rc<Cell<usize>>,
}

impl Operator<u64> for Branch {
    fn resume(&mut self, _: Timestamp) {}
    fn record(&mut self, _: u64, _: Timestamp) {}
    fn watermark(&mut self, _: Timestamp) {}
    fn signal(&mut self, _: Signal) {}
    fn tick(&mut self, _: Timestamp) {}
    fn next_deadline(&self) -> Timestamp {
        Timestamp::MAX
    }
    fn flush(&mut self) {}
    fn is_blocked(&mut self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.blocked
    }
    fn is_finished(&mut self) -> bool {
        self.asked.set(self.asked.get() + 1);
        !self.blocked
    }
}

/// To ask a branch is what moves its data on, so one that is blocked must not hide the others.
#[test]
fn every_branch_is_asked_though_one_is_blocked() {
    let asked = Rc::new(Cell::new(0));
    let branches = || -> Vec<Box<dyn Operator<u64>>> {
        let branch = |blocked| Branch { blocked, asked: Rc::clone(&asked) };
        vec![Box::new(branch(true)), Box::new(branch(false)), Box::new(branch(true))]
    };
    let mut fork = Fork::new(branches());
    assert!(fork.is_blocked());
    assert_eq!(asked.take(), 3);
    assert!(!fork.is_finished());
    assert_eq!(asked.take(), 3);

    let mut outputs = SideOutputs::default();
    (0..).zip(branches()).for_each(|(tag, branch)| outputs.attach(tag, branch));
    assert!(outputs.is_blocked());
    assert_eq!(asked.take(), 3);
    assert!(!outputs.is_finished());
    assert_eq!(asked.take(), 3);
}
