//! Keys and what is kept for them: key groups, state, windows, timers.
//!
//! Ceilings: hashing a number is a few multiplications (1 ns); a look-up costs the cache miss that
//! its key does (3-5 ns in the second level, 80 ns in memory), less when a batch is looked up ahead.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millstream_state::{HeapBackend, SubtaskState, Table, TableSpec, Timers, WindowTable};
use millstream_types::{DEFAULT_MAX_PARALLELISM, KeyGroup, KeyGroupRange, Timestamp, hash_key};
use std::hint::black_box;
use std::time::Duration;

/// Records of a batch.
const BATCH: usize = 1_024;
/// Keys that fit the second level of the cache, and keys that fit none.
const KEYS: [u64; 2] = [10_000, 1_000_000];

fn store() -> (SubtaskState, TableSpec) {
    let store = SubtaskState::alone(&HeapBackend).expect("memory can be had");
    let groups = KeyGroupRange(0..DEFAULT_MAX_PARALLELISM);
    (store, TableSpec::new("bench", "state", groups, DEFAULT_MAX_PARALLELISM))
}

/// Batches of keys in no order, the same in every run: a linear congruential generator.
struct Keys {
    state: u64,
    count: u64,
}

impl Keys {
    fn below(count: u64) -> Self {
        Self { state: 42, count }
    }

    fn fill(&mut self, keys: &mut Vec<u64>, hashes: &mut Vec<u64>) {
        keys.clear();
        hashes.clear();
        for _ in 0..BATCH {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = ((u128::from(self.state) * u128::from(self.count)) >> 64) as u64;
            keys.push(key);
            hashes.push(hash_key(&key));
        }
    }
}

fn key_group(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("key group of");
    let mut number = 0u64;
    group.bench_function("a number", |bencher| {
        bencher.iter(|| {
            number += 1;
            KeyGroup::of(hash_key(black_box(&number)), DEFAULT_MAX_PARALLELISM)
        });
    });
    let word = "Millstream".to_owned();
    group.bench_function("a word", |bencher| {
        bencher.iter(|| KeyGroup::of(hash_key(black_box(&word)), DEFAULT_MAX_PARALLELISM));
    });
    group.finish();
}

fn read_modify_write(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state, read-modify-write");
    group.throughput(Throughput::Elements(BATCH as u64));
    for count in KEYS {
        let (store, spec) = store();
        let mut table = Table::<u64, u64>::open(&store, &spec).expect("memory can be had");
        for key in 0..count {
            table.modify(hash_key(&key), &key, || 0, |n| *n += 1);
        }
        let (mut keys, mut hashes) = (Vec::new(), Vec::new());
        let mut stream = Keys::below(count);
        group.bench_function(BenchmarkId::new("one by one", count), |bencher| {
            bencher.iter(|| {
                stream.fill(&mut keys, &mut hashes);
                for (key, hash) in keys.iter().zip(&hashes) {
                    table.modify(*hash, key, || 0, |n| *n += 1);
                }
            });
        });
        group.bench_function(BenchmarkId::new("batch", count), |bencher| {
            bencher.iter(|| {
                stream.fill(&mut keys, &mut hashes);
                table.modify_batch(&hashes, |i| &keys[i], || 0, |_, n| *n += 1);
            });
        });
    }
    group.finish();
}

fn window_add(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window, add");
    group.throughput(Throughput::Elements(BATCH as u64));
    for count in KEYS {
        let (store, spec) = store();
        let mut slices = WindowTable::<u64, u64>::open(&store, &spec).expect("memory can be had");
        let (mut keys, mut hashes) = (Vec::new(), Vec::new());
        let mut stream = Keys::below(count);
        let slice = Timestamp::from_millis(2_000);
        group.bench_function(BenchmarkId::new("batch into a slice", count), |bencher| {
            bencher.iter(|| {
                stream.fill(&mut keys, &mut hashes);
                slices.modify_batch(|_| slice, &hashes, |i| &keys[i], || 0, |_, n| *n += 1);
            });
        });
    }
    group.finish();
}

fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers");
    group.throughput(Throughput::Elements(BATCH as u64));
    let (store, spec) = store();
    let mut timers = Timers::<u64>::open(&store, &spec).expect("memory can be had");
    let (mut keys, mut hashes) = (Vec::new(), Vec::new());
    let mut stream = Keys::below(KEYS[1]);
    // As many wait as a job with a timer per key may have.
    let waiting = Timestamp::from_millis(i64::from(u32::MAX));
    for key in 0..10_000 {
        timers.register(waiting, hash_key(&key), &key);
    }
    let mut now = 0;
    group.bench_function("register and fire", |bencher| {
        bencher.iter(|| {
            stream.fill(&mut keys, &mut hashes);
            for (i, (key, hash)) in keys.iter().zip(&hashes).enumerate() {
                timers.register(
                    Timestamp::from_nanos(now + (i as i64 * 7_919) % 10_007),
                    *hash,
                    key,
                );
            }
            now += 10_007;
            let mut fired = 0;
            timers.pop_until(Timestamp::from_nanos(now), |_, _, _| fired += 1);
            fired
        });
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = short();
    targets = key_group, read_modify_write, window_add, timers
}
criterion_main!(benches);
