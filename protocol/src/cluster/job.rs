//! A job as the cluster sees it: what was asked for, how far it is, and who its members are.

use crate::deployment::EndStatus;
use crate::restart::{RestartPolicy, RestartStrategy};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::names::{ArtifactId, JobId, WorkerName};

/// A job asks for no more slots.
pub const JOB_SLOTS_MAX: u32 = 4096;
/// The arguments of a job have no more bytes, all together.
pub const JOB_ARGS_BYTES_MAX: usize = 64 * 1024;
/// The name of a job has no more bytes.
pub const JOB_NAME_BYTES_MAX: usize = 128;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its id.
    pub id: JobId,
    /// Its name, for people.
    pub name: String,
    /// The executable.
    pub artifact: ArtifactId,
    /// Its arguments.
    pub args: Vec<String>,
    /// How many slots it runs on, on all hosts together.
    pub slots: u32,
    /// How many subtasks an operator has that sets none; else as the program says.
    #[serde(default)]
    pub parallelism: Option<u32>,
    /// A directory of checkpoints that it goes on from, on each host or shared by all. A relative path begins
    /// at the job's directory on its worker.
    #[serde(default)]
    pub from_checkpoint: Option<PathBuf>,
    /// The labels that a worker must have to get a member.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many losses of members are borne, in the words of [`RestartStrategy`].
    pub restart: String,
    /// When it was submitted, in milliseconds since the Unix epoch, for people.
    pub submitted_at_ms: u64,
}

impl JobSpec {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn validate(&self) -> Result<(), String> {
        if self.slots == 0 || self.slots > JOB_SLOTS_MAX {
            return Err(format!("slots = {}: ask for 1 to {JOB_SLOTS_MAX}", self.slots));
        }
        if self.parallelism == Some(0) {
            return Err("parallelism = 0: an operator has one subtask at least".to_owned());
        }
        if self.name.is_empty() || self.name.len() > JOB_NAME_BYTES_MAX {
            return Err(format!("a job's name has 1 to {JOB_NAME_BYTES_MAX} bytes"));
        }
        if self.name.chars().any(char::is_control) {
            return Err("a job's name has no control characters".to_owned());
        }
        if self.args.iter().map(String::len).sum::<usize>() > JOB_ARGS_BYTES_MAX {
            return Err(format!(
                "the arguments have more than {JOB_ARGS_BYTES_MAX} bytes; put them in a file that \
                 every host has"
            ));
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return Err("an argument has a zero byte".to_owned());
        }
        self.strategy().map(|_| ())
    }

    /// What happens when members are lost.
    pub(super) fn strategy(&self) -> Result<RestartStrategy, String> {
        self.restart.parse().map_err(|error| format!("{error}"))
    }
}

/// How far a job is, in Flink's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobStatus {
    /// It was submitted and has no slots yet.
    Created,
    /// It has slots; its members' ports are being reserved.
    Scheduled,
    /// Its processes are being started, or told who the others are.
    Deploying,
    /// All processes live; what they remember is being restored.
    Initializing,
    /// It works.
    Running,
    /// It has come to its end, or was stopped.
    Finished,
    /// It is being cancelled.
    Canceling,
    /// It was cancelled.
    Canceled,
    /// It has failed; its processes are being ended.
    Failing,
    /// It has failed for good.
    Failed,
    /// Something was lost; it starts again.
    Restarting,
    /// The coordinator has started again and does not know yet what of it still runs.
    Suspended,
}

impl JobStatus {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Created,
        Self::Scheduled,
        Self::Deploying,
        Self::Initializing,
        Self::Running,
        Self::Finished,
        Self::Canceling,
        Self::Canceled,
        Self::Failing,
        Self::Failed,
        Self::Restarting,
        Self::Suspended,
    ];

    /// What may come next.
    pub fn next(self) -> &'static [Self] {
        use JobStatus::*;
        match self {
            Created => &[Scheduled, Canceled, Failing],
            Scheduled => &[Deploying, Restarting, Canceling, Failing, Suspended],
            Deploying => &[Initializing, Restarting, Canceling, Failing, Suspended],
            Initializing => &[Running, Restarting, Canceling, Failing, Suspended],
            Running => &[Finished, Canceled, Canceling, Failing, Restarting, Suspended],
            // A job that fails inside goes on by itself: Restarting, Running.
            Restarting => &[Scheduled, Running, Canceling, Failing, Suspended],
            Suspended => &[Initializing, Running, Restarting, Canceling, Failing],
            Canceling => &[Canceled, Finished],
            Failing => &[Failed],
            Finished | Canceled | Failed => &[],
        }
    }

    /// Whether it stays like this for ever.
    pub fn is_terminal(self) -> bool {
        self.next().is_empty()
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}

/// A member and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Its worker.
    pub worker: WorkerName,
    /// Where the other members reach it; empty until its port is reserved.
    pub address: String,
    /// Its slots.
    pub slots: u32,
}

/// What must be known of a job when the coordinator starts again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What was asked for.
    pub spec: JobSpec,
    /// How far it is.
    pub status: JobStatus,
    /// Of its newest deployment; 0 before the first.
    pub generation: u64,
    /// The members of that deployment.
    pub members: Vec<Placed>,
    /// Whether it is to stop.
    pub stop: bool,
    /// How it ended, as its first member told it.
    pub end: Option<EndStatus>,
    /// Why it has failed, or was started again the last time.
    pub error: Option<String>,
}

