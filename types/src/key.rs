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

/// The hasher behind [`hash_key`]: folded multiplication in the manner of wyhash (Wang Yi) and
/// foldhash. Not keyed, so not proof against keys that an adversary chose to collide.
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
        self.0 = fold(self.0 ^ word, FACTOR);
    }
}

impl Hasher for KeyHasher {
    #[inline]
    fn finish(&self) -> u64 {
        // A second fold: after one, the low bits of small integers reach the high ones badly.
        fold(self.0, 0xd6e8_feb8_6659_fd93)
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
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

    #[test]
    fn consecutive_integers_spread_evenly_over_groups_and_low_bits() {
        let (mut groups, mut low) = ([0u32; 128], [0u32; 128]);
        for k in 0u64..128_000 {
            let h = hash_key(&k);
            groups[usize::from(KeyGroup::of(h, 128).0)] += 1;
            low[(h & 127) as usize] += 1;
        }
        for n in groups.into_iter().chain(low) {
            assert!((800..1_200).contains(&n), "{n} of an expected 1,000");
        }
    }

    #[test]
    fn the_hash_is_part_of_the_format_and_does_not_change() {
        // A change here makes all state that was ever written unreadable.
        assert_eq!(hash_key(&42u64), 9083334886146592739);
        assert_eq!(hash_key("millstream"), 0);
    }
}
