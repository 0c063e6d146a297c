//! A keyed job that is told, while it runs, which keys its source updates and how fast.
//!
//! Each record adds one to its key's counter, which lies in a value of [`VALUE_BYTES`], and gives a
//! result: the new count. So a benchmark can fill a job with state, then compare phases within one
//! process.
//!
//! # Invariants
//! - Keys are the numbers below a number of keys, visited in one of several orders, in which
//!   neighbours are far from each other and each comes once before any comes again.
//! - The source emits nothing but what it is told, and does not remember it: a job that is restored
//!   waits to be told.

mod results;
mod source;

use crate::scratch::ScratchFolder;
use crate::state::mix;
use crate::{BenchError, Session};
use hdrhistogram::Histogram;
use millstream::connector::{ProcessingClock, SlotWaker};
use millstream::prelude::*;
use millstream::{RunningJob, record};
use millstream_state::{ByteTable, EntryKey, MemberIndex, SegmentsBackend, StoreScope, TableSpec};
use millstream_types::{KeyGroup, KeyGroupRange, hash_key};
use results::Results;
use source::Updates;
pub(crate) use source::{Share, Visits};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

/// Bytes of a value.
pub(crate) const VALUE_BYTES: u64 = 120;
/// Bytes of a key and its value: what a size of state is counted in.
pub(crate) const ENTRY_BYTES: u64 = VALUE_BYTES + size_of::<u64>() as u64;
/// What a job without progress is given up after.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How often it is looked whether the job still runs.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How often progress is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// A key's value.
#[record]
pub(crate) struct Counter {
    pub(crate) count: u64,
    pub(crate) rest: [u64; 14],
}

/// A record.
#[record]
#[derive(Clone, Copy)]
struct Update {
    key: u64,
    phase: u32,
    /// When it was due, if that is measured; else `NOT_MEASURED`.
    due: i64,
}

const NOT_MEASURED: i64 = i64::MIN;

/// A key's new count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) key: u64,
    pub(crate) count: u64,
}

/// What the source is to emit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Nothing.
    Wait,
    /// Each key once, then nothing.
    Fill,
    /// Some keys, over and over.
    Visit {
        /// What latencies are recorded under; none are recorded without a rate.
        phase: u32,
        /// The order of the keys, of which there are many.
        order: u64,
        /// The places of the keys in the order; they may go beyond the number of keys, and mean those
        /// from the beginning then.
        first: u64,
        count: u64,
        /// Records per second, due whatever the job does; as fast as it takes them if `None`.
        rate: Option<f64>,
    },
    /// This key first, then keys at random.
    Probe { key: u64 },
    /// The source is to fail once, in one of its subtasks; when the job goes on, this key first, as above.
    Fail { how: Fault, then: u64 },
    /// The end of the input.
    End,
}

/// How an operator fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It returns an error.
    Error,
    /// It panics.
    Panic,
}

/// What the one who measures and the job's threads share.
struct Shared {
    keys: u64,
    /// Raised with each order, so that a reader looks at the order only if there is a new one.
    version: AtomicU64,
    order: Mutex<Order>,
    wakers: Mutex<Vec<SlotWaker>>,
    clock: OnceLock<ProcessingClock>,
    /// Latencies by phase, in nanoseconds.
    latencies: Mutex<Vec<(u32, Histogram<u64>)>>,
    watched: Mutex<Option<Watched>>,
    has_watched: AtomicBool,
}

/// A key whose first result is passed on.
struct Watched {
    key: u64,
    /// The order since which the sink must have been opened whose results count.
    since: u64,
    sender: Sender<Counted>,
}

/// The job, and how it is told what to do.
pub(crate) struct SteeredJob {
    shared: Arc<Shared>,
    job: RunningJob,
}

impl SteeredJob {
    /// Starts a job that waits.
    pub(crate) fn start(
        session: &Session,
        config: Config,
        name: &str,
        keys: u64,
    ) -> Result<Self, BenchError> {
        let shared = Arc::new(Shared {
            keys,
            version: AtomicU64::new(0),
            order: Mutex::new(Order::Wait),
            wakers: Mutex::default(),
            clock: OnceLock::new(),
            latencies: Mutex::default(),
            watched: Mutex::default(),
            has_watched: AtomicBool::new(false),
        });
        let env = Environment::new(config);
        env.from_source("updates", Updates(Arc::clone(&shared)))
            .key_by(|update| update.key)
            .process(|state| Count { counter: state.value("counter") })
            .name("count")
            .sink_to("results", Results(Arc::clone(&shared)));
        let job = env.start(name)?;
        session.interrupt.cancel(job.canceller());
        if let Some(server) = &session.metrics {
            server.watch(name, job.metrics());
        }
        Ok(Self { shared, job })
    }

