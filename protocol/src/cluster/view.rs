//! What clients are shown of a cluster.

use super::job::{JobStatus, Progress, Step};
use super::names::{ArtifactId, JobId, WorkerName};
use super::{Cluster, Job, Worker};
use crate::deployment::EndStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub status: JobStatus,
    /// What it waits for, if it does.
    pub waits_for: Option<String>,
    /// Why it has failed, or was started again the last time.
    pub error: Option<String>,
    /// How it ended.
    pub end: Option<EndStatus>,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// The slots that it asked for.
    pub slots: u32,
    /// Its executable.
    pub artifact: ArtifactId,
    /// Its arguments.
    pub args: Vec<String>,
    /// When it was submitted, in milliseconds since the Unix epoch.
    pub submitted_at_ms: u64,
    /// Of its newest deployment.
    pub generation: u64,
    /// How often members were lost since the coordinator started.
    pub restarts: u64,
    /// What its first member has told.
    pub progress: Progress,
    /// Its members.
    pub members: Vec<MemberView>,
}

/// A member of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its worker.
    pub worker: WorkerName,
    /// Where the other members reach it.
    pub address: String,
    /// Its slots.
    pub slots: u32,
    /// Its process, once it lives.
    pub pid: Option<u32>,
    /// How far it is.
    pub step: String,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub name: WorkerName,
    /// Where the other hosts reach its processes.
    pub host: String,
    /// Whether it is connected.
    pub connected: bool,
    /// What its heartbeats carry.
    pub generation: u64,
    /// The slots that it offers.
    pub slots: u32,
    /// How many of them are in use.
    pub slots_used: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The host's cores.
    pub cores: u32,
    /// The host's memory, in bytes.
    pub memory_bytes: u64,
    /// The jobs that have slots there.
    pub jobs: Vec<JobId>,
}

/// The cluster in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    /// The program's version.
    pub version: String,
    /// Workers that are connected.
    pub workers: usize,
    /// Their slots.
    pub slots: u32,
    /// How many of them are in use.
    pub slots_used: u32,
    /// How many jobs there are of each status.
    pub jobs: BTreeMap<String, usize>,
}

impl Cluster {
    /// All jobs, the newest first.
    pub fn jobs(&self) -> Vec<JobView> {
        let mut jobs: Vec<_> = self.jobs.values().map(Job::view).collect();
        jobs.sort_by(|a, b| (b.submitted_at_ms, &b.id).cmp(&(a.submitted_at_ms, &a.id)));
        jobs
    }

    /// One job.
    pub fn job(&self, id: &JobId) -> Option<JobView> {
        self.jobs.get(id).map(Job::view)
    }

    /// All workers that were connected lately, by name.
    pub fn workers(&self) -> Vec<WorkerView> {
        self.workers.values().map(Worker::view).collect()
    }

    /// The cluster in numbers. `version` is the program's.
    pub fn overview(&self, version: &str) -> Overview {
        let connected = || self.workers.values().filter(|one| one.connected);
        let mut jobs = BTreeMap::new();
        for job in self.jobs.values() {
            *jobs.entry(job.record.status.to_string()).or_default() += 1;
        }
        Overview {
            version: version.to_owned(),
            workers: connected().count(),
            slots: connected().map(|one| one.registration.slots).sum(),
            slots_used: connected().map(Worker::used).sum(),
            jobs,
        }
    }
}

impl Job {
    fn view(&self) -> JobView {
        let record = &self.record;
        let member = |(at, placed): (usize, &super::job::Placed)| MemberView {
            worker: placed.worker.clone(),
            address: placed.address.clone(),
            slots: placed.slots,
            pid: self.pids[at],
            step: self.steps[at].to_string(),
        };
        JobView {
            id: record.spec.id.clone(),
            name: record.spec.name.clone(),
            status: record.status,
            waits_for: self.waiting.as_ref().map(|waiting| waiting.what.clone()),
            error: record.error.clone(),
            end: record.end,
            stopping: record.stop && !record.status.is_terminal(),
            slots: record.spec.slots,
            artifact: record.spec.artifact.clone(),
            args: record.spec.args.clone(),
            submitted_at_ms: record.spec.submitted_at_ms,
            generation: record.generation,
            restarts: self.restarts,
            progress: self.progress,
            members: record.members.iter().enumerate().map(member).collect(),
        }
    }
}

impl Worker {
    fn view(&self) -> WorkerView {
        let registration = &self.registration;
        WorkerView {
            name: registration.name.clone(),
            host: registration.host.clone(),
            connected: self.connected,
            generation: self.generation,
            slots: registration.slots,
            slots_used: self.used(),
            labels: registration.labels.clone(),
            cores: registration.cores,
            memory_bytes: registration.memory_bytes,
            jobs: self.held.keys().cloned().collect(),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reserving => "reserving",
            Self::Reserved => "reserved",
            Self::Kept => "kept",
            Self::Starting => "starting",
            Self::Redeploying => "redeploying",
            Self::Alive => "alive",
            Self::Ending { .. } => "ending",
            Self::Missing => "missing",
            Self::Lost => "lost",
        })
    }
}
