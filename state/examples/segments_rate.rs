//! How fast is a store of segments, and how fast could it be?
//!
//! Adds one to a counter in a value of 16 bytes under a random key of 8, in batches, with the store
//! and with a loop written by hand over the same structure (an index of tagged addresses, a log in
//! huge pages, both prefetched), in turns. Ceiling: two cache misses per operation, of which 10 to
//! 12 overlap.
//!
//! `cargo run --release -p millstream-state --example segments_rate -- KEYS ROUNDS [zipf]`

use millstream_state::{
    Found, MemberIndex, SegmentTable, SegmentsBackend, StoreScope, TableSpec, Update,
};
use millstream_types::{KeyGroup, KeyGroupRange, SlotIndex, Timestamp, hash_key};
use std::time::{Duration, Instant};

const BATCH: usize = 1024;
const OPERATIONS: usize = 8 << 20;
const BLOCK: usize = 32;

/// Steele, Lea and Flood's SplitMix64.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Keys that are drawn evenly, or with the exponent 0.99 (Gray et al., SIGMOD 1994).
fn draws(keys: u64, zipf: bool) -> Vec<u64> {
    let even = |i: u64| (mix(i ^ 0x5eed) >> 11) as f64 / (1u64 << 53) as f64;
    let theta = 0.99;
    let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
    let (all, two) = if zipf { (zeta(keys), zeta(2)) } else { (0.0, 0.0) };
    let alpha = 1.0 / (1.0 - theta);
    let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - theta)) / (1.0 - two / all);
    (0..OPERATIONS as u64)
        .map(|i| {
            let u = even(i);
            let rank = if !zipf {
                (u * keys as f64) as u64
            } else if u * all < 1.0 {
                0
            } else if u * all < two {
                1
            } else {
                (keys as f64 * (eta * u - eta + 1.0).powf(alpha)) as u64
            };
            mix(rank.min(keys - 1))
        })
        .collect()
}

/// Index and log by hand: no growth, no removal, no other tables.
struct ByHand {
    index: Vec<u64>,
    shift: u32,
    log: Vec<[u64; 4]>,
}

impl ByHand {
    fn new(keys: u64) -> Self {
        let slots = (keys * 3 / 2).next_power_of_two().max(8);
        let mut log = Vec::with_capacity(keys as usize + 1);
        in_huge_pages(&log);
        log.push([0; 4]);
        let mut index = Vec::with_capacity(slots as usize);
        in_huge_pages(&index);
        index.resize(slots as usize, 0);
        Self { index, shift: 64 - slots.trailing_zeros(), log }
    }

    fn home(&self, hash: u64) -> usize {
        ((hash << 16) >> self.shift) as usize
    }

    fn find(&self, hash: u64) -> usize {
        let mut at = self.home(hash);
        while self.index[at] != 0 && self.index[at] >> 48 != hash >> 48 {
            at = (at + 1) & (self.index.len() - 1);
        }
        at
    }

    fn add(&mut self, hash: u64, key: u64) {
        let mut at = self.find(hash);
        loop {
            let slot = self.index[at];
            if slot == 0 {
                self.index[at] = hash >> 48 << 48 | self.log.len() as u64;
                self.log.push([hash, key, 1, 0]);
                return;
            }
            let record = (slot << 16 >> 16) as usize;
            if slot >> 48 == hash >> 48 && self.log[record][1] == key {
                self.log[record][2] += 1;
                return;
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    fn batch(&mut self, keys: &[u64]) {
        let mut hashes = [0; BATCH];
        hashes.iter_mut().zip(keys).for_each(|(hash, key)| *hash = hash_key(key));
        for start in (0..keys.len()).step_by(BLOCK) {
            let block = start..keys.len().min(start + BLOCK);
            hashes[block.clone()].iter().for_each(|hash| ask(&self.index[self.home(*hash)]));
            hashes[block.clone()].iter().for_each(|hash| {
                ask(&self.log[(self.index[self.find(*hash)] << 16 >> 16) as usize]);
            });
            block.for_each(|i| self.add(hashes[i], keys[i]));
        }
    }
}

/// Asks for huge pages for memory that is not touched yet.
#[expect(unsafe_code, reason = "advice to the kernel")]
fn in_huge_pages<T>(memory: &Vec<T>) {
    const PAGE: usize = 4096;
    let (start, len) = (memory.as_ptr().addr(), memory.capacity() * size_of::<T>());
    let skip = start.next_multiple_of(PAGE) - start;
    if len > skip {
        // SAFETY: within the allocation; advice changes no content.
        unsafe {
            let first = memory.as_ptr().cast::<u8>().add(skip);
            libc::madvise(first.cast_mut().cast(), len - skip, libc::MADV_HUGEPAGE);
        }
    }
}

#[expect(unsafe_code, reason = "a hint to the processor")]
fn ask<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    let _ = place;
}

fn batch(table: &mut SegmentTable, keys: &[u64]) {
    let mut names = [[0; 8]; BATCH];
    names.iter_mut().zip(keys).for_each(|(name, key)| *name = key.to_le_bytes());
    let mut hashes = [0; BATCH];
    hashes.iter_mut().zip(keys).for_each(|(hash, key)| *hash = hash_key(key));
    let hashes = &hashes[..keys.len()];
    let named = |i: usize| (KeyGroup::of(hashes[i], 128), &names[i][..]);
    let add_one = |_, found: Found<'_>, new: &mut millstream_state::AlignedVec| match found {
        Found::Mutable(value) => {
            let (count, _) = value.split_at_mut(8);
            let n = u64::from_le_bytes(count.try_into().expect("eight bytes")) + 1;
            count.copy_from_slice(&n.to_le_bytes());
            Update::Keep
        }
        found => {
            let count = found
                .value()
                .map_or(0, |value| u64::from_le_bytes(value[..8].try_into().expect("eight bytes")));
            new.extend_from_slice(&(count + 1).to_le_bytes());
            new.extend_from_slice(&[0; 8]);
            Update::Write
        }
    };
    table.modify_batch(Timestamp::MIN, hashes, named, add_one).expect("memory enough");
}

fn timed(keys: &[u64], mut f: impl FnMut(&[u64])) -> Duration {
    let start = Instant::now();
    keys.chunks(BATCH).for_each(&mut f);
    start.elapsed()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: u64| arguments.get(i).and_then(|n| n.parse().ok()).unwrap_or(or);
    let (keys, rounds) = (number(0, 10_000_000), number(1, 5));
    let draws = draws(keys, arguments.iter().any(|a| a == "zipf"));
    let all: Vec<u64> = (0..keys).map(mix).collect();
    let mut store = SegmentsBackend::new()
        .open_store(StoreScope::new(SlotIndex(0)))
        .expect("a store in memory");
    let spec = TableSpec::new("count", "counts", KeyGroupRange(0..128), 128);
    let mut table = store.segment_table(MemberIndex(0), &spec).expect("a table");
    let mut by_hand = ByHand::new(keys);
    let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64() / 1e6;
    let filled = timed(&all, |keys| batch(&mut table, keys));
    println!("fill: {:.1} M/s", rate(all.len(), filled));
    all.chunks(BATCH).for_each(|keys| by_hand.batch(keys));
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let hand = rate(draws.len(), timed(&draws, |keys| by_hand.batch(keys)));
        let ours = rate(draws.len(), timed(&draws, |keys| batch(&mut table, keys)));
        println!("by hand {hand:.1} M/s, segments {ours:.1} M/s, ratio {:.2}", ours / hand);
        ratios.push(ours / hand);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ratios.len() / 2]);
    println!("{:?}", store.stats());
}
