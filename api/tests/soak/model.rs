//! The naive interpreter: what each operator makes of all its input at once.
//!
//! Values stay below 2^32, so that sums of whole streams fit 64 bits.

use crate::random::mix;
use std::collections::{BTreeMap, HashSet};

/// A record: its value and its event time in nanoseconds.
pub type Row = (u64, i64);

/// The timestamp of what comes out of a window over all of time.
pub const END: i64 = i64::MAX - 1;

/// Values are made from this many bits.
const VALUE_MASK: u64 = (1 << 32) - 1;

/// A value that depends on several numbers.
pub fn digest(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(1, |digest, n| mix(digest ^ mix(n))) & VALUE_MASK
}

/// A value that depends on a multiset of numbers.
pub fn digest_unordered(numbers: &[u64]) -> u64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    digest(numbers)
}

/// Adds two values of a key so that the sum is of the same key, whatever the order.
pub fn add_within_key(a: u64, b: u64, keys: u64) -> u64 {
    (a / keys + b / keys) * keys + a % keys
}

/// How records are grouped by time.
#[derive(Clone, Copy, Debug)]
pub enum Windows {
    Tumbling { size: u64, offset: u64 },
    Sliding { size: u64, slide: u64, offset: u64 },
    Global,
}

impl Windows {
    /// The start and end of each window that a time is in.
    fn of(self, time: i64) -> Vec<(i64, i64)> {
        let (size, slide, offset) = match self {
            Self::Tumbling { size, offset } => (size as i64, size as i64, offset as i64),
            Self::Sliding { size, slide, offset } => (size as i64, slide as i64, offset as i64),
            Self::Global => return vec![(i64::MIN, i64::MAX)],
        };
        let last = time - (time - offset).rem_euclid(slide);
        let mut windows = Vec::new();
        let mut start = last;
        while start + size > time {
            windows.push((start, start + size));
            start -= slide;
        }
        windows
    }
}

/// What a window says of its records.
#[derive(Clone, Copy, Debug)]
pub enum Aggregate {
    Count,
    Sum,
    Reduce,
    Top,
    Process,
}

/// How many records [`Aggregate::Top`] keeps.
pub const TOP: usize = 3;

impl Aggregate {
    pub const ALL: [Self; 5] = [Self::Count, Self::Sum, Self::Reduce, Self::Top, Self::Process];

    fn of(self, values: &[u64]) -> u64 {
        match self {
            Self::Count => values.len() as u64,
            Self::Sum | Self::Reduce => values.iter().sum(),
            Self::Top => {
                let mut values = values.to_vec();
                values.sort_unstable_by(|a, b| b.cmp(a));
                digest(values.into_iter().take(TOP))
            }
            Self::Process => digest_unordered(values),
        }
    }
}

/// The row that a window's result becomes.
pub fn result_row(key: u64, start: i64, value: u64) -> u64 {
    digest([key, start as u64, value])
}

/// Groups by key and window.
pub fn window(rows: &[Row], keys: u64, windows: Windows, aggregate: Aggregate) -> Vec<Row> {
    let mut groups: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for (value, time) in rows {
        for window in windows.of(*time) {
            groups.entry((value % keys, window)).or_default().push(*value);
        }
    }
    groups
        .into_iter()
        .map(|((key, (start, end)), values)| {
            (result_row(key, start, aggregate.of(&values)), end - 1)
        })
        .collect()
}

/// The rows of each key, in the order of their times.
fn by_key_and_time(rows: &[Row], keys: u64) -> BTreeMap<u64, Vec<Row>> {
    let mut by_key: BTreeMap<u64, Vec<Row>> = BTreeMap::new();
    for row in rows {
        by_key.entry(row.0 % keys).or_default().push(*row);
    }
    by_key.values_mut().for_each(|rows| rows.sort_by_key(|row| row.1));
    by_key
}

/// The least gap, from `gap` on, at which no record comes exactly a gap after the one before it.
///
/// Such a record prolongs the session if it comes before the watermark that ends it, and that may
/// be either way.
pub fn decided_gap(rows: &[Row], keys: u64, gap: u64) -> u64 {
    let distances: HashSet<i64> = by_key_and_time(rows, keys)
        .values()
        .flat_map(|rows| rows.windows(2).map(|pair| pair[1].1 - pair[0].1))
        .collect();
    (gap..).find(|gap| !distances.contains(&(*gap as i64))).expect("rows are finitely many")
}

