//! The job that goes on: it counts the updates of keys and checks each count.

use crate::steered::{Counter, Share, Visits, keys_of};
use crate::{BenchError, Session};
use millstream::connector::{
    ProcessingClock, Sink, SinkContext, SinkWriter, Source, SourceContext, SourceOutput,
    SourceReader, SourceStatus, decode_item, encode_item,
};
use millstream::prelude::*;
use millstream::{Environment, record};
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Records per poll at the most.
const RECORDS_PER_POLL: u64 = 4_096;
/// Updates per second of each source, once all keys are there.
const RATE: f64 = 50_000.0;
/// How often a subtask tells of its results.
const TELL_INTERVAL: Duration = Duration::from_millis(1);
/// The name of the job.
pub(super) const NAME: &str = "failover";

/// A result that a subtask tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    /// Of its process.
    pub(super) pid: u32,
    pub(super) subtask: u32,
    /// How often its key was updated: with more than once, all keys are there.
    pub(super) count: u64,
}

/// An update of a key.
#[record]
#[derive(Clone, Copy)]
struct Update {
    key: u64,
    /// How often the key was updated then, with this one.
    count: u64,
}

/// Is one of the job's processes, which tell of results by datagrams to a socket.
///
/// # Errors
/// If the job fails, as it does if a count is wrong.
pub fn serve(state_bytes: u64, told: &Path, session: &Session) -> Result<(), BenchError> {
    let keys = keys_of(state_bytes)?;
    let config = session.config.clone().set("checkpoint_durability", "replicated(1)")?;
    let env = Environment::new(config.set("checkpoint_interval", "1s")?);
    env.from_source("updates", Updates { keys })
        .key_by(|update| update.key)
        .process(|state| Count { counter: state.value("counter") })
        .name("count")
        .sink_to("results", Results { told: told.to_owned() });
    session.execute(env, NAME)?;
    Ok(())
}

/// Updates of each key, then of each key again, and so on.
#[derive(Clone)]
struct Updates {
    keys: u64,
}

impl Source for Updates {
    type Out = Update;
    type Reader = UpdatesReader;

    fn open(self, context: &SourceContext) -> Result<UpdatesReader, BoxError> {
        let (subtask, parallelism) = (context.subtask.0, context.parallelism);
        let share =
            Share { keys: self.keys, subtask: subtask.into(), subtasks: parallelism.into() };
        let mut visits = Visits::new(share, 0, 0, self.keys);
        let mut emitted = 0;
        for item in context.restored.iter().flat_map(|items| items.iter()) {
            let (of, count) = decode_item::<(u32, u64)>(item)?;
            if of == subtask {
                emitted = count;
                visits.skip(count);
            }
        }
        Ok(UpdatesReader { subtask, visits, emitted, clock: context.clock, paced: None })
    }
}

struct UpdatesReader {
    subtask: u32,
    visits: Visits,
    emitted: u64,
    clock: ProcessingClock,
    /// Since when the rate is fixed, and how many had been emitted then.
    paced: Option<(Timestamp, u64)>,
}

impl UpdatesReader {
    /// When the next one is due.
    fn due(&mut self) -> Option<Timestamp> {
        if self.emitted < self.visits.count() {
            return None;
        }
        let (since, before) = *self.paced.get_or_insert_with(|| (self.clock.now(), self.emitted));
        let nanos = (self.emitted - before) as f64 / RATE * 1e9;
        Some(Timestamp::from_nanos(since.as_nanos() + nanos as i64))
    }
}

impl SourceReader for UpdatesReader {
    type Out = Update;

    fn poll(&mut self, out: &mut impl SourceOutput<Update>) -> Result<SourceStatus, BoxError> {
        let now = self.clock.now();
        for _ in 0..RECORDS_PER_POLL.min(out.room()) {
            if let Some(due) = self.due().filter(|due| *due > now) {
                return Ok(SourceStatus::Pending { until: due });
            }
            let count = 1 + self.emitted / self.visits.count();
            out.collect(Update { key: self.visits.next(), count });
            self.emitted += 1;
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(vec![encode_item(&(self.subtask, self.emitted))?])
    }
}

struct Count {
    counter: ValueState<u64, Counter>,
}

impl KeyedProcessFunction<u64, Update> for Count {
    type Out = Update;

    fn process(
        &mut self,
        update: Update,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Update>,
    ) -> Result<(), BoxError> {
        let first = || Counter { count: 0, rest: [update.key; 14] };
        let (count, rest) = self.counter.modify(cx, first, |counter| {
            counter.count += 1;
            (counter.count, counter.rest[13])
        });
        if count != update.count || rest != update.key {
            return Err(format!(
                "key {} was updated {} times, and its state says {count}, with {rest}",
                update.key, update.count
            )
            .into());
        }
        out.collect(update);
        Ok(())
    }
}

#[derive(Clone)]
struct Results {
    told: PathBuf,
}

impl Sink<Update> for Results {
    type Writer = ResultsWriter;

    fn open(self, context: &SinkContext) -> Result<ResultsWriter, BoxError> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.told)?;
        socket.set_nonblocking(true)?;
        Ok(ResultsWriter { subtask: context.subtask.0, socket, told: None })
    }
}

struct ResultsWriter {
    subtask: u32,
    socket: UnixDatagram,
    /// When something was told last.
    told: Option<Instant>,
}

impl SinkWriter<Update> for ResultsWriter {
    fn write(&mut self, update: Update, _: Timestamp) -> Result<(), BoxError> {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= TELL_INTERVAL) {
            self.told = Some(now);
            let pid = std::process::id();
            let told = Told { pid, subtask: self.subtask, count: update.count };
            // Who has no room for it has heard of others.
            let _ = self.socket.send(&serde_json::to_vec(&told)?);
        }
        Ok(())
    }
}
