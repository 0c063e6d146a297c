//! What a store can be measured against: an index and a log written by hand for this one loop.
//!
//! An index of tagged positions with linear probing, records of a fixed size in huge pages, both asked for
//! a block of keys ahead. No growth, no removal, no other tables, nothing durable. Two cache misses per
//! operation, of which a core overlaps 10 to 12: the ceiling for any store in memory.

mod memory;

use super::BATCH;
use memory::{ask, in_huge_pages};
use millstream_types::hash_key;

/// How many keys are asked for at a time.
const BLOCK: usize = 32;
/// The words of a record before its value: the hash and the key.
const HEADER_WORDS: usize = 2;
/// The upper bits of a slot hold as many of the hash, the others a record's number.
const TAG_SHIFT: u32 = 48;

pub(super) struct ByHand {
    /// A tag and the number of a record; 0 if empty, for which record 0 is left out.
    index: Vec<u64>,
    shift: u32,
    /// Records of `stride` words.
    log: Vec<u64>,
    stride: usize,
}

impl ByHand {
    /// With room for so many keys.
    pub(super) fn new(keys: u64, value_bytes: usize) -> Self {
        let slots = (keys * 3 / 2).next_power_of_two().max(8) as usize;
        let stride = HEADER_WORDS + value_bytes.div_ceil(size_of::<u64>());
        let mut log = Vec::with_capacity((keys as usize + 1) * stride);
        in_huge_pages(&log);
        log.resize(stride, 0);
        let mut index = Vec::with_capacity(slots);
        in_huge_pages(&index);
        index.resize(slots, 0);
        Self { index, shift: 64 - slots.trailing_zeros(), log, stride }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        ((hash << (64 - TAG_SHIFT)) >> self.shift) as usize
    }

    /// Where the record of a slot begins.
    #[inline]
    fn position(&self, slot: u64) -> usize {
        (slot & ((1 << TAG_SHIFT) - 1)) as usize * self.stride
    }

    /// The first slot that is empty or has the hash's tag.
    #[inline]
    fn find(&self, hash: u64) -> usize {
        let mut at = self.home(hash);
        while self.index[at] != 0 && self.index[at] >> TAG_SHIFT != hash >> TAG_SHIFT {
            at = (at + 1) & (self.index.len() - 1);
        }
        at
    }

    #[inline]
    fn add(&mut self, hash: u64, key: u64) -> u64 {
        let mut at = self.find(hash);
        loop {
            let slot = self.index[at];
            if slot == 0 {
                let record = (self.log.len() / self.stride) as u64;
                self.index[at] = hash >> TAG_SHIFT << TAG_SHIFT | record;
                self.log.extend_from_slice(&[hash, key, 1]);
                let end = (record as usize + 1) * self.stride;
                self.log.resize(end, 0);
                return 1;
            }
            let position = self.position(slot);
            if slot >> TAG_SHIFT == hash >> TAG_SHIFT && self.log[position + 1] == key {
                let count = &mut self.log[position + HEADER_WORDS];
                *count += 1;
                return *count;
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    /// Adds one to the counter at the beginning of each key's value, and returns the sum of the new ones.
    pub(super) fn batch(&mut self, keys: &[u64]) -> u64 {
        let mut hashes = [0; BATCH];
        hashes.iter_mut().zip(keys).for_each(|(hash, key)| *hash = hash_key(key));
        let mut sum = 0_u64;
        for start in (0..keys.len()).step_by(BLOCK) {
            let block = start..keys.len().min(start + BLOCK);
            hashes[block.clone()].iter().for_each(|hash| ask(&self.index[self.home(*hash)]));
            for hash in &hashes[block.clone()] {
                let position = self.position(self.index[self.find(*hash)]);
                ask(&self.log[position]);
            }
            block.for_each(|i| sum = sum.wrapping_add(self.add(hashes[i], keys[i])));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Distribution, all, draw};
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn it_counts_as_a_hash_table_does() {
        for value_bytes in [8, 16, 20] {
            let mut by_hand = ByHand::new(500, value_bytes);
            let mut model = HashMap::<u64, u64>::new();
            let keys: Vec<u64> = all(500).chain(draw(500, Distribution::Zipf, 5_000)).collect();
            for keys in keys.chunks(BATCH) {
                let mut expected = 0;
                for key in keys {
                    let count = model.entry(*key).or_default();
                    *count += 1;
                    expected += *count;
                }
                assert_eq!(by_hand.batch(keys), expected);
            }
        }
    }
}
