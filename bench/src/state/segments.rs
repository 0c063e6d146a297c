//! The store `segments`, alone: no job, no checkpoints.

use super::BATCH;
use crate::BenchError;
use millstream_state::{
    AlignedVec, Found, MemberIndex, SegmentStore, SegmentTable, SegmentsBackend, StateError,
    StoreScope, TableSpec, Update,
};
use millstream_types::{KeyGroup, KeyGroupRange, SlotIndex, Timestamp, hash_key};
use std::path::Path;

const KEY_GROUPS: u16 = 128;
const COUNTER_BYTES: usize = size_of::<u64>();

pub(super) struct Segments {
    table: SegmentTable,
    value_bytes: usize,
    store: SegmentStore,
}

impl Segments {
    /// In memory alone, or with its files in a folder and so much memory.
    pub(super) fn new(value_bytes: usize, limit: Option<(&Path, u64)>) -> Result<Self, BenchError> {
        let mut scope = StoreScope::new(SlotIndex(0));
        if let Some((folder, bytes)) = limit {
            std::fs::create_dir_all(folder).map_err(|source| {
                BenchError::write(&folder.display().to_string(), "make it", source)
            })?;
            scope.directory = Some(folder.to_owned());
            scope.memory_bytes = bytes;
        }
        let mut store = SegmentsBackend::new().open_store(scope)?;
        let spec = TableSpec::new("count", "counts", KeyGroupRange(0..KEY_GROUPS), KEY_GROUPS);
        let table = store.segment_table(MemberIndex(0), &spec)?;
        Ok(Self { table, value_bytes, store })
    }

    /// How often this thread has waited for a page.
    pub(super) fn major_faults(&self) -> u64 {
        self.store.stats().major_faults
    }

    /// Adds one to the counter at the beginning of each key's value, and returns the sum of the new ones.
    pub(super) fn batch(&mut self, keys: &[u64]) -> Result<u64, StateError> {
        let mut names = [[0; size_of::<u64>()]; BATCH];
        names.iter_mut().zip(keys).for_each(|(name, key)| *name = key.to_le_bytes());
        let mut hashes = [0; BATCH];
        hashes.iter_mut().zip(keys).for_each(|(hash, key)| *hash = hash_key(key));
        let hashes = &hashes[..keys.len()];
        let (mut sum, value_bytes) = (0_u64, self.value_bytes);
        let name = |i: usize| (KeyGroup::of(hashes[i], KEY_GROUPS), &names[i][..]);
        self.table.modify_batch(Timestamp::MIN, hashes, name, |_, found, new| {
            let (count, update) = add_one(found, new, value_bytes);
            sum = sum.wrapping_add(count);
            update
        })?;
        Ok(sum)
    }
}

#[inline]
fn add_one(found: Found<'_>, new: &mut AlignedVec, value_bytes: usize) -> (u64, Update) {
    match found {
        Found::Mutable(value) => {
            let (counter, _) = value.split_at_mut(COUNTER_BYTES);
            let count = counter_of(counter) + 1;
            counter.copy_from_slice(&count.to_le_bytes());
            (count, Update::Keep)
        }
        found => {
            match found.value() {
                Some(value) => new.extend_from_slice(value),
                None => new.resize(value_bytes, 0),
            }
            let count = counter_of(new) + 1;
            new[..COUNTER_BYTES].copy_from_slice(&count.to_le_bytes());
            (count, Update::Write)
        }
    }
}

#[inline]
fn counter_of(value: &[u8]) -> u64 {
    let bytes = value.first_chunk().expect("values begin with a counter");
    u64::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_in_memory_and_in_a_folder_that_it_makes() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("folder");
        for limit in [None, Some((folder.as_path(), 16 << 20))] {
            let mut segments = Segments::new(16, limit).unwrap();
            assert_eq!(segments.batch(&[1, 2, 1]).unwrap(), 1 + 1 + 2);
            assert_eq!(segments.batch(&[1]).unwrap(), 3);
        }
    }
}
