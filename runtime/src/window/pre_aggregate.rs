//! The first phase of a windowed aggregate, at the end of the chain before the shuffle.

use super::dense_table::{DenseTable, Vacant};
use super::{AggregateFunction, Slicing, WindowError};
use crate::operator::{Operator, Signal, fail, in_user_code};
use millstream_state::{AlignedVec, Data, DecodeError, EncodeError, Key};
use millstream_types::{OperatorId, Timestamp};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::Duration;

/// Records of one key and one slice, aggregated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial<K, A> {
    /// The key.
    pub key: K,
    /// The end of the slice, which names it.
    pub slice_end: Timestamp,
    /// The accumulator.
    pub accumulator: A,
    /// The number of records in it, at least one.
    pub records: u64,
}

/// End of the slice, number of records, and the encodings of the other two: that they have one does
/// not say that it is rkyv's.
impl<K: Data, A: Data> Data for Partial<K, A> {
    const ARCHIVED_BYTES: usize = K::ARCHIVED_BYTES + A::ARCHIVED_BYTES;

    fn encode(&self, out: &mut AlignedVec) -> Result<(), EncodeError> {
        self.key.encode(out)?;
        let key = out.to_vec();
        self.accumulator.encode(out)?;
        (self.slice_end.as_nanos(), self.records, key, out.to_vec()).encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (end, records, key, accumulator) = <(i64, u64, Vec<u8>, Vec<u8>)>::decode(bytes)?;
        Ok(Self {
            key: K::decode(&key)?,
            slice_end: Timestamp::from_nanos(end),
            accumulator: A::decode(&accumulator)?,
            records,
        })
    }
}

/// The most keys that are held at once, over all slices.
///
/// Enough for the vocabulary of a language: where few of many keys are frequent, a table that is
/// flushed before it has seen the rare ones again passes most of them on one by one.
const KEYS_MAX: usize = 128 * 1024;
/// The most bytes that they take, not counting what accumulators allocate: a share of the
/// third-level cache.
const BYTES_MAX: usize = 8 << 20;
/// At how many keys it is looked for the first time whether they repeat; then at twice as many, and
/// so on: so keys that do not repeat are found out before they fill the cache.
const FIRST_LOOK_KEYS: usize = 16 * 1024;
/// How many tables are kept for the slices to come.
const SPARE_COUNT_MAX: usize = 8;
/// Whether to aggregate is decided after at least so many records.
const SAMPLE_RECORDS: u64 = 4_096;
/// Below so many halves of a record per partial the first phase costs more than it saves.
const HALVES_PER_PARTIAL_MIN: u64 = 3;
/// For how many records the first phase stays off at first, and at most.
const PAUSE_RECORDS: (u64, u64) = (64 * SAMPLE_RECORDS, 1024 * SAMPLE_RECORDS);

/// Aggregates records per slice and key, and passes on the partial results.
///
/// A slice is passed on when the watermark passes its end. Everything is passed on before a barrier
/// (so that nothing of it is state), before the input is declared idle (because the watermark
/// downstream may then advance without this one), and when there are too many keys.
///
/// Records that come behind the watermark are aggregated like others and passed on before the next
/// watermark, or as soon as the input runs dry. So the second phase judges whether they are late by
/// the same watermark as if it had got them one by one.
///
/// **Adaptive.** Where keys do not repeat within a slice, aggregating first saves nothing: when
/// fewer than 1.5 records went into a partial, each record is passed on as a partial of its own,
/// until after some time aggregating is tried again.
pub struct PreAggregate<In, K, KF, A: AggregateFunction<In>, N> {
    id: OperatorId,
    slicing: Slicing,
    key: KF,
    function: A,
    /// The slice of the last record, which is likely that of the next, and what it holds.
    recent: Recent,
    table: SliceTable<K, A::Accumulator>,
    /// The other slices that hold records, by their ends.
    others: VecDeque<(Timestamp, SliceTable<K, A::Accumulator>)>,
    /// Tables to be used again.
    spare: Vec<SliceTable<K, A::Accumulator>>,
    /// Keys in all slices.
    key_count: usize,
    /// The number of keys at which they are looked at next.
    look_at: usize,
    watermark: Timestamp,
    mode: Mode,
    /// What went into and came out of the tables since it was last decided whether to aggregate.
    sample: Sample,
    pause_records: u64,
    next: N,
    of: PhantomData<fn(In)>,
}

/// Accumulator and number of records of each key.
type SliceTable<K, Acc> = DenseTable<K, (Acc, u64)>;

