//! The job that goes on.

use crate::steered::keys_of;
use crate::updates::{Count, Update, Updates};
use crate::{BenchError, Session};
use millstream::Environment;
use millstream::connector::{Sink, SinkContext, SinkWriter};
use millstream::prelude::*;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// Is one of the job's processes, which tell of results by datagrams to a socket.
///
/// # Errors
/// If the job fails, as it does if a count is wrong.
pub fn serve(state_bytes: u64, told: &Path, session: &Session) -> Result<(), BenchError> {
    let keys = keys_of(state_bytes)?;
    let config = session.config.clone().set("checkpoint_durability", "replicated(1)")?;
    let env = Environment::new(config.set("checkpoint_interval", "1s")?);
    env.from_source("updates", Updates { keys, rate: Some(RATE) })
        .key_by(|update| update.key)
        .process(|state| Count { counter: state.value("counter") })
        .name("count")
        .sink_to("results", Results { told: told.to_owned() });
    session.execute(env, NAME)?;
    Ok(())
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