impl JobRecord {
    pub(super) fn new(spec: JobSpec) -> Self {
        Self {
            spec,
            status: JobStatus::Created,
            generation: 0,
            members: Vec::new(),
            stop: false,
            end: None,
            error: None,
        }
    }
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its worker was asked for a port.
    Reserving,
    /// It has a port.
    Reserved,
    /// Its process lives, and follows the deployment before.
    Kept,
    /// Its process is being started.
    Starting,
    /// Its process lives and was told of the deployment.
    Redeploying,
    /// Its process follows the deployment.
    Alive,
    /// Its process has told that the job has ended.
    Ending {
        /// When.
        since: Duration,
    },
    /// Its worker has not come back yet since the coordinator started.
    Missing,
    /// There is none any more.
    Lost,
}

impl Step {
    /// Whether there is a process that can be told of another deployment.
    pub(super) fn survives(self) -> bool {
        matches!(self, Self::Kept | Self::Redeploying | Self::Alive)
    }
}

/// What a job's first member has told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How many attempts have begun in the newest deployment.
    pub attempt: u64,
    /// The checkpoint that it has gone on from.
    pub restored: Option<u64>,
    /// The newest complete checkpoint.
    pub checkpoint: Option<u64>,
    /// How long that took, in microseconds.
    pub checkpoint_took_us: Option<u64>,
    /// Records that sources have emitted.
    pub records_in: u64,
    /// Records that sinks have taken.
    pub records_out: u64,
}

/// A job that waits for slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) since: Duration,
    pub(super) what: String,
}

/// Says that a member of a job could not be reached by another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) at: Duration,
    pub(super) by: usize,
    pub(super) about: usize,
}

/// A job and all that is forgotten with the coordinator's process.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    /// One for each member of the record.
    pub(super) steps: Vec<Step>,
    /// Their processes, as far as they are known.
    pub(super) pids: Vec<Option<u32>>,
    pub(super) progress: Progress,
    pub(super) waiting: Option<Waiting>,
    pub(super) policy: RestartPolicy,
    pub(super) reports: VecDeque<Report>,
    /// When its processes failed, by worker.
    pub(super) failures: BTreeMap<WorkerName, VecDeque<Duration>>,
    /// Workers that get none of its members until then.
    pub(super) blocked: BTreeMap<WorkerName, Duration>,
    /// Its first member has told that all works.
    pub(super) works: bool,
    /// Its processes were told to end.
    pub(super) killed: bool,
    /// When what it waits for has taken too long.
    pub(super) deadline: Option<Duration>,
    /// It is not placed before.
    pub(super) place_after: Duration,
    /// It is not placed before what was killed is gone, or this has come.
    pub(super) settle_until: Duration,
    /// How often members were lost.
    pub(super) restarts: u64,
    /// When it was first seen to have ended.
    pub(super) ended_at: Option<Duration>,
}

impl Job {
    pub(super) fn new(record: JobRecord) -> Self {
        // What was submitted was validated; what is read back and is not understood bears nothing.
        let strategy = record.spec.strategy().unwrap_or(RestartStrategy::None);
        Self {
            steps: vec![Step::Missing; record.members.len()],
            pids: vec![None; record.members.len()],
            record,
            progress: Progress::default(),
            waiting: None,
            policy: RestartPolicy::new(strategy),
            reports: VecDeque::new(),
            failures: BTreeMap::new(),
            blocked: BTreeMap::new(),
            works: false,
            killed: false,
            deadline: None,
            place_after: Duration::ZERO,
            settle_until: Duration::ZERO,
            restarts: 0,
            ended_at: None,
        }
    }

    /// Goes on to another status.
    ///
    /// # Panics
    /// If the life of a job has no such step: that is a mistake in this module.
    pub(super) fn become_status(&mut self, next: JobStatus) {
        let now = self.record.status;
        assert!(now.next().contains(&next), "a job cannot go from {now} to {next}");
        self.record.status = next;
        self.deadline = None;
        if !matches!(next, JobStatus::Created | JobStatus::Restarting) {
            self.waiting = None;
        }
    }

    /// The member on a worker.
    pub(super) fn member_on(&self, worker: &WorkerName) -> Option<usize> {
        let on = |at: &usize| {
            self.record.members[*at].worker == *worker && self.steps[*at] != Step::Lost
        };
        (0..self.steps.len()).find(on)
    }

    pub(super) fn is_blocked(&self, worker: &WorkerName, now: Duration) -> bool {
        self.blocked.get(worker).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_stays_and_everything_else_can_end() {
        for status in JobStatus::ALL {
            let terminal =
                matches!(status, JobStatus::Finished | JobStatus::Canceled | JobStatus::Failed);
            assert_eq!(status.is_terminal(), terminal, "{status}");
            let mut reached = vec![status];
            let mut at = 0;
            while at < reached.len() {
                let next = reached[at].next().iter().filter(|next| !reached.contains(next));
                let next: Vec<_> = next.copied().collect();
                reached.extend(next);
                at += 1;
            }
            assert!(reached.iter().any(|one| one.is_terminal()), "{status} never ends");
            assert!(
                terminal || reached.contains(&JobStatus::Failed) || status == JobStatus::Canceling
            );
        }
    }
}
