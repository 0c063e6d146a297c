//! A sum over records: a checksum, for results too many to keep.

use crate::connector::{
    BoxError, PreCommit, Prepared, Sink, SinkContext, SinkWriter, decode_item, encode_item,
};
use millstream_types::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A sum that a [`TotalSink`] comes to, wrapping around: of all records once, also if the job was
/// restored, by this process or another.
///
/// ```
/// use millstream::{Config, Environment, Total};
/// let env = Environment::new(Config::default());
/// let total = Total::default();
/// env.from_collection("numbers", 0..10).sink_to("total", total.sink(|n: &u64| *n));
/// env.execute("sum up")?;
/// assert_eq!((total.get(), total.records()), (45, 10));
/// # Ok::<(), millstream::JobError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Total(Arc<Mutex<Committed>>);

/// What each subtask has committed, and what that was in all when the job began or was restored.
type Committed = BTreeMap<u32, Partial>;

/// A subtask's part of the sum, and the number of its records.
type Partial = (u64, u64);

impl Total {
    /// The sink that adds up what `summand` says of each record.
    pub fn sink<T, F: Fn(&T) -> u64 + Clone + Send + 'static>(&self, summand: F) -> TotalSink<F> {
        TotalSink { sum: self.clone(), summand }
    }

    /// The sum as of the last commit.
    pub fn get(&self) -> u64 {
        self.lock().values().fold(0, |sum, (part, _)| sum.wrapping_add(*part))
    }

    /// How many records it is of.
    pub fn records(&self) -> u64 {
        self.lock().values().map(|(_, records)| records).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Committed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sink of a [`Total`].
#[derive(Clone, Debug)]
pub struct TotalSink<F> {
    sum: Total,
    summand: F,
}

/// A writer's part of the sum as it is stored: of which of how many, and how much.
type Stored = (u32, u32, Partial);

impl<T: 'static, F: Fn(&T) -> u64 + Clone + Send + 'static> Sink<T> for TotalSink<F> {
    type Writer = TotalWriter<F>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, context: &SinkContext) -> Result<TotalWriter<F>, BoxError> {
        let (subtask, parallelism) = (context.subtask.0, context.parallelism);
        let (mut sum, mut records) = (0u64, 0);
        for item in context.restored.iter().flat_map(|items| items.iter()) {
            let (of, _, (part, count)) = decode_item::<Stored>(item)?;
            if of % parallelism == subtask {
                sum = sum.wrapping_add(part);
                records += count;
            }
        }
        Ok(TotalWriter { subtask, parallelism, sum, records, summand: self.summand })
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let mut committed = self.sum.lock();
        for transaction in transactions {
            let (subtask, parallelism, part) = decode_item::<Stored>(transaction)?;
            committed.insert(subtask, part);
            // Those of an attempt with more subtasks have been taken over by these.
            committed.retain(|subtask, _| *subtask < parallelism);
        }
        Ok(())
    }
}

/// The writer of a [`TotalSink`].
pub struct TotalWriter<F> {
    subtask: u32,
    parallelism: u32,
    sum: u64,
    records: u64,
    summand: F,
}

impl<T: 'static, F: Fn(&T) -> u64 + Clone + Send + 'static> SinkWriter<T> for TotalWriter<F> {
    #[inline(always)]
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        self.sum = self.sum.wrapping_add((self.summand)(&value));
        self.records += 1;
        Ok(())
    }

    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        prepared.ready();
        let stored: Stored = (self.subtask, self.parallelism, (self.sum, self.records));
        let stored = encode_item(&stored)?;
        Ok(PreCommit { state: vec![stored.clone()], transaction: Some(stored) })
    }
}