/// A slice, as the hot path asks for it.
struct Recent {
    start: i64,
    /// Zero if there is no slice: then no time lies in it.
    length: u64,
    end: Timestamp,
}

impl Recent {
    const NONE: Self = Self { start: 0, length: 0, end: Timestamp::MAX };

    #[inline(always)]
    fn contains(&self, time: Timestamp) -> bool {
        // Times before the start wrap around to more than the length.
        (time.as_nanos().wrapping_sub(self.start) as u64) < self.length
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Aggregating,
    PassingOn { records_left: u64 },
}

/// The accumulator of one record.
#[inline]
fn of_one<In, A: AggregateFunction<In>>(id: OperatorId, function: &A, value: In) -> A::Accumulator {
    in_user_code(id, || {
        let mut accumulator = function.create();
        function.add(&mut accumulator, value);
        accumulator
    })
}

#[derive(Default)]
struct Sample {
    records: u64,
    partials: u64,
}

impl<In, K, KF, A, N> PreAggregate<In, K, KF, A, N>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + 'static,
    A: AggregateFunction<In>,
    N: Operator<Partial<K, A::Accumulator>>,
{
    /// A link that aggregates on behalf of operator `id` and pushes into `next`. Without keys, `K`
    /// is `()`: then nothing is hashed.
    pub fn new(id: OperatorId, slicing: impl Into<Slicing>, key: KF, function: A, next: N) -> Self {
        Self {
            id,
            slicing: slicing.into(),
            key,
            function,
            recent: Recent::NONE,
            table: DenseTable::default(),
            others: VecDeque::new(),
            spare: Vec::new(),
            key_count: 0,
            look_at: FIRST_LOOK_KEYS.min(Self::CAPACITY),
            watermark: Timestamp::MIN,
            mode: Mode::Aggregating,
            sample: Sample::default(),
            pause_records: PAUSE_RECORDS.0,
            next,
            of: PhantomData,
        }
    }

    /// False while records are passed on one by one because their keys do not repeat.
    pub fn is_aggregating(&self) -> bool {
        self.mode == Mode::Aggregating
    }

    const CAPACITY: usize = {
        let by_bytes = BYTES_MAX / size_of::<(K, A::Accumulator, u64)>();
        let capacity = if by_bytes < KEYS_MAX { by_bytes } else { KEYS_MAX };
        if capacity < 256 { 256 } else { capacity }
    };

    /// Makes the slice of `time` the recent one; false if no window contains `time`.
    #[inline(never)]
    fn seek(&mut self, time: Timestamp) -> bool {
        if !time.is_some() && self.slicing.needs_time() {
            fail(self.id, Box::new(WindowError::NoTimestamp));
        }
        let Some(slice) = self.slicing.slice_of(time) else { return false };
        self.put_aside();
        self.recent = Recent {
            start: slice.start.as_nanos(),
            length: slice.end.as_nanos().wrapping_sub(slice.start.as_nanos()) as u64,
            end: slice.end,
        };
        if let Ok(at) = self.others.binary_search_by_key(&slice.end, |(end, _)| *end) {
            let (_, table) = self.others.remove(at).expect("found");
            let empty = std::mem::replace(&mut self.table, table);
            self.keep(empty);
        }
        true
    }

    /// Puts the recent slice, if it holds anything, among the others.
    fn put_aside(&mut self) {
        if self.table.len() > 0 {
            let end = self.recent.end;
            let at = self.others.partition_point(|(other, _)| *other < end);
            let empty = self.spare.pop().unwrap_or_default();
            self.others.insert(at, (end, std::mem::replace(&mut self.table, empty)));
        }
        self.recent = Recent::NONE;
    }

    #[inline(always)]
    fn aggregate(&mut self, value: In) {
        let Self { id, function, .. } = self;
        let key = in_user_code(*id, || (self.key)(&value));
        match self.table.find(&key) {
            Ok(at) => {
                let (accumulator, records) = self.table.value_mut(at);
                *records += 1;
                in_user_code(*id, || function.add(accumulator, value));
            }
            Err(vacant) => self.add_key(vacant, key, value),
        }
    }

    // This and `pass_on` are kept out of the loop of records, which would be too large to be inlined
    // into the source's.
    #[inline(never)]
    fn add_key(&mut self, vacant: Vacant, key: K, value: In) {
        let accumulator = of_one(self.id, &self.function, value);
        self.table.insert(vacant, key, (accumulator, 1));
        self.key_count += 1;
        if self.key_count >= self.look_at {
            self.look();
        }
    }

    /// Passes a record on as a partial of its own.
    #[inline(never)]
    fn pass_on(&mut self, value: In) {
        let Self { id, function, .. } = self;
        let key = in_user_code(*id, || (self.key)(&value));
        let accumulator = of_one(*id, function, value);
        let slice_end = self.recent.end;
        let partial = Partial { key, slice_end, accumulator, records: 1 };
        self.next.record(partial, slice_end - Duration::from_nanos(1));
    }

    /// Passes on the slices that end at or before `end`, in their order.
    fn pass_on_until(&mut self, end: Timestamp) {
        if self.recent.end <= end {
            self.put_aside();
        }
        while self.others.front().is_some_and(|(first, _)| *first <= end) {
            self.pass_on_first();
        }
        if self.key_count < FIRST_LOOK_KEYS {
            self.look_at = FIRST_LOOK_KEYS.min(Self::CAPACITY);
        }
        if self.sample.records >= SAMPLE_RECORDS {
            self.decide();
        }
    }

    /// Passes everything on if there is no more room, or if the keys do not repeat.
    #[cold]
    #[inline(never)]
    fn look(&mut self) {
        let tables = self.others.iter().map(|(_, table)| table).chain([&self.table]);
        let records: u64 =
            tables.flat_map(|table| table.values()).map(|(_, records)| records).sum();
        let pays = is_worth_it(records, self.key_count as u64);
        if pays && self.key_count < Self::CAPACITY {
            self.look_at = (self.key_count * 2).min(Self::CAPACITY);
        } else {
            self.pass_on_all();
        }
    }

    #[inline(never)]
    fn pass_on_all(&mut self) {
        self.pass_on_until(Timestamp::MAX);
    }

    fn pass_on_first(&mut self) {
        let Some((end, mut table)) = self.others.pop_front() else { return };
        self.key_count -= table.len();
        self.sample.partials += table.len() as u64;
        let timestamp = end - Duration::from_nanos(1);
        for (key, (accumulator, records)) in table.drain() {
            self.sample.records += records;
            self.next.record(Partial { key, slice_end: end, accumulator, records }, timestamp);
        }
        self.keep(table);
    }

    fn keep(&mut self, empty: SliceTable<K, A::Accumulator>) {
        if self.spare.len() < SPARE_COUNT_MAX {
            self.spare.push(empty);
        }
    }

    fn decide(&mut self) {
        let Sample { records, partials } = std::mem::take(&mut self.sample);
        if !self.is_aggregating() {
            return;
        }
        if is_worth_it(records, partials) {
            self.pause_records = PAUSE_RECORDS.0;
        } else {
            self.mode = Mode::PassingOn { records_left: self.pause_records };
            self.pause_records = (self.pause_records * 2).min(PAUSE_RECORDS.1);
        }
    }

    /// The end of the last slice that a watermark has passed.
    fn passed_by(watermark: Timestamp) -> Timestamp {
        watermark + Duration::from_nanos(1)
    }
}

/// True if so many records in so many partials are worth the first phase.
fn is_worth_it(records: u64, partials: u64) -> bool {
    records * 2 >= partials * HALVES_PER_PARTIAL_MIN
}

impl<In, K, KF, A, N> Operator<In> for PreAggregate<In, K, KF, A, N>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + 'static,
    A: AggregateFunction<In>,
    N: Operator<Partial<K, A::Accumulator>>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        if !self.recent.contains(timestamp) && !self.seek(timestamp) {
            return;
        }
        match &mut self.mode {
            Mode::Aggregating => self.aggregate(value),
            Mode::PassingOn { records_left } => {
                *records_left -= 1;
                if *records_left == 0 {
                    self.mode = Mode::Aggregating;
                }
                self.pass_on(value);
            }
        }
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.pass_on_until(Self::passed_by(watermark));
        self.next.watermark(watermark);
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.next.resume(watermark);
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Barrier(..) | Signal::Recovering(_) | Signal::Idle | Signal::EndOfInput => {
                self.pass_on_all();
            }
            Signal::LatencyMarker(_) | Signal::Active => {}
        }
        self.next.signal(signal);
    }

    fn flush(&mut self) {
        // Slices that are still open wait: no window can fire before the watermark passes them.
        self.pass_on_until(Self::passed_by(self.watermark));
        self.next.flush();
    }

    crate::forward_to_next!(tick, next_deadline, is_blocked, is_finished);
}

#[cfg(test)]
mod tests;
