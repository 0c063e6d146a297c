//! Keys, their hash, and the key groups in which keyed state is moved.

use crate::SubtaskIndex;
use std::hash::{Hash, Hasher};
use std::ops::Range;

/// The number of key groups of a job that names none.
pub const DEFAULT_MAX_PARALLELISM: u16 = 128;
/// The greatest number of key groups of a job.
pub const MAX_PARALLELISM_LIMIT: u16 = 32_768;

/// The unit in which keyed state is partitioned and moved: all keys with the same
/// `hash × max_parallelism >> 64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u16);

impl KeyGroup {
    /// The group of a key with this hash.
    ///
    /// Multiplies instead of taking a remainder (Lemire, arXiv:1805.10941): one multiplication,
    /// and it uses the hash's high bits, which leaves the low ones to hash tables.
    #[inline]
    pub fn of(hash: u64, max_parallelism: u16) -> Self {
        // Fits u16: the product's high half is below `max_parallelism`.
        Self(((u128::from(hash) * u128::from(max_parallelism)) >> 64) as u16)
    }
}

/// A contiguous range of key groups: what one subtask owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGroupRange(pub Range<u16>);

impl KeyGroupRange {
    /// True if the group lies in the range.
    pub fn contains(&self, group: KeyGroup) -> bool {
        self.0.contains(&group.0)
    }
}

/// Maps key groups to subtasks.
///
/// The ranges are contiguous and differ in size by at most one, so that a rescale moves whole key
/// groups and never splits one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGroupAssignment {
    parallelism: u16,
    max_parallelism: u16,
}

impl KeyGroupAssignment {
    /// `None` unless `1 <= parallelism <= max_parallelism <= 32,768`.
    pub fn new(parallelism: u16, max_parallelism: u16) -> Option<Self> {
        (max_parallelism <= MAX_PARALLELISM_LIMIT && (1..=max_parallelism).contains(&parallelism))
            .then_some(Self { parallelism, max_parallelism })
    }

    /// The number of key groups.
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// The number of subtasks.
    pub fn parallelism(&self) -> u16 {
        self.parallelism
    }

    /// The subtask that owns a group.
    ///
    /// # Panics
    /// If the group is not below the number of key groups.
    #[inline]
    pub fn owner(&self, group: KeyGroup) -> SubtaskIndex {
        assert!(group.0 < self.max_parallelism, "key group {} out of range", group.0);
        SubtaskIndex(
            u32::from(group.0) * u32::from(self.parallelism) / u32::from(self.max_parallelism),
        )
    }

    /// The groups that a subtask owns.
    ///
    /// # Panics
    /// If the subtask is not below the parallelism.
    pub fn range(&self, subtask: SubtaskIndex) -> KeyGroupRange {
        let (p, max) = (u32::from(self.parallelism), u32::from(self.max_parallelism));
        assert!(subtask.0 < p, "subtask {subtask} out of range");
        let first = |i: u32| (i * max).div_ceil(p) as u16;
        KeyGroupRange(first(subtask.0)..first(subtask.0 + 1))
    }

    /// The owner of each group, by group: the look-up table of a partitioner.
    pub fn owners(&self) -> Vec<u16> {
        (0..self.max_parallelism).map(|g| self.owner(KeyGroup(g)).0 as u16).collect()
    }
}

/// The hash of a key, the same in every process and on every host: it decides the key group, so
/// it is part of the format of state.
///
/// Complexity: one 64 × 64 → 128-bit multiplication per eight bytes.
#[inline]
pub fn hash_key<K: Hash + ?Sized>(key: &K) -> u64 {
    let mut hasher = KeyHasher::default();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The hasher behind [`hash_key`]. Not keyed, so not proof against keys that an adversary chose to
/// collide.
///
/// Integers are multiplied by an odd constant (Knuth's multiplicative hashing): consecutive ones,
/// which identifiers often are, then spread over the upper bits more evenly than chance would, so
/// that hash tables probe less. Strings take the folded multiplication of wyhash (Wang Yi). The upper
/// bits are the good ones: the key group is made of the highest, hash tables should take those
/// below.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher(u64);

const SEED: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Default for KeyHasher {
    #[inline]
    fn default() -> Self {
        Self(SEED)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl KeyHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        // A product's bits depend on the factors' lower bits only, so the upper half is brought
        // down before.
        self.0 = self.0.wrapping_add(word ^ (word >> 32)).wrapping_mul(FACTOR);
    }

    #[inline]
    fn mix_text(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word, FACTOR);
    }
}

impl Hasher for KeyHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix_text(u64::from_le_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.mix_text(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
        }
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }
    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.mix(u64::from(n));
    }
    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.mix(u64::from(n));
    }
    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }
    #[inline]
    fn write_u128(&mut self, n: u128) {
        self.mix(n as u64);
        self.mix((n >> 64) as u64);
    }
    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_partition_the_groups_and_agree_with_owner(p in 1u16..300, extra in 0u16..3000) {
            let a = KeyGroupAssignment::new(p, p + extra).unwrap();
            let mut next = 0;
            for s in 0..p {
                let KeyGroupRange(range) = a.range(SubtaskIndex(u32::from(s)));
                prop_assert_eq!(range.start, next);
                for g in range.clone() {
                    prop_assert_eq!(a.owner(KeyGroup(g)), SubtaskIndex(u32::from(s)));
                }
                next = range.end;
            }
            prop_assert_eq!(next, p + extra);
        }
    }

    #[test]
    fn parallelism_beyond_the_key_groups_is_refused() {
        assert!(KeyGroupAssignment::new(129, 128).is_none());
        assert!(KeyGroupAssignment::new(0, 128).is_none());
        assert!(KeyGroupAssignment::new(1, 32_769).is_none());
    }

    /// Counts keys by group, and by the bits that a hash table of 128 places would take.
    fn spread(keys: impl Iterator<Item = u64>) -> impl Iterator<Item = u32> {
        let (mut groups, mut places) = ([0u32; 128], [0u32; 128]);
        for hash in keys {
            groups[usize::from(KeyGroup::of(hash, 128).0)] += 1;
            places[(hash >> 38 & 127) as usize] += 1;
        }
        groups.into_iter().chain(places)
    }

    #[test]
    fn integers_in_steps_of_any_power_of_two_spread_evenly() {
        for shift in [0, 1, 4, 10, 20, 32, 40, 46] {
            for n in spread((0u64..128_000).map(|k| hash_key(&(k << shift)))) {
                assert!((700..1_300).contains(&n), "{n} of an expected 1,000, shift {shift}");
            }
        }
    }

    #[test]
    fn texts_and_pairs_spread_evenly() {
        for n in spread((0u64..128_000).map(|k| hash_key(&format!("user-{k}")))) {
            assert!((800..1_200).contains(&n), "{n} of an expected 1,000");
        }
        for n in spread((0u64..128_000).map(|k| hash_key(&(k % 356, k / 356)))) {
            assert!((800..1_200).contains(&n), "{n} of an expected 1,000");
        }
    }

    #[test]
    fn the_hash_is_part_of_the_format_and_does_not_change() {
        // A change here makes all state that was ever written unreadable.
        assert_eq!(hash_key(&42u64), 17_076_651_812_865_198_273);
        assert_eq!(hash_key("millstream"), 14_526_911_006_492_730_087);
    }
}
