//! A worker as the coordinator sees it.

use super::names::{JobId, WorkerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A worker offers no more slots.
pub const WORKER_SLOTS_MAX: u32 = 1024;
/// The label that says which workers may fail together: their jobs' checkpoints are copied to others first.
pub(super) const RACK_LABEL: &str = "rack";
/// A worker has no more labels.
pub const WORKER_LABELS_MAX: usize = 64;

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name.
    pub name: WorkerName,
    /// A number of this start of it, so that one which connects again is known from another of the
    /// same name.
    pub incarnation: u64,
    /// Where the other hosts reach its processes: a name or an address, without a port.
    pub host: String,
    /// How many slots it offers.
    pub slots: u32,
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// The host's cores.
    pub cores: u32,
    /// The host's memory, in bytes.
    pub memory_bytes: u64,
    /// What it runs already.
    pub processes: Vec<RunningProcess>,
}

impl Registration {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn validate(&self) -> Result<(), String> {
        if self.slots == 0 || self.slots > WORKER_SLOTS_MAX {
            return Err(format!("slots = {}: offer 1 to {WORKER_SLOTS_MAX}", self.slots));
        }
        if self.labels.len() > WORKER_LABELS_MAX {
            return Err(format!("a worker has {WORKER_LABELS_MAX} labels at the most"));
        }
        if self.host.is_empty() || self.host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("its host is no name or address".to_owned());
        }
        Ok(())
    }

    /// The address of one of its ports.
    pub(super) fn address(&self, port: u16) -> String {
        if self.host.contains(':') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }
}

/// A process of a job that a worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProcess {
    /// The job.
    pub job: JobId,
    /// The deployment that it follows.
    pub generation: u64,
    /// Its number among the members.
    pub member: usize,
    /// Its slots.
    pub slots: u32,
    /// The process.
    pub pid: u32,
    /// Whether it has told that the job works.
    pub running: bool,
}

/// Slots that a job has on a worker, from the reservation until the worker says that nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The deployment that the process was told of last.
    pub(super) generation: u64,
    pub(super) slots: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) registration: Registration,
    /// What its heartbeats carry.
    pub(super) generation: u64,
    pub(super) connected: bool,
    /// When it was heard of last.
    pub(super) heard_at: Duration,
    pub(super) held: BTreeMap<JobId, Held>,
}

impl Worker {
    pub(super) fn new(mut registration: Registration, generation: u64, now: Duration) -> Self {
        let held =
            |one: RunningProcess| (one.job, Held { generation: one.generation, slots: one.slots });
        let held = std::mem::take(&mut registration.processes).into_iter().map(held).collect();
        Self { registration, generation, connected: true, heard_at: now, held }
    }

    pub(super) fn used(&self) -> u32 {
        self.held.values().map(|held| held.slots).sum()
    }

    pub(super) fn free(&self) -> u32 {
        self.registration.slots.saturating_sub(self.used())
    }

    pub(super) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(key, value)| self.registration.labels.get(key) == Some(value))
    }
}
