//! Which reader reads which part of which file.
//!
//! Pure: decides from names and sizes alone, so that every reader comes to the same plan; also when
//! what is left of the files is dealt out anew.
//!
//! # Invariants
//! - The splits of a file partition its bytes; every split belongs to exactly one reader.
//! - A reader's splits are in the order of the files and of their bytes.
//! - Readers advance through the input side by side: large files are dealt out in ranges of a few
//!   MiB, in turn. A file that is sorted by event time so costs each reader's watermark nothing,
//!   and the watermarks of all readers stay within a few ranges of each other.

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

/// A part of a file: all records whose first byte lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// The file's index in the listing.
    pub(crate) file: usize,
    /// The first byte.
    pub(crate) start: u64,
    /// The first byte behind it; `None` for all that follows.
    pub(crate) end: Option<u64>,
}

/// What is left of a file, or a part of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) file: usize,
    /// Of the whole file.
    pub(crate) size_bytes: u64,
    /// See [`FileFacts::is_splittable`].
    pub(crate) is_splittable: bool,
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
}

impl Part {
    /// In bytes of the file. Of a compressed file, whose positions are in what it contains, no more
    /// than a guess.
    fn length_bytes(&self) -> u64 {
        self.end.unwrap_or(self.size_bytes).saturating_sub(self.start)
    }
}

/// The splits of whole files for each of `parallelism` readers: see [`deal`].
pub(crate) fn plan(
    files: &[FileFacts],
    parallelism: u32,
    range_bytes: Option<u64>,
) -> Vec<Vec<Split>> {
    let whole = |(file, &FileFacts { size_bytes, is_splittable }): (usize, &FileFacts)| Part {
        file,
        size_bytes,
        is_splittable,
        start: 0,
        end: None,
    };
    let parts: Vec<_> = files.iter().enumerate().map(whole).collect();
    deal(&parts, parallelism, range_bytes)
}

/// The splits of each of `parallelism` readers; ranges of about `range_bytes`, if given.
///
/// Each split goes to the reader with the least work so far: with ranges of equal size, to each
/// in turn. Complexity: O(splits × parallelism).
pub(crate) fn deal(parts: &[Part], parallelism: u32, range_bytes: Option<u64>) -> Vec<Vec<Split>> {
    assert!(parallelism > 0, "a source has at least one reader");
    let total: u64 = parts.iter().map(Part::length_bytes).sum();
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
    for part in parts {
        let (length, Part { file, start, end, .. }) = (part.length_bytes(), *part);
        if !part.is_splittable {
            // At least one, so that empty and unsized files are spread too.
            give((length * COMPRESSED_WEIGHT).max(1), Split { file, start, end });
        } else if parallelism == 1 || length <= range_bytes {
            give(length.max(1), Split { file, start, end });
        } else {
            let count = length.div_ceil(range_bytes);
            // Both factors are below 2^64 and their product may not be.
            let bound =
                |i: u64| start + (u128::from(length) * u128::from(i) / u128::from(count)) as u64;
            for i in 0..count {
                let (start, end) = (bound(i), bound(i + 1));
                give(end - start, Split { file, start, end: Some(end) });
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
            plan[reader].iter().map(|split| split.start >> 20).collect()
        };
        assert_eq!(starts(0)[..3], [0, 15, 30]);
        assert_eq!(starts(1)[..3], [7, 23, 38]);
    }

    #[test]
    fn one_reader_reads_whole_files() {
        let plan = plan(&[text(100 << 20), text(3)], 1, None);
        let whole = |file| Split { file, start: 0, end: None };
        assert_eq!(plan, [[whole(0), whole(1)]]);
    }

    #[test]
    fn compressed_files_stay_whole() {
        let gz = FileFacts { size_bytes: 100 << 20, is_splittable: false };
        let plan = plan(&[gz, gz, gz], 2, None);
        assert_eq!(plan.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert!(plan.iter().flatten().all(|split| split.start == 0 && split.end.is_none()));
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
                let order: Vec<_> = reader.iter().map(|s| (s.file, s.start)).collect();
                prop_assert!(order.is_sorted());
            }
            for (index, file) in files.iter().enumerate() {
                let mut ranges: Vec<_> = plan
                    .iter()
                    .flatten()
                    .filter(|split| split.file == index)
                    .map(|split| split.start..split.end.unwrap_or(file.size_bytes))
                    .collect();
                ranges.sort_by_key(|range| range.start);
                prop_assert_eq!(ranges[0].start, 0);
                prop_assert_eq!(ranges[ranges.len() - 1].end, file.size_bytes);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            }
        }
    }
}
