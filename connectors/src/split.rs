//! Which reader reads which part of which file.
//!
//! Pure: decides from names and sizes alone, so that every reader comes to the same plan.
//!
//! # Invariants
//! - The splits of a file partition its bytes; every split belongs to exactly one reader.
//! - A reader's splits are in the order of the files and of their bytes.
//! - Readers advance through the input side by side: large files are dealt out in ranges of a few
//!   MiB, in turn. A file that is sorted by event time so costs each reader's watermark nothing,
//!   and the watermarks of all readers stay within a few ranges of each other.

use std::ops::Range;

/// The greatest range of a file that one reader reads before another takes over.
const RANGE_BYTES_MAX: u64 = 8 << 20;
/// Files below twice this size are not split.
const RANGE_BYTES_MIN: u64 = 1 << 20;
/// What a compressed byte counts for in the division of work: text shrinks to about a quarter.
const COMPRESSED_WEIGHT: u64 = 4;

/// What the plan has to know of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) size_bytes: u64,
    /// True if it can be read from any position, and every line end ends a record.
    pub(crate) is_splittable: bool,
}

/// A part of a file: all records whose first byte lies in the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The file's index in the listing.
    pub(crate) file: usize,
    /// In bytes; `None` for the whole file.
    pub(crate) range: Option<Range<u64>>,
}

/// The splits of each of `parallelism` readers; ranges of about `range_bytes`, if given.
///
/// Each split goes to the reader with the least work so far: with ranges of equal size, to each
/// in turn. Complexity: O(splits × parallelism).
pub(crate) fn plan(
    files: &[FileFacts],
    parallelism: u32,
    range_bytes: Option<u64>,
) -> Vec<Vec<Split>> {
    assert!(parallelism > 0, "a source has at least one reader");
    let total: u64 = files.iter().map(|file| file.size_bytes).sum();
    let range_bytes = range_bytes.map_or_else(
        || total.div_ceil(u64::from(parallelism)).clamp(RANGE_BYTES_MIN, RANGE_BYTES_MAX),
        |bytes| bytes.max(1),
    );
    let mut readers = vec![(0, Vec::new()); parallelism as usize];
    let mut give = |weight: u64, split| {
        let least = readers.iter_mut().min_by_key(|(work, _)| *work).expect("parallelism > 0");
        least.0 += weight;
        least.1.push(split);
    };
    for (index, file) in files.iter().enumerate() {
        if !file.is_splittable {
            // At least one, so that empty and unsized files are spread too.
            let weight = (file.size_bytes * COMPRESSED_WEIGHT).max(1);
            give(weight, Split { file: index, range: None });
        } else if parallelism == 1 || file.size_bytes <= range_bytes {
            give(file.size_bytes.max(1), Split { file: index, range: None });
        } else {
            let count = file.size_bytes.div_ceil(range_bytes);
            // Both factors are below 2^64 and their product may not be.
            let bound =
                |i: u64| (u128::from(file.size_bytes) * u128::from(i) / u128::from(count)) as u64;
            for i in 0..count {
                let range = bound(i)..bound(i + 1);
                give(range.end - range.start, Split { file: index, range: Some(range) });
            }
        }
    }
    readers.into_iter().map(|(_, splits)| splits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(size_bytes: u64) -> FileFacts {
        FileFacts { size_bytes, is_splittable: true }
    }

    #[test]
    fn a_large_file_is_dealt_out_in_ranges_in_turn() {
        let plan = plan(&[text(100 << 20)], 2, None);
        let starts = |reader: usize| -> Vec<u64> {
            plan[reader].iter().map(|s| s.range.clone().unwrap().start >> 20).collect()
        };
        assert_eq!(starts(0)[..3], [0, 15, 30]);
        assert_eq!(starts(1)[..3], [7, 23, 38]);
    }

    #[test]
    fn one_reader_reads_whole_files() {
        let plan = plan(&[text(100 << 20), text(3)], 1, None);
        let whole = |file| Split { file, range: None };
        assert_eq!(plan, [[whole(0), whole(1)]]);
    }

    #[test]
    fn compressed_files_stay_whole() {
        let gz = FileFacts { size_bytes: 100 << 20, is_splittable: false };
        let plan = plan(&[gz, gz, gz], 2, None);
        assert_eq!(plan.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert!(plan.iter().flatten().all(|split| split.range.is_none()));
    }

    proptest! {
        #[test]
        fn splits_partition_the_files_in_order(
            sizes in prop::collection::vec((0u64..5_000, any::<bool>()), 0..12),
            parallelism in 1u32..6,
            range_bytes in 1u64..3_000,
        ) {
            let files: Vec<_> = sizes
                .iter()
                .map(|&(size_bytes, is_splittable)| FileFacts { size_bytes, is_splittable })
                .collect();
            let plan = plan(&files, parallelism, Some(range_bytes));
            prop_assert_eq!(plan.len(), parallelism as usize);
            for reader in &plan {
                let order: Vec<_> =
                    reader.iter().map(|s| (s.file, s.range.clone().map_or(0, |r| r.start))).collect();
                prop_assert!(order.is_sorted());
            }
            for (index, file) in files.iter().enumerate() {
                let mut ranges: Vec<_> = plan
                    .iter()
                    .flatten()
                    .filter(|split| split.file == index)
                    .map(|split| split.range.clone().unwrap_or(0..file.size_bytes))
                    .collect();
                ranges.sort_by_key(|range| range.start);
                prop_assert_eq!(ranges[0].start, 0);
                prop_assert_eq!(ranges[ranges.len() - 1].end, file.size_bytes);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
    }
}