/// Groups by key and session.
pub fn sessions(rows: &[Row], keys: u64, gap: u64, aggregate: Aggregate) -> Vec<Row> {
    let mut out = Vec::new();
    for (key, rows) in by_key_and_time(rows, keys) {
        for session in rows.chunk_by(|a, b| b.1 - a.1 <= gap as i64) {
            let values: Vec<u64> = session.iter().map(|row| row.0).collect();
            let (start, last) = (session[0].1, session[session.len() - 1].1);
            out.push((result_row(key, start, aggregate.of(&values)), last + gap as i64 - 1));
        }
    }
    out
}

/// The pairs of each key and window; `None` if they are more than `most`.
pub fn join(
    left: &[Row],
    right: &[Row],
    keys: u64,
    windows: Windows,
    most: usize,
) -> Option<Vec<Row>> {
    let mut groups: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for (value, time) in right {
        for window in windows.of(*time) {
            groups.entry((value % keys, window)).or_default().push(*value);
        }
    }
    let mut out = Vec::new();
    for (value, time) in left {
        for window in windows.of(*time) {
            for other in groups.get(&(value % keys, window)).into_iter().flatten() {
                out.push((digest([*value, *other]), window.1 - 1));
            }
            if out.len() > most {
                return None;
            }
        }
    }
    Some(out)
}

/// A row for each record: its key and which of the key's records it is.
pub fn running_count(rows: &[Row], keys: u64) -> Vec<Row> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    rows.iter()
        .map(|(value, time)| {
            let count = counts.entry(value % keys).or_default();
            *count += 1;
            (digest([value % keys, *count]), *time)
        })
        .collect()
}

/// A row for each `count` records of a key: the key and the number. Which records share a window, and
/// so the row's time, depends on the order in which they come.
pub fn count_windows(rows: &[Row], keys: u64, count: u64) -> Vec<Row> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for (value, _) in rows {
        *counts.entry(value % keys).or_default() += 1;
    }
    let full = |(key, records)| (0..records / count).map(move |_| (digest([key, count]), 0));
    counts.into_iter().flat_map(full).collect()
}

/// A row per key: all its values, added by [`add_within_key`].
pub fn reduced(rows: &[Row], keys: u64) -> Vec<Row> {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for (value, _) in rows {
        sums.entry(value % keys)
            .and_modify(|sum| *sum = add_within_key(*sum, *value, keys))
            .or_insert(*value);
    }
    sums.into_values().map(|sum| (digest([sum]), END)).collect()
}

/// A row per key: the key and the sum of its values.
pub fn summed(rows: &[Row], keys: u64) -> Vec<Row> {
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    for (value, _) in rows {
        *sums.entry(value % keys).or_default() += value;
    }
    sums.into_iter().map(|(key, sum)| (digest([key, sum]), END)).collect()
}

/// The first of equal values.
pub fn distinct(rows: &[Row]) -> Vec<Row> {
    let mut seen = HashSet::new();
    rows.iter().copied().filter(|row| seen.insert(row.0)).collect()
}

/// What a function with timers makes of one or two streams; see
/// [`Buckets`](crate::functions::Buckets).
pub fn buckets(left: &[Row], right: &[Row], keys: u64, size: u64) -> Vec<Row> {
    let mut sums: BTreeMap<_, u64> = BTreeMap::new();
    let weighted = left.iter().map(|row| (row, 1)).chain(right.iter().map(|row| (row, 3)));
    for ((value, time), weight) in weighted {
        *sums.entry((value % keys, bucket_end(*time, size))).or_default() += value * weight;
    }
    sums.into_iter().map(|((key, end), sum)| (result_row(key, end, sum), end)).collect()
}

/// The last instant of the bucket that a time is in.
pub fn bucket_end(time: i64, size: u64) -> i64 {
    let size = size as i64;
    time - time.rem_euclid(size) + size - 1
}