    /// Tells the source what to emit from now on.
    pub(crate) fn order(&self, order: Order) {
        *lock(&self.shared.order) = order;
        self.shared.version.fetch_add(1, Ordering::Release);
        lock(&self.shared.wakers).iter().for_each(SlotWaker::wake);
    }

    /// Fills the state with all keys, and waits until it is done.
    pub(crate) fn fill(&self, session: &Session) -> Result<(), BenchError> {
        let until = self.results() + self.shared.keys;
        self.order(Order::Fill);
        self.wait_for("filled", session, || (self.results() >= until, self.results()))
    }

    /// Takes a checkpoint and waits until it is complete.
    pub(crate) fn checkpoint(&self, session: &Session) -> Result<(), BenchError> {
        let (completed, failed) = (self.completed(), self.failed());
        self.job.checkpoint();
        self.wait_for_checkpoint_end(completed + failed + 1, session)?;
        if self.completed() == completed {
            return Err(BenchError::Different(
                "a checkpoint failed; the reason is logged above".to_owned(),
            ));
        }
        Ok(())
    }

    /// Waits until so many checkpoints have completed or failed.
    pub(crate) fn wait_for_checkpoint_end(
        &self,
        checkpoints: u64,
        session: &Session,
    ) -> Result<(), BenchError> {
        let over = || self.completed() + self.failed();
        self.wait_for("checkpointed", session, || (over() >= checkpoints, over()))
    }

    /// Asks for a checkpoint.
    pub(crate) fn ask_for_checkpoint(&self) {
        self.job.checkpoint();
    }

    /// Checkpoints that are complete.
    pub(crate) fn completed(&self) -> u64 {
        self.job.metrics().counters.checkpoints_completed()
    }

