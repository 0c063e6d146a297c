//! fjall, an LSM tree, on a disk as it is meant to be: its journal is not synced.

use crate::BenchError;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use std::path::Path;

/// Its own default.
const MEMTABLE_BYTES: u64 = 64 << 20;

pub(super) struct Fjall {
    database: Database,
    counts: Keyspace,
    value_bytes: usize,
    /// The batch's keys, sorted.
    sorted: Vec<u64>,
    value: Vec<u8>,
}

impl Fjall {
    /// In an empty folder, with a cache of so many bytes. Where memory is limited, with small tables of
    /// what is new, of which several wait to be written at a time.
    pub(super) fn new(
        folder: &Path,
        cache: u64,
        is_limited: bool,
        value_bytes: usize,
    ) -> Result<Self, BenchError> {
        let memtable = if is_limited { cache / 16 } else { MEMTABLE_BYTES };
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        let database =
            Database::builder(folder).cache_size(cache.max(32 << 20)).open().map_err(failed)?;
        let counts = database.keyspace("counts", options).map_err(failed)?;
        Ok(Self { database, counts, value_bytes, sorted: Vec::new(), value: Vec::new() })
    }

    /// Adds one to the counter at the beginning of each key's value, and returns the sum of the new ones.
    ///
    /// Keys of a batch are sorted, each is read once and written once, and they are written as one batch:
    /// what suits this store best.
    pub(super) fn batch(&mut self, keys: &[u64]) -> Result<u64, BenchError> {
        self.sorted.clear();
        self.sorted.extend_from_slice(keys);
        self.sorted.sort_unstable();
        let mut batch = self.database.batch();
        let mut sum = 0_u64;
        for same in self.sorted.chunk_by(|a, b| a == b) {
            let key = same[0].to_be_bytes();
            self.value.clear();
            match self.counts.get(key).map_err(failed)? {
                Some(value) => self.value.extend_from_slice(&value),
                None => self.value.resize(self.value_bytes, 0),
            }
            let counter = self.value.first_chunk_mut().expect("values begin with a counter");
            let before = u64::from_le_bytes(*counter);
            let times = same.len() as u64;
            *counter = (before + times).to_le_bytes();
            sum = (1..=times).fold(sum, |sum, n| sum.wrapping_add(before + n));
            batch.insert(&self.counts, key, self.value.as_slice());
        }
        batch.commit().map_err(failed)?;
        Ok(sum)
    }
}

fn failed(error: fjall::Error) -> BenchError {
    BenchError::Peer { program: "fjall".to_owned(), reason: error.to_string() }
}
