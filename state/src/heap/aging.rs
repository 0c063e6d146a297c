//! A hash table of which parts expire.

use super::HeapTable;
use crate::Key;
use millstream_types::Timestamp;

/// How many places of a table are looked at for what has expired, at each write. As a table is at
/// most seven eighths full and doubles then, a round of so many ends before it would double once
/// more: what has expired never makes it grow.
pub(crate) const PLACES_PER_WRITE: usize = 4;

/// What expires.
pub(crate) trait Perishable {
    /// From when on all of it has expired.
    fn expiry(&self) -> Timestamp;

    /// Takes steps to drop what has expired in it by `now`, while not all of it has. Returns how much
    /// it was.
    fn tidy(&mut self, now: Timestamp) -> u64 {
        let _ = now;
        0
    }

    /// How many values it holds.
    fn count(&self) -> u64 {
        1
    }
}

/// A table that is swept for what has expired, a few places at a time: so what is never asked for
/// again is freed, too.
pub(crate) struct AgingTable<K, E> {
    entries: HeapTable<K, E>,
    /// The place at which the sweep goes on.
    cursor: usize,
}

impl<K, E> Default for AgingTable<K, E> {
    fn default() -> Self {
        Self { entries: HeapTable::default(), cursor: 0 }
    }
}

impl<K: Key, E: Perishable> AgingTable<K, E> {
    pub fn entries(&self) -> &HeapTable<K, E> {
        &self.entries
    }

    pub fn entries_mut(&mut self) -> &mut HeapTable<K, E> {
        &mut self.entries
    }

    /// Looks at the next `places` and drops what has expired by `now`. Returns how many values that
    /// were.
    pub fn sweep(&mut self, now: Timestamp, places: usize) -> u64 {
        let mut dropped = 0;
        let total = self.entries.places();
        for _ in 0..places.min(total) {
            if self.cursor >= total {
                self.cursor = 0;
            }
            self.entries.visit_place(self.cursor, |entry| {
                if entry.expiry() <= now {
                    dropped += entry.count();
                    return false;
                }
                dropped += entry.tidy(now);
                true
            });
            self.cursor += 1;
        }
        dropped
    }

    /// Drops everything of which all has expired by `now`. Returns how many values that were.
    pub fn sweep_all(&mut self, now: Timestamp) -> u64 {
        let mut dropped = 0;
        self.entries.retain(|_, entry| {
            let keep = entry.expiry() > now;
            dropped += if keep { 0 } else { entry.count() };
            keep
        });
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::hash_key;

    struct Until(Timestamp);

    impl Perishable for Until {
        fn expiry(&self) -> Timestamp {
            self.0
        }
    }

    #[test]
    fn what_is_never_asked_for_again_does_not_make_the_table_grow() {
        let mut table = AgingTable::default();
        const LIVE: u64 = 1000;
        for key in 0..100 * LIVE {
            let now = Timestamp::from_nanos(key as i64);
            let until = Until(Timestamp::from_nanos((key + LIVE) as i64));
            table.entries_mut().insert(hash_key(&key), &key, until);
            table.sweep(now, PLACES_PER_WRITE);
            assert!(table.entries().len() <= 2 * LIVE as usize, "{}", table.entries().len());
        }
        assert!(table.entries().capacity() <= 4 * LIVE as usize);
        assert!(table.sweep_all(Timestamp::from_nanos(100 * LIVE as i64 + 500)) > 0);
        assert_eq!(table.entries().len(), 499);
    }
}
