//! Drives readers and writers as a slot does: polls, and waits for the waker when nothing is to be
//! had. A wait that lasts a minute is a lost wake-up.

#![allow(dead_code, reason = "each test binary uses its part")]

use millstream::connector::{
    BoxError, JobCounters, PreCommit, Prepared, Sink, SinkWriter, Source, SourceReader,
    SourceStatus, Timestamp,
};
use millstream_connectors::ReadError;
pub use millstream_connectors::testkit::{Output, Slot};
use std::sync::Arc;

/// A reader on its slot.
pub struct Reading<R: SourceReader> {
    pub slot: Slot,
    pub reader: R,
    pub out: Output<R::Out>,
}

pub fn open_one<S: Source>(
    source: S,
    subtask: u32,
    parallelism: u32,
    counters: &Arc<JobCounters>,
) -> Result<Reading<S::Reader>, BoxError> {
    let slot = Slot::default();
    let context = slot.source_context(subtask, parallelism, counters);
    let reader = source.open(&context)?;
    Ok(Reading::new(slot, reader))
}

impl<R: SourceReader> Reading<R> {
    pub fn new(slot: Slot, reader: R) -> Self {
        Self { slot, reader, out: Output::default() }
    }

    /// Polls to the end.
    pub fn finish(mut self) -> Result<Vec<R::Out>, BoxError> {
        self.poll_while(|_| true)?;
        Ok(self.out.values)
    }

    /// Polls until there are `count` records.
    pub fn until(&mut self, count: usize) -> Result<(), BoxError> {
        self.poll_while(|values| values.len() < count)?;
        assert!(self.out.values.len() >= count, "the source ended too early");
        Ok(())
    }

    /// Polls until the end or until `goes_on` is false.
    fn poll_while(&mut self, goes_on: impl Fn(&[R::Out]) -> bool) -> Result<(), BoxError> {
        loop {
            let status = self.reader.poll(&mut self.out)?;
            if status == SourceStatus::Finished || !goes_on(&self.out.values) {
                return Ok(());
            }
            if status != SourceStatus::More {
                self.slot.sleep();
            }
        }
    }
}

/// What each reader of a source emits.
type PerReader<T> = Vec<Vec<T>>;

/// Reads a source with so many readers.
pub fn read_all<S: Source>(source: &S, parallelism: u32) -> Result<PerReader<S::Out>, BoxError> {
    Ok(read_counting(source, parallelism)?.0)
}

/// The same, and the number of malformed records skipped.
pub fn read_counting<S: Source>(
    source: &S,
    parallelism: u32,
) -> Result<(PerReader<S::Out>, u64), BoxError> {
    source.validate()?;
    let counters = Arc::new(JobCounters::default());
    let readers = (0..parallelism)
        .map(|subtask| open_one(source.clone(), subtask, parallelism, &counters))
        .collect::<Result<Vec<_>, _>>()?;
    let records = readers.into_iter().map(Reading::finish).collect::<Result<_, _>>()?;
    Ok((records, counters.malformed()))
}

/// What one reader emits.
pub fn read<S: Source>(source: &S) -> Result<Vec<S::Out>, BoxError> {
    Ok(read_all(source, 1)?.swap_remove(0))
}

/// The error of a source that must not succeed.
pub fn read_error<S: Source>(source: &S) -> String
where
    S::Out: std::fmt::Debug,
{
    let error = read(source).expect_err("it must fail");
    assert!(error.is::<ReadError>(), "{error}");
    error.to_string()
}

/// Writes `shares`, one per subtask, up to the end of every writer; returns what is to be committed.
pub fn write_all<T: 'static, S: Sink<T>>(
    sink: &S,
    shares: Vec<Vec<T>>,
) -> Result<Vec<Vec<u8>>, BoxError> {
    sink.validate()?;
    let mut transactions = Vec::new();
    let parallelism = shares.len() as u32;
    for (subtask, share) in shares.into_iter().enumerate() {
        let slot = Slot::default();
        let context = slot.sink_context(subtask as u32, parallelism);
        let mut writer = sink.clone().open(&context)?;
        for value in share {
            while writer.is_blocked() {
                slot.sleep();
            }
            writer.write(value, Timestamp::MIN)?;
        }
        while !writer.finish()? {
            slot.sleep();
        }
        let prepared = Prepared::new(|said| said.expect("a writer that has finished is prepared"));
        let PreCommit { transaction, .. } = writer.pre_commit(prepared)?;
        transactions.extend(transaction);
    }
    Ok(transactions)
}
