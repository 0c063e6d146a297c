//! What the processes do that are killed and started again.

use crate::process::tell;
use crate::steered::{Order, SteeredJob, keys_of};
use crate::{BenchError, Session};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often the number of events is told.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
/// The name of the job.
const NAME: &str = "recovery";

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To fill the state, take a checkpoint, and be killed.
    Build,
    /// To resume from the checkpoint.
    Resume,
}

impl FromStr for Role {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "build" => Ok(Self::Build),
            "resume" => Ok(Self::Resume),
            _ => Err("a process builds or resumes".to_owned()),
        }
    }
}

/// A line on standard output, with which a process tells how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case")]
pub(super) enum Told {
    /// All keys are in a completed checkpoint.
    Checkpointed,
    /// The first new result of the key that was asked for.
    Result {
        /// Its count.
        count: u64,
    },
    /// So many results have come since the restart.
    Events {
        /// Of all keys.
        events: u64,
    },
    /// It was watched for as long as it should be.
    Done,
}

/// Is one of the processes.
///
/// # Errors
/// If the job fails, or nobody reads what is told.
pub fn serve(
    role: Role,
    state_bytes: u64,
    probe: u64,
    watch: Duration,
    session: &Session,
) -> Result<(), BenchError> {
    let keys = keys_of(state_bytes)?;
    let config = session.config.clone().set("checkpoint_interval", "off")?;
    let job = SteeredJob::start(session, config, NAME, keys)?;
    match role {
        Role::Build => {
            job.fill(session)?;
            job.checkpoint(session)?;
            job.order(Order::Probe { key: probe % keys });
            tell(&Told::Checkpointed)?;
            // Until it is killed.
            loop {
                job.sleep(session, Duration::from_secs(1))?;
            }
        }
        Role::Resume => {
            let first = job.watch(probe);
            job.order(Order::Probe { key: probe });
            let counted = job.first_result(session, &first)?;
            tell(&Told::Result { count: counted.count })?;
            let begun = Instant::now();
            while begun.elapsed() < watch {
                job.sleep(session, SAMPLE_INTERVAL)?;
                tell(&Told::Events { events: job.results() })?;
            }
            tell(&Told::Done)
        }
    }
}
