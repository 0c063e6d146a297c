//! The lengths of records that have been read, so that they need not be read again.

use super::address::{Address, RECORD_ALIGNMENT};

/// Where the records of some segments begin and end: a bit for each 16 bytes, so less than a
/// hundredth of the segments' size.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    /// The number of the first segment.
    first: u32,
    bounds: Vec<Box<[u64]>>,
}

impl Lengths {
    /// Of no segment yet; the next one added has this number.
    pub fn new(first: u32) -> Self {
        Self { first, bounds: Vec::new() }
    }

    /// Adds the next segment, of so many bytes.
    pub fn add_segment(&mut self, bytes: usize) {
        let words = bytes / RECORD_ALIGNMENT / 64 + 1;
        self.bounds.push(vec![0; words].into());
    }

    /// Notes a record of the segment that was added last.
    #[inline]
    pub fn add_record(&mut self, offset: usize, len: usize) {
        let Some(bounds) = self.bounds.last_mut() else { return };
        for at in [offset / RECORD_ALIGNMENT, (offset + len) / RECORD_ALIGNMENT] {
            bounds[at / 64] |= 1 << (at % 64);
        }
    }

    /// The length of a record that was noted; 0 of one that was not.
    pub fn of(&self, record: Address) -> u64 {
        let segment = record.segment().checked_sub(self.first);
        let Some(bounds) = segment.and_then(|n| self.bounds.get(n as usize)) else { return 0 };
        let start = record.offset() / RECORD_ALIGNMENT;
        // Of the first word, what lies behind the beginning.
        let mut mask = !(u64::MAX >> (63 - start % 64));
        for (at, word) in bounds.iter().enumerate().skip(start / 64) {
            let ends = word & mask;
            if ends != 0 {
                let end = at * 64 + ends.trailing_zeros() as usize;
                return ((end - start) * RECORD_ALIGNMENT) as u64;
            }
            mask = u64::MAX;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_record_has_the_length_that_was_noted(
            segments in prop::collection::vec(
                prop::collection::vec((1usize..300, 0usize..9), 1..60), 1..4,
            ),
        ) {
            let mut lengths = Lengths::new(7);
            let mut records = Vec::new();
            for (number, segment) in (7..).zip(segments) {
                let bytes: usize = segment.iter().map(|(len, gap)| (len + gap) * 16).sum();
                lengths.add_segment(4096 + bytes);
                let mut at = 4096;
                for (len, gap) in segment {
                    lengths.add_record(at, len * 16);
                    records.push((Address::new(number, at), len as u64 * 16));
                    // The end of an extent.
                    at += (len + gap) * 16;
                }
            }
            for (record, len) in records {
                prop_assert_eq!(lengths.of(record), len);
            }
            prop_assert_eq!(lengths.of(Address::new(3, 4096)), 0);
        }
    }
}
