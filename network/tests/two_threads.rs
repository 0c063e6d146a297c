//! A million batches from one thread to another. Both sleep whenever they can go no further.
#![cfg(not(loom))]

mod common;

use std::sync::mpsc;
use std::thread;

use common::{doorbell_of, wait_for};
use millstream_network::{Doorbell, Receiver, Sender, channel};
use millstream_types::{Batch, Element, Timestamp};

const BATCHES: u64 = 1_000_000;
const CREDITS: usize = 8;
/// The greatest number of records in a batch.
const RECORDS_MAX: u64 = 7;
/// A watermark follows every so many batches.
const WATERMARK_EVERY: u64 = 3;

struct Rows(Vec<u64>);

impl Batch for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Depends on every value and on their order (FNV-1a, a word at a time).
fn mix(checksum: u64, value: u64) -> u64 {
    (checksum ^ value).wrapping_mul(0x0100_0000_01b3)
}

#[test]
fn a_million_batches_arrive_whole_and_in_order_and_use_no_more_memory_than_the_credits() {
    let (to_receiver, receives) = mpsc::channel::<(Doorbell, Receiver<Rows>)>();
    let receiving = thread::spawn(move || {
        let (doorbell, mut receiver) = receives.recv().unwrap();
        let (mut checksum, mut records, mut last) = (0, 0, Timestamp::MIN);
        loop {
            match wait_for(&doorbell, || receiver.receive()) {
                Element::Batch(batch) => {
                    let Rows(rows) = &batch;
                    checksum = rows.iter().fold(checksum, |checksum, row| mix(checksum, *row));
                    records += rows.len() as u64;
                    receiver.give_back(batch);
                }
                Element::Watermark(watermark) => {
                    assert!(watermark > last, "{watermark} after {last}");
                    // It bears the number of records that were sent before it.
                    assert_eq!(watermark.as_nanos() as u64, records);
                    last = watermark;
                }
                Element::EndOfInput => return (checksum, records),
                _ => panic!("nothing else was sent"),
            }
        }
    });

    let here = doorbell_of(thread::current());
    let there = doorbell_of(receiving.thread().clone());
    let (mut sender, receiver) = channel(CREDITS, &here, &there);
    to_receiver.send((there, receiver)).unwrap();

    let (mut checksum, mut records, mut created) = (0, 0, 0);
    for number in 0..BATCHES {
        wait_for(&here, || {
            let ready = !sender.is_blocked();
            sender.notify();
            ready.then_some(())
        });
        let mut batch = sender
            .acquire(|| {
                created += 1;
                Rows(Vec::with_capacity(RECORDS_MAX as usize))
            })
            .expect("the sender is not blocked");
        for record in 0..=number % RECORDS_MAX {
            let value = number << 8 | record;
            checksum = mix(checksum, value);
            batch.0.push(value);
        }
        records += batch.len() as u64;
        sender.send(Element::Batch(batch));
        if number % WATERMARK_EVERY == 0 {
            sender.send(Element::Watermark(Timestamp::from_nanos(records as i64)));
        }
    }
    sender.send(Element::EndOfInput);
    wait_for(&here, || {
        let flushed = sender.flush_overflow();
        sender.notify();
        flushed.then_some(())
    });

    assert_eq!(receiving.join().unwrap(), (checksum, records));
    assert!(created <= CREDITS, "{created} batches were created");
    let stats = sender.stats();
    assert_eq!((stats.batches, stats.records), (BATCHES, records));
}

#[test]
fn a_sender_that_panics_does_not_leave_its_receiver_asleep() {
    let here = doorbell_of(thread::current());
    let (to_sender, sends) = mpsc::channel::<Sender<Rows>>();
    let sending = thread::spawn(move || {
        let mut sender = sends.recv().unwrap();
        let batch = sender.acquire(|| Rows(vec![1])).unwrap();
        sender.send(Element::Batch(batch));
        std::panic::resume_unwind(Box::new("the user's code fails"));
    });
    let there = doorbell_of(sending.thread().clone());
    let (sender, mut receiver) = channel(CREDITS, &there, &here);
    to_sender.send(sender).unwrap();

    let element = wait_for(&here, || receiver.receive());
    assert!(matches!(element, Element::Batch(Rows(rows)) if rows == [1]));
    wait_for(&here, || receiver.is_disconnected().then_some(()));
    assert!(sending.join().is_err());
}
