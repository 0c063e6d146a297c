//! A keyed count through the engine: a job of one slot, whose source is fed a pass at a time.

use crate::BenchError;
use millstream::connector::{
    BoxError, Sink, SinkContext, SinkWriter, SlotWaker, Source, SourceContext, SourceOutput,
    SourceReader, SourceStatus, Timestamp,
};
use millstream::prelude::*;
use millstream::{Canceller, RunningJob};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// How often it is looked whether the job has failed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The running job. Dropping it cancels it.
pub(super) struct Engine {
    feed: Feed,
    sums: Receiver<u64>,
    job: RunningJob,
    canceller: Canceller,
}

impl Engine {
    /// Starts the job.
    pub(super) fn new() -> Result<Self, BenchError> {
        let (sender, sums) = channel();
        let feed = Feed::default();
        let env = Environment::new(Config::default().set("state", "segments")?);
        env.from_source("keys", feed.clone())
            .key_by(|key| *key)
            .count()
            .sink_to("sum", SumSink { until: Arc::clone(&feed.until), sums: sender });
        let job = env.start("keyed count")?;
        let canceller = job.canceller();
        Ok(Self { feed, sums, job, canceller })
    }

    /// Counts each of the keys once more, and returns the sum of the new counts.
    pub(super) fn pass(&mut self, keys: Vec<u64>) -> Result<u64, BenchError> {
        self.feed.give(keys);
        loop {
            match self.sums.recv_timeout(LOOK_INTERVAL) {
                Ok(sum) => return Ok(sum),
                Err(RecvTimeoutError::Timeout) if !self.job.has_ended() => {}
                Err(_) => {
                    return Err(BenchError::Different(
                        "the job has ended before its time; its own message is above".to_owned(),
                    ));
                }
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.canceller.cancel();
    }
}

/// The source: emits the keys that it is given.
#[derive(Clone, Default)]
struct Feed {
    passes: Arc<Mutex<VecDeque<Vec<u64>>>>,
    /// How many keys have been given in all.
    until: Arc<AtomicU64>,
    waker: Arc<Mutex<Option<SlotWaker>>>,
}

impl Feed {
    fn give(&self, keys: Vec<u64>) {
        self.until.fetch_add(keys.len() as u64, Ordering::Relaxed);
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push_back(keys);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake();
        }
    }
}

impl Source for Feed {
    type Out = u64;
    type Reader = FeedReader;

    fn open(self, context: &SourceContext) -> Result<FeedReader, BoxError> {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker.clone());
        Ok(FeedReader { feed: self, keys: Vec::new().into_iter() })
    }
}

struct FeedReader {
    feed: Feed,
    keys: std::vec::IntoIter<u64>,
}

impl SourceReader for FeedReader {
    type Out = u64;

    fn poll(&mut self, out: &mut impl SourceOutput<u64>) -> Result<SourceStatus, BoxError> {
        if self.keys.len() == 0 {
            let next = self.feed.passes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(keys) => self.keys = keys.into_iter(),
                None => return Ok(SourceStatus::Pending { until: Timestamp::MAX }),
            }
        }
        let room = out.room().min(4_096);
        out.collect_all(&mut self.keys, room);
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(Vec::new())
    }
}

/// Adds up counts, and tells the sum when all that was given has been counted.
#[derive(Clone)]
struct SumSink {
    until: Arc<AtomicU64>,
    sums: Sender<u64>,
}

impl Sink<(u64, u64)> for SumSink {
    type Writer = SumWriter;

    fn open(self, _: &SinkContext) -> Result<SumWriter, BoxError> {
        Ok(SumWriter { sink: self, seen: 0, sum: 0 })
    }
}

struct SumWriter {
    sink: SumSink,
    seen: u64,
    sum: u64,
}

impl SinkWriter<(u64, u64)> for SumWriter {
    #[inline]
    fn write(&mut self, (_, count): (u64, u64), _: Timestamp) -> Result<(), BoxError> {
        self.sum = self.sum.wrapping_add(count);
        self.seen += 1;
        if self.seen == self.sink.until.load(Ordering::Relaxed) {
            // Nobody listens if the benchmark is at its end.
            let _ = self.sink.sums.send(std::mem::take(&mut self.sum));
        }
        Ok(())
    }
}
