//! A hierarchical timing wheel over all of time.

use hashbrown::HashTable;
use millstream_types::Timestamp;

const DIGIT_BITS: u32 = 6;
const BUCKET_COUNT: usize = 1 << DIGIT_BITS;
const LEVEL_COUNT: usize = u64::BITS.div_ceil(DIGIT_BITS) as usize;
/// How many emptied hash tables are kept for other buckets.
const SPARE_COUNT_MAX: usize = BUCKET_COUNT;

/// Timers in buckets that are ordered by time, each an unordered hash set.
///
/// Times are numbers of eleven digits to the base 64. A timer's level is the highest digit in which
/// its time differs from the wheel's start, and its bucket there is the value of that digit: near
/// the start a bucket is a nanosecond wide, and far from it years (Varghese and Lauck 1987, scheme
/// 7, without its bound on the intervals). Because the place follows from the time alone, a timer
/// is found again without a search. When the first bucket is too large to be handed out, the wheel
/// starts anew at its earliest time, which spreads it over the levels below and moves no other.
///
/// # Invariants
/// - No time is before the start.
/// - A bit of `occupied` is set exactly if the bucket is not empty.
pub(super) struct Wheel<K> {
    start: u64,
    levels: [Level<K>; LEVEL_COUNT],
    spare: Vec<Bucket<K>>,
    len: usize,
}

type Bucket<K> = HashTable<(Timestamp, u64, K)>;

struct Level<K> {
    occupied: u64,
    /// All or none.
    buckets: Vec<Bucket<K>>,
}

/// The same order, without a sign.
#[inline]
fn tick(time: Timestamp) -> u64 {
    (time.as_nanos() as u64) ^ (1 << 63)
}

#[inline]
fn time(tick: u64) -> Timestamp {
    Timestamp::from_nanos((tick ^ (1 << 63)) as i64)
}

/// A hash of a timer, from that of its key.
///
/// The upper half comes first: it is where a product is well mixed, and the highest bits of a key's
/// hash are the same within a key group.
#[inline]
fn spread(time: Timestamp, hash: u64) -> u64 {
    (hash ^ (time.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(32)
}

impl<K: Eq + Clone> Wheel<K> {
    pub fn new() -> Self {
        Self {
            start: 0,
            levels: std::array::from_fn(|_| Level { occupied: 0, buckets: Vec::new() }),
            spare: Vec::new(),
            len: 0,
        }
    }

    /// Sets the start of an empty wheel. The closer it is to the times to come the better.
    pub fn start_at(&mut self, start: Timestamp) {
        assert!(self.is_empty(), "timers would be in the wrong buckets");
        self.start = tick(start);
    }

    /// No timer may be before this time.
    pub fn start(&self) -> Timestamp {
        time(self.start)
    }

    #[inline]
    fn place(&self, time: Timestamp) -> (usize, usize) {
        let tick = tick(time);
        debug_assert!(tick >= self.start);
        let level = (tick ^ self.start | 1).ilog2() / DIGIT_BITS;
        let digit = tick >> (level * DIGIT_BITS) & (BUCKET_COUNT as u64 - 1);
        (level as usize, digit as usize)
    }

    /// False if it is there already.
    #[inline]
    pub fn insert(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        let (level, digit) = self.place(time);
        let level = &mut self.levels[level];
        if level.occupied & 1 << digit == 0 {
            level.occupy(digit, &mut self.spare);
        }
        let bucket = &mut level.buckets[digit];
        let spread = spread(time, hash);
        if bucket.find(spread, |(t, h, k)| (*t, *h) == (time, hash) && k == key).is_some() {
            return false;
        }
        bucket.insert_unique(spread, (time, hash, key.clone()), rehash);
        self.len += 1;
        true
    }

    /// False if it is not there.
    #[inline]
    pub fn remove(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        if self.is_empty() {
            return false;
        }
        let (level, digit) = self.place(time);
        let level = &mut self.levels[level];
        let Some(bucket) = level.buckets.get_mut(digit) else { return false };
        let same = |(t, h, k): &(Timestamp, u64, K)| (*t, *h) == (time, hash) && k == key;
        let Ok(entry) = bucket.find_entry(spread(time, hash), same) else { return false };
        entry.remove();
        self.len -= 1;
        if bucket.is_empty() {
            let bucket = level.vacate(digit);
            self.recycle(bucket, 0);
        }
        true
    }

    /// Divides the first bucket until it holds at most `count_max` timers, or timers of one time
    /// only. Returns this time if there are more of them.
    ///
    /// # Panics
    /// If the wheel is empty.
    pub fn settle(&mut self, count_max: usize) -> Option<Timestamp> {
        loop {
            let (level, digit) = self.first_bucket();
            let bucket = &self.levels[level].buckets[digit];
            if bucket.len() <= count_max {
                return None;
            }
            if level == 0 {
                return bucket.iter().map(|(time, ..)| *time).next();
            }
            let mut bucket = self.levels[level].vacate(digit);
            let earliest = bucket.iter().map(|(time, ..)| tick(*time)).min();
            self.start = earliest.expect("an occupied bucket is not empty");
            let count = bucket.len();
            self.len -= count;
            for (time, hash, key) in bucket.drain() {
                self.insert(time, hash, &key);
            }
            self.recycle(bucket, count);
        }
    }

    /// Settles, removes the timers of the first bucket and returns them with the bucket's last
    /// time. All others are later.
    ///
    /// # Panics
    /// If the wheel is empty.
    pub fn take_first(&mut self, count_max: usize) -> (Vec<(Timestamp, u64, K)>, Timestamp) {
        self.settle(count_max);
        let (level, digit) = self.first_bucket();
        let mut bucket = self.levels[level].vacate(digit);
        let timers: Vec<_> = bucket.drain().collect();
        self.len -= timers.len();
        self.recycle(bucket, timers.len());
        let shift = level as u32 * DIGIT_BITS;
        // The highest digit has fewer bits, and none above it.
        let above = self.start.checked_shr(shift + DIGIT_BITS).unwrap_or(0);
        let bucket = above << DIGIT_BITS | digit as u64;
        (timers, time(bucket << shift | ((1 << shift) - 1)))
    }

    fn first_bucket(&self) -> (usize, usize) {
        let level = self.levels.iter().position(|level| level.occupied != 0);
        let level = level.expect("the wheel is not empty");
        (level, self.levels[level].occupied.trailing_zeros() as usize)
    }

    /// Keeps an empty table for another bucket, unless it is much larger than what was in it.
    fn recycle(&mut self, bucket: Bucket<K>, count: usize) {
        if self.spare.len() < SPARE_COUNT_MAX && count >= bucket.capacity() / 8 {
            self.spare.push(bucket);
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// All timers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, u64, &K)> {
        let buckets = self.levels.iter().flat_map(|level| &level.buckets);
        buckets.flatten().map(|(time, hash, key)| (*time, *hash, key))
    }
}

impl<K> Level<K> {
    #[cold]
    fn occupy(&mut self, digit: usize, spare: &mut Vec<Bucket<K>>) {
        if self.buckets.is_empty() {
            self.buckets.resize_with(BUCKET_COUNT, HashTable::new);
        }
        self.occupied |= 1 << digit;
        self.buckets[digit] = spare.pop().unwrap_or_default();
    }

    fn vacate(&mut self, digit: usize) -> Bucket<K> {
        self.occupied &= !(1 << digit);
        std::mem::take(&mut self.buckets[digit])
    }
}

#[inline]
fn rehash<K>((time, hash, _): &(Timestamp, u64, K)) -> u64 {
    spread(*time, *hash)
}
