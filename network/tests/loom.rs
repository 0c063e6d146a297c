//! Every interleaving, up to a number of preemptions, of what two or three threads do to a ring, a
//! doorbell and a channel. A lost wake-up shows as a deadlock, a lost value as a leak.
//!
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p millstream-network --release --test loom`
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;
use millstream_network::ring::{Consumer, Producer, ring};
use millstream_network::{Doorbell, Receiver, Sender, Wake, channel};
use millstream_types::{Barrier, Batch, CheckpointId, Element};

fn check(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(body);
}

fn push<T>(producer: &mut Producer<T>, mut value: T) {
    while let Err(refused) = producer.push(value) {
        value = refused;
        thread::yield_now();
    }
}

/// A task slot as the doorbell sees it: sleeps until woken, and remembers a wake-up that came early.
#[derive(Default)]
struct Sleep {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Sleep {
    fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }
}

struct Slot {
    sleep: Arc<Sleep>,
    doorbell: Doorbell,
}

impl Slot {
    fn new() -> Self {
        let sleep = Arc::new(Sleep::default());
        Self { sleep: sleep.clone(), doorbell: Doorbell::new(sleep) }
    }

    /// Sleeps, following the parking protocol, until `poll` finds something.
    fn wait_for<T>(&self, mut poll: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(found) = poll() {
                return found;
            }
            self.doorbell.prepare_park();
            let found = poll();
            if found.is_none() {
                let mut woken = self.sleep.woken.lock().unwrap();
                while !*woken {
                    woken = self.sleep.changed.wait(woken).unwrap();
                }
                *woken = false;
            }
            self.doorbell.cancel_park();
            if let Some(found) = found {
                return found;
            }
        }
    }
}

/// A batch whose loss loom reports.
struct Tracked {
    rows: Vec<usize>,
    _leak_check: loom::sync::Arc<()>,
}

impl Tracked {
    fn new() -> Self {
        Self { rows: Vec::new(), _leak_check: loom::sync::Arc::new(()) }
    }
}

impl Batch for Tracked {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn clear(&mut self) {
        self.rows.clear();
    }
}

fn send_filled(slot: &Slot, sender: &mut Sender<Tracked>, row: usize) {
    let mut batch = slot.wait_for(|| sender.acquire(Tracked::new));
    batch.rows.push(row);
    sender.send(Element::Batch(batch));
    sender.notify();
}

/// Hands over what overflows. The caller keeps the sender: when dropped it rings once more, which
/// would hide a bell that is missing here.
fn finish(slot: &Slot, sender: &mut Sender<Tracked>) {
    slot.wait_for(|| {
        let flushed = sender.flush_overflow();
        sender.notify();
        flushed.then_some(())
    });
}

fn barrier<B>(id: usize) -> Element<B> {
    Element::Barrier(Barrier { checkpoint: CheckpointId(id as u64) })
}

/// What a receiver saw: the rows and the checkpoints in order, and whether the input came to its end.
fn receive_all(slot: &Slot, mut receiver: Receiver<Tracked>) -> (Vec<usize>, bool) {
    let mut seen = Vec::new();
    loop {
        let element = slot.wait_for(|| match receiver.receive() {
            Some(element) => Some(Some(element)),
            None => receiver.is_disconnected().then_some(None),
        });
        match element {
            Some(Element::Batch(batch)) => {
                seen.extend(&batch.rows);
                receiver.give_back(batch);
            }
            Some(Element::Barrier(barrier)) => seen.push(barrier.checkpoint.0 as usize),
            Some(Element::EndOfInput) => return (seen, true),
            Some(_) => unreachable!("nothing else is sent"),
            None => return (seen, false),
        }
    }
}

#[test]
fn ring_keeps_all_values_and_their_order_when_it_wraps_around() {
    check(3, || {
        let (mut producer, mut consumer) = ring(2);
        let pushing = thread::spawn(move || {
            for value in 0..5 {
                push(&mut producer, Box::new(value));
            }
        });
        for expected in 0..5 {
            let value = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(*value, expected);
        }
        assert!(consumer.is_empty());
        pushing.join().unwrap();
    });
}

#[test]
fn ring_drops_what_is_in_flight_whichever_side_goes_first() {
    check(4, || {
        let (mut producer, mut consumer) = ring(2);
        let pushing = thread::spawn(move || {
            for _ in 0..3 {
                // What the ring refuses is dropped here.
                let _ = producer.push(loom::sync::Arc::new(()));
            }
        });
        drop(consumer.pop());
        drop(consumer);
        pushing.join().unwrap();
    });
}

#[test]
fn ring_that_is_seen_closed_shows_all_that_was_pushed() {
    check(4, || {
        let (mut producer, mut consumer): (Producer<Box<u32>>, Consumer<_>) = ring(2);
        let pushing = thread::spawn(move || {
            producer.push(Box::new(1)).unwrap();
            producer.push(Box::new(2)).unwrap();
        });
        let mut popped = Vec::new();
        loop {
            let closed = consumer.is_closed();
            while let Some(value) = consumer.pop() {
                popped.push(*value);
            }
            if closed {
                break;
            }
            thread::yield_now();
        }
        assert_eq!(popped, [1, 2]);
        pushing.join().unwrap();
    });
}

#[test]
fn doorbell_wakes_a_slot_for_every_push() {
    check(4, || {
        let (mut producer, mut consumer) = ring(2);
        let slot = Slot::new();
        let doorbell = slot.doorbell.clone();
        let pushing = thread::spawn(move || {
            for value in 0..2 {
                producer.push(value).unwrap();
                doorbell.ring_if_parked();
            }
        });
        for expected in 0..2 {
            assert_eq!(slot.wait_for(|| consumer.pop()), expected);
        }
        pushing.join().unwrap();
    });
}

#[test]
fn doorbell_serves_several_feeders() {
    check(3, || {
        let slot = Slot::new();
        let (consumers, feeders): (Vec<_>, Vec<_>) = (0..2)
            .map(|value| {
                let (mut producer, consumer) = ring(1);
                let doorbell = slot.doorbell.clone();
                let feeder = thread::spawn(move || {
                    producer.push(value).unwrap();
                    doorbell.ring_if_parked();
                });
                (consumer, feeder)
            })
            .unzip();
        let mut consumers: Vec<Consumer<usize>> = consumers;
        let mut sum = 0;
        for _ in 0..2 {
            sum += slot.wait_for(|| consumers.iter_mut().find_map(Consumer::pop)) + 1;
        }
        assert_eq!(sum, 3);
        for feeder in feeders {
            feeder.join().unwrap();
        }
    });
}

#[test]
fn channel_with_one_credit_passes_everything_between_slots_that_sleep() {
    check(3, || {
        let (here, there) = (Slot::new(), Slot::new());
        let (mut sender, receiver) = channel(1, &here.doorbell, &there.doorbell);
        let sending = thread::spawn(move || {
            for row in 0..2 {
                send_filled(&here, &mut sender, row);
            }
            sender.send(Element::EndOfInput);
            finish(&here, &mut sender);
            sender
        });
        assert_eq!(receive_all(&there, receiver), (vec![0, 1], true));
        sending.join().unwrap();
    });
}

#[test]
fn sender_whose_signals_overflow_is_woken_when_there_is_room() {
    check(3, || {
        let (here, there) = (Slot::new(), Slot::new());
        let (mut sender, receiver) = channel(1, &here.doorbell, &there.doorbell);
        let sending = thread::spawn(move || {
            for id in 0..3 {
                sender.send(barrier(id));
            }
            sender.send(Element::EndOfInput);
            finish(&here, &mut sender);
            sender
        });
        assert_eq!(receive_all(&there, receiver), (vec![0, 1, 2], true));
        sending.join().unwrap();
    });
}

#[test]
fn receiver_that_sleeps_hears_of_a_failed_sender_after_its_last_element() {
    check(3, || {
        let (here, there) = (Slot::new(), Slot::new());
        let (mut sender, receiver) = channel(1, &here.doorbell, &there.doorbell);
        let sending = thread::spawn(move || {
            send_filled(&here, &mut sender, 7);
            drop(sender);
        });
        assert_eq!(receive_all(&there, receiver), (vec![7], false));
        sending.join().unwrap();
    });
}

#[test]
fn sender_that_waits_for_a_credit_hears_of_a_failed_receiver() {
    check(3, || {
        let (here, there) = (Slot::new(), Slot::new());
        let (mut sender, mut receiver) = channel(1, &here.doorbell, &there.doorbell);
        let sending = thread::spawn(move || {
            send_filled(&here, &mut sender, 7);
            here.wait_for(|| (!sender.is_blocked() || sender.is_disconnected()).then_some(()));
        });
        // With or without the batch in its hands, and perhaps before it was sent.
        let element = receiver.receive();
        drop(receiver);
        drop(element);
        sending.join().unwrap();
    });
}

/// A batch before the barrier, one behind it. Whatever the receiver reads before it sees the barrier
/// was sent before it, or is the element with which it sees it.
#[test]
fn barrier_that_overtakes_is_seen_before_what_follows_it() {
    check(3, || {
        let (here, there) = (Slot::new(), Slot::new());
        let (mut sender, mut receiver) = channel(2, &here.doorbell, &there.doorbell);
        let sending = thread::spawn(move || {
            send_filled(&here, &mut sender, 0);
            let kept = sender.overtake(Barrier { checkpoint: CheckpointId(1) }).count();
            assert_eq!(kept, 0, "there is room in the ring");
            send_filled(&here, &mut sender, 1);
            finish(&here, &mut sender);
            sender
        });
        let mut before = Vec::<usize>::new();
        let (overtaking, last) = there.wait_for(|| {
            let element = receiver.receive();
            if receiver.has_overtaking() {
                return Some((receiver.take_overtaking().unwrap(), element));
            }
            if let Some(Element::Batch(batch)) = element {
                before.extend(&batch.rows);
                receiver.give_back(batch);
            }
            None
        });
        if let (Some(Element::Batch(batch)), true) = (last, overtaking.includes_last) {
            before.extend(&batch.rows);
        }
        receiver.peek_each(overtaking.waiting, |element| {
            if let Element::Batch(batch) = element {
                before.extend(&batch.rows);
            }
            true
        });
        assert_eq!(before, [0]);
        sending.join().unwrap();
    });
}
