//! Rows: the batch of the DataStream API.

mod codec;
mod values;

pub(crate) use codec::RowsCodec;

use millstream_types::{Batch, Timestamp};
use std::fmt;
use values::Values;

/// Records in the order in which they were emitted, with their timestamps.
///
/// # Invariant
/// There are as many timestamps as values, or none: a stream without event time carries none.
#[derive(Clone)]
pub struct Rows<T> {
    values: Values<T>,
    timestamps: Vec<Timestamp>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { values: Values::new(Vec::new()), timestamps: Vec::new() }
    }
}

impl<T> Rows<T> {
    /// An empty batch with room for `capacity` values.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { values: Values::new(Vec::with_capacity(capacity)), timestamps: Vec::new() }
    }

    /// Appends a record; [`Timestamp::MIN`] means that it has no timestamp.
    #[inline(always)]
    pub fn push(&mut self, value: T, timestamp: Timestamp) {
        if timestamp.is_some() || !self.timestamps.is_empty() {
            if self.timestamps.len() != self.values.len() {
                self.timestamps.resize(self.values.len(), Timestamp::MIN);
            }
            self.timestamps.push(timestamp);
        }
        self.values.push(value);
    }

    /// The number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// True if there are no records.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, in order.
    #[inline]
    pub fn values(&self) -> &[T] {
        self.values.as_slice()
    }

    /// The timestamp of the record at `index`, or [`Timestamp::MIN`].
    ///
    /// # Panics
    /// If the batch carries timestamps and `index` is out of range.
    #[inline]
    pub fn timestamp(&self, index: usize) -> Timestamp {
        if self.timestamps.is_empty() { Timestamp::MIN } else { self.timestamps[index] }
    }

    /// Takes all records out, in order, and keeps the memory.
    ///
    /// One loop for both kinds of batches, so that `each` is called from one place and the whole
    /// chain is inlined into the loop. What is tested per record is the same for the whole batch. If
    /// `each` unwinds, the batch is of no more use.
    #[inline(always)]
    pub fn drain_each(&mut self, mut each: impl FnMut(T, Timestamp)) {
        let timestamps = &self.timestamps;
        debug_assert!(timestamps.is_empty() || timestamps.len() == self.values.len());
        self.values.drain_each(|index, value| {
            each(value, timestamps.get(index).copied().unwrap_or(Timestamp::MIN));
        });
        self.timestamps.clear();
    }
}

impl<T: PartialEq> PartialEq for Rows<T> {
    fn eq(&self, other: &Self) -> bool {
        self.values() == other.values() && self.timestamps == other.timestamps
    }
}

impl<T: Eq> Eq for Rows<T> {}

impl<T: fmt::Debug> fmt::Debug for Rows<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("values", &self.values())
            .field("timestamps", &self.timestamps)
            .finish()
    }
}

impl<T: Send + 'static> Batch for Rows<T> {
    fn len(&self) -> usize {
        self.values.len()
    }

    fn clear(&mut self) {
        self.values.clear();
        self.timestamps.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_a_timestamp_among_others_keeps_its_place() {
        let mut rows = Rows::with_capacity(4);
        rows.push('a', Timestamp::MIN);
        rows.push('b', Timestamp::from_nanos(7));
        rows.push('c', Timestamp::MIN);
        let mut seen = Vec::new();
        rows.drain_each(|v, t| seen.push((v, t)));
        let expected =
            [('a', Timestamp::MIN), ('b', Timestamp::from_nanos(7)), ('c', Timestamp::MIN)];
        assert_eq!(seen, expected);
        assert!(rows.is_empty());
    }
}
