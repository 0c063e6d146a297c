//! A priority queue without duplicates, from which any element can be removed.

use super::wheel::Wheel;
use millstream_types::Timestamp;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// How many timers the ordered part holds before it hands half of them to the wheel. Few in tests,
/// so that short sequences of operations reach all there is.
const NEAR_COUNT_MAX: usize = if cfg!(test) { 6 } else { 4096 };
/// How many timers at most become near at once, unless they are of the same time.
const BUCKET_COUNT_MAX: usize = NEAR_COUNT_MAX / 2;

/// Timers in memory, by time and hash.
///
/// The next few thousand are *near*: in a B-tree, small enough for the cache. The others are *far*:
/// in a [`Wheel`], which is unordered but for its buckets, and from which a bucket at a time becomes
/// near. So a queue of a few timers is a B-tree, and in a queue of millions to register or delete
/// one costs a look-up in a hash table of those with similar times. Many timers of one time (the
/// ends of windows) are far until they fire.
///
/// # Invariants
/// - The times of near timers are at most `near_last`, those of far ones are greater.
/// - If no timer is near, `far_first` is the time of the first far one.
///
/// Complexity: expected amortised O(1) for what is far, O(log n) for what is near. If most timers
/// are registered for times before the wheel's start, they are all near and the B-tree is large.
pub(super) struct Queue<K> {
    near: BTreeMap<(Timestamp, u64), Keys<K>>,
    near_count: usize,
    near_count_max: usize,
    near_last: Timestamp,
    far: Wheel<K>,
    far_first: Option<Timestamp>,
}

/// The keys with one time and one hash: one, as good as always.
enum Keys<K> {
    One(K),
    Many(Vec<K>),
}

impl<K: Eq + Clone> Queue<K> {
    pub fn new() -> Self {
        Self {
            near: BTreeMap::new(),
            near_count: 0,
            near_count_max: NEAR_COUNT_MAX,
            near_last: Timestamp::MIN,
            far: Wheel::new(),
            far_first: None,
        }
    }

    /// False if it is there already.
    #[inline]
    pub fn insert(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        if time > self.near_last {
            if !self.far.is_empty() {
                return self.far.insert(time, hash, key);
            }
            if let Some(first) = self.first()
                && self.near_count >= NEAR_COUNT_MAX
            {
                self.far.start_at(first);
                return self.far.insert(time, hash, key);
            }
            self.near_last = time;
        }
        self.insert_near(time, hash, key)
    }

    fn insert_near(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        match self.near.entry((time, hash)) {
            Entry::Vacant(entry) => {
                entry.insert(Keys::One(key.clone()));
            }
            Entry::Occupied(mut entry) => {
                if entry.get().as_slice().contains(key) {
                    return false;
                }
                entry.get_mut().push(key.clone());
            }
        }
        self.near_count += 1;
        if self.near_count > self.near_count_max {
            self.split();
        }
        true
    }

    /// Hands the later half of the near timers to the wheel: all, if most are of the first time.
    #[cold]
    fn split(&mut self) {
        // If it cannot be done, it is worth another try when there are twice as many.
        self.near_count_max = self.near_count * 2;
        let mut times = self.near.keys().map(|(time, _)| *time);
        let (Some(first), Some(middle)) = (times.next(), times.nth(self.near.len() / 2)) else {
            return;
        };
        if self.far.is_empty() {
            self.far.start_at(first);
        }
        if middle < self.far.start() || middle == Timestamp::MIN {
            return;
        }
        for ((time, hash), keys) in self.near.split_off(&(middle, 0)) {
            self.near_count -= keys.as_slice().len();
            for key in keys.as_slice() {
                self.far.insert(time, hash, key);
            }
        }
        self.near_last = before(middle);
        self.near_count_max = NEAR_COUNT_MAX;
        self.far_first = Some(middle);
    }

    /// Finds the first far timer now that none is near. Timers that are few become near; those of
    /// one time stay where more of them are found a place soonest.
    fn settle(&mut self) {
        debug_assert!(self.near.is_empty());
        if self.far.is_empty() {
            self.far_first = None;
            return;
        }
        match self.far.settle(BUCKET_COUNT_MAX) {
            Some(time) if time != Timestamp::MIN => {
                self.near_last = before(time);
                self.far_first = Some(time);
            }
            _ => self.draw(),
        }
    }

    /// Makes the timers of the wheel's first bucket near, of which there are none.
    fn draw(&mut self) {
        let (timers, last) = self.far.take_first(BUCKET_COUNT_MAX);
        self.near_count = timers.len();
        self.near_count_max = NEAR_COUNT_MAX.max(2 * timers.len());
        self.near_last = last;
        let mut near: Vec<((Timestamp, u64), Keys<K>)> =
            timers.into_iter().map(|(time, hash, key)| ((time, hash), Keys::One(key))).collect();
        near.sort_unstable_by_key(|(at, _)| *at);
        near.dedup_by(|next, first| {
            let same = next.0 == first.0;
            if same {
                next.1.as_slice().iter().for_each(|key| first.1.push(key.clone()));
            }
            same
        });
        self.near = near.into_iter().collect();
    }

    /// False if it is not there.
    #[inline]
    pub fn remove(&mut self, time: Timestamp, hash: u64, key: &K) -> bool {
        if time > self.near_last {
            let found = self.far.remove(time, hash, key);
            if found && self.near.is_empty() && self.far_first == Some(time) {
                self.settle();
            }
            return found;
        }
        let Entry::Occupied(mut entry) = self.near.entry((time, hash)) else { return false };
        let Some(at) = entry.get().as_slice().iter().position(|k| k == key) else { return false };
        match entry.get_mut() {
            Keys::Many(keys) if keys.len() > 1 => drop(keys.remove(at)),
            _ => drop(entry.remove()),
        }
        self.near_count -= 1;
        if self.near.is_empty() {
            self.settle();
        }
        true
    }

    #[inline]
    pub fn first(&self) -> Option<Timestamp> {
        self.near.first_key_value().map(|((time, _), _)| *time).or(self.far_first)
    }

    /// Removes the first timer, if its time is not after `now`.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Timestamp, u64, K)> {
        if self.near.is_empty() && self.far_first.is_some_and(|first| first <= now) {
            self.draw();
        }
        let mut entry = self.near.first_entry()?;
        let (time, hash) = *entry.key();
        if time > now {
            return None;
        }
        let key = match entry.get_mut() {
            Keys::Many(keys) if keys.len() > 1 => keys.remove(0),
            _ => match entry.remove() {
                Keys::One(key) => key,
                Keys::Many(mut keys) => keys.pop()?,
            },
        };
        self.near_count -= 1;
        if self.near.is_empty() {
            self.settle();
        }
        Some((time, hash, key))
    }

    pub fn len(&self) -> usize {
        self.near_count + self.far.len()
    }

    /// All timers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, u64, &K)> {
        let near = self.near.iter().flat_map(|((time, hash), keys)| {
            keys.as_slice().iter().map(move |key| (*time, *hash, key))
        });
        near.chain(self.far.iter())
    }
}

/// The last time before another, which is not the first of all.
fn before(time: Timestamp) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos() - 1)
}

impl<K> Keys<K> {
    fn as_slice(&self) -> &[K] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    fn push(&mut self, key: K) {
        *self = match std::mem::replace(self, Self::Many(Vec::new())) {
            Self::One(first) => Self::Many(vec![first, key]),
            Self::Many(mut keys) => {
                keys.push(key);
                Self::Many(keys)
            }
        }
    }
}