    /// Checkpoints that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.job.metrics().counters.checkpoints_failed()
    }

    /// How long snapshots of subtasks have held up their slots, in nanoseconds.
    pub(crate) fn snapshot_nanos(&self) -> Histogram<u64> {
        self.job.metrics().counters.snapshot_nanos()
    }

    /// How often a slot went back to a checkpoint in place.
    pub(crate) fn rollbacks(&self) -> u64 {
        self.job.metrics().counters.rollbacks()
    }

    /// Results so far.
    pub(crate) fn results(&self) -> u64 {
        self.job.metrics().sink_records()
    }

    /// Calls for the first result of a key, which is yet to be ordered.
    pub(crate) fn watch(&self, key: u64) -> Receiver<Counted> {
        self.watch_since(key, 0)
    }

    /// Calls for the first result of a key after a failure, which is the next order: until then the job
    /// may update the key, and those results do not count.
    pub(crate) fn watch_after_failure(&self, key: u64) -> Receiver<Counted> {
        self.watch_since(key, self.shared.version.load(Ordering::Acquire) + 1)
    }

    fn watch_since(&self, key: u64, since: u64) -> Receiver<Counted> {
        let (sender, receiver) = channel();
        *lock(&self.shared.watched) = Some(Watched { key, since, sender });
        self.shared.has_watched.store(true, Ordering::Release);
        receiver
    }

    /// Waits for the first result of a key that is [watched](Self::watch).
    pub(crate) fn first_result(
        &self,
        session: &Session,
        first: &Receiver<Counted>,
    ) -> Result<Counted, BenchError> {
        loop {
            match first.recv_timeout(CHECK_INTERVAL) {
                Ok(counted) => return Ok(counted),
                Err(RecvTimeoutError::Timeout) => self.check(session)?,
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the job drops the sender after it has sent")
                }
            }
        }
    }

    /// Waits so long, or less if a signal comes or the job ends.
    pub(crate) fn sleep(&self, session: &Session, duration: Duration) -> Result<(), BenchError> {
        let until = Instant::now() + duration;
        loop {
            self.check(session)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            #[expect(clippy::disallowed_methods, reason = "a phase is so long")]
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    /// Ends the input, waits for the job's end, and returns the latencies by phase, in nanoseconds.
    pub(crate) fn end(self) -> Result<Vec<(u32, Histogram<u64>)>, BenchError> {
        self.order(Order::End);
        self.job.wait()?;
        Ok(std::mem::take(&mut lock(&self.shared.latencies)))
    }

    /// # Errors
    /// If a signal came, or the job has ended before it was told to.
    fn check(&self, session: &Session) -> Result<(), BenchError> {
        session.check()?;
        if self.job.has_ended() {
            return Err(BenchError::Different(
                "the job has ended before its time; its own message is above".to_owned(),
            ));
        }
        Ok(())
    }

    fn wait_for(
        &self,
        what: &str,
        session: &Session,
        mut look: impl FnMut() -> (bool, u64),
    ) -> Result<(), BenchError> {
        let (mut last, mut since) = (look().1, Instant::now());
        loop {
            let (is_done, progress) = look();
            if is_done {
                return Ok(());
            }
            self.check(session)?;
            if progress != last {
                (last, since) = (progress, Instant::now());
            } else if since.elapsed() > STALL_MAX {
                return Err(BenchError::Different(format!(
                    "the job was not {what}: nothing has moved for {STALL_MAX:?}"
                )));
            }
            #[expect(clippy::disallowed_methods, reason = "between two looks, with a bound")]
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// A number that no other call gives.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Checks that the first count of a key since the checkpoint continues what the fill has left.
pub(crate) fn check_continued(key: u64, count: u64) -> Result<(), BenchError> {
    let expected = count_after_fill(key) + 1;
    if count == expected {
        return Ok(());
    }
    Err(BenchError::Different(format!(
        "the first result of key {key} was the count {count}; continued from its checkpoint it is {expected}"
    )))
}

/// What the fill leaves as the count of a key: it differs between keys, so that one that is not
/// restored shows.
fn count_after_fill(key: u64) -> u64 {
    1 + mix(key) % 1_000
}

struct Count {
    counter: ValueState<u64, Counter>,
}

impl KeyedProcessFunction<u64, Update> for Count {
    type Out = (Update, Counted);

    #[inline]
    fn process(
        &mut self,
        update: Update,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError> {
        let key = update.key;
        let first = || Counter { count: count_after_fill(key) - 1, rest: [key; 14] };
        let count = self.counter.modify(cx, first, |counter| {
            counter.count += 1;
            counter.count
        });
        out.collect((update, Counted { key, count }));
        Ok(())
    }
}

/// The session's configuration with checkpoints on demand: in its directory, or else in one that is
/// removed at the end.
pub(crate) fn durable(
    session: &Session,
    purpose: &str,
) -> Result<(Config, Option<ScratchFolder>), BenchError> {
    let (mut config, mut scratch) = (session.config.clone(), None);
    if config.checkpoint_dir().is_none() {
        let folder = ScratchFolder::create(None, purpose)?;
        config = config.set("checkpoint_dir", &folder.path().to_string_lossy())?;
        scratch = Some(folder);
    }
    Ok((config.set("checkpoint_interval", "off")?, scratch))
}

/// The keys of so many bytes of state.
pub(crate) fn keys_of(state_bytes: u64) -> Result<u64, BenchError> {
    const KEYS_MAX: u64 = u32::MAX as u64;
    match state_bytes / ENTRY_BYTES {
        keys @ 16..=KEYS_MAX => Ok(keys),
        0..16 => Err(BenchError::Usage(format!(
            "--state-size: at least {} bytes, which are 16 keys",
            16 * ENTRY_BYTES
        ))),
        _ => Err(BenchError::Usage("--state-size: at most 500GiB".to_owned())),
    }
}

/// How many bytes the store `segments` takes to keep one entry of the job's state.
pub(crate) fn stored_entry_bytes() -> Result<u64, BenchError> {
    let mut store = SegmentsBackend::new().open_store(StoreScope::default())?;
    let spec = TableSpec::new("count", "counter", KeyGroupRange(0..1), 1);
    let mut table = store.segment_table(MemberIndex(0), &spec)?;
    let key = EntryKey {
        namespace: Timestamp::MIN,
        group: KeyGroup(0),
        hash: hash_key(&0_u64),
        bytes: &0_u64.to_le_bytes(),
    };
    table.insert(key, &[0; VALUE_BYTES as usize])?;
    Ok(store.stats().appended_bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
