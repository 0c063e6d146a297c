//! Between slots: a hop over a ring, and batches handed over by a channel.
//!
//! Ceilings: a hop costs the transfer of one cache line between cores (50-100 ns); a batch costs two
//! hops, one there and one back, whatever it holds.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_network::ring::ring;
use millstream_network::{Doorbell, Wake, channel};
use millstream_types::{Batch, Element};
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::time::{Duration, Instant};

const RECORDS: usize = 1_024;

fn ring_hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    group.bench_function("push and pop, one thread", |bencher| {
        let (mut producer, mut consumer) = ring(64);
        bencher.iter(|| {
            producer.push(black_box(7u64)).expect("there is room");
            consumer.pop()
        });
    });
    group.bench_function("hop to another thread", |bencher| {
        bencher.iter_custom(|hops| {
            let (mut there, mut from_here) = ring(64);
            let (mut back, mut from_there) = ring(64);
            let round_trips = hops.div_ceil(2);
            let echo = std::thread::spawn(move || {
                for _ in 0..round_trips {
                    let value: u64 = wait_for(|| from_here.pop());
                    back.push(value).expect("one value is on its way");
                }
            });
            let start = Instant::now();
            for value in 0..round_trips {
                there.push(value).expect("one value is on its way");
                assert_eq!(wait_for(|| from_there.pop()), value);
            }
            let elapsed = start.elapsed();
            echo.join().expect("the echo does not panic");
            elapsed
        });
    });
    group.finish();
}

fn wait_for<T>(mut next: impl FnMut() -> Option<T>) -> T {
    // With fewer cores than threads the other one must run, too.
    for turn in 1u64.. {
        if let Some(value) = next() {
            return value;
        }
        if turn.is_multiple_of(10_000) { std::thread::yield_now() } else { spin_loop() }
    }
    unreachable!("the loop has no end")
}

/// Rows, the simplest way.
struct Rows(Vec<u64>);

impl Batch for Rows {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Of slots that never sleep.
struct Awake;

impl Wake for Awake {
    fn wake(&self) {}
}

fn batch_handover(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("batch of 1,024 there and back", |bencher| {
        let [left, right] = [(); 2].map(|()| Doorbell::new(Arc::new(Awake)));
        let (mut sender, mut receiver) = channel::<Rows>(4, &left, &right);
        bencher.iter(|| {
            let make = || Rows(Vec::with_capacity(RECORDS));
            let mut batch = sender.acquire(make).expect("a batch has come back");
            batch.0.extend(0..RECORDS as u64);
            sender.send(Element::Batch(batch));
            sender.notify();
            let Some(Element::Batch(batch)) = receiver.receive() else {
                panic!("what was sent arrives");
            };
            let sum: u64 = batch.0.iter().sum();
            receiver.give_back(batch);
            sum
        });
    });
    group.bench_function("the same records copied through a new vector", |bencher| {
        bencher.iter(|| (0..RECORDS as u64).collect::<Vec<_>>().iter().sum::<u64>());
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = ring_hop, batch_handover }
criterion_main!(benches);
