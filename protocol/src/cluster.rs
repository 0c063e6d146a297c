//! Decides where the jobs of a cluster run, and what happens when workers or processes are lost.
//!
//! Pure: events in, commands out. The caller performs the commands in the order in which they were
//! pushed, and reports what came of them. Time is a [`Duration`] since an origin of the caller's.
//!
//! A job gets slots on some workers, one **member** on each. First each worker is asked to
//! [reserve](Command::Reserve) a port; when all have one, the members are told who all of them are:
//! processes are [started](Command::Start), those that live already get an
//! [order](crate::Order). What is lost is replaced in a new **generation** of the deployment.
//!
//! [millstream_protocol_order]: crate::Order::Deploy
//!
//! # Invariants
//! - A worker never has more slots in use than it offers, and never two members of one job. Slots are
//!   in use until the worker has said that nothing is left on them, or is lost.
//! - What an older generation says, of a worker or of a deployment, changes nothing.
//! - A generation is [persisted](Command::Persist) before anybody hears of it.
//! - A job goes from one status to another only where [`JobStatus::next`] says so.
//! - What waits does so for a bounded time, but for a job whose processes all live.

mod job;
mod life;
mod members;
mod names;
pub mod placement;
#[cfg(test)]
mod tests;
mod view;
mod worker;

pub use job::{
    JOB_ARGS_BYTES_MAX, JOB_NAME_BYTES_MAX, JOB_SLOTS_MAX, JobRecord, JobSpec, JobStatus, Placed,
    Progress, Step,
};
pub use names::{ArtifactId, JobId, NameError, WorkerName};
pub use view::{JobView, MemberView, Overview, WorkerView};
pub use worker::{Registration, RunningProcess, WORKER_LABELS_MAX, WORKER_SLOTS_MAX};

use crate::deployment::{Deployment, Order, Told};
use job::Job;
use std::collections::BTreeMap;
use std::time::Duration;
use worker::Worker;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// A worker that is not heard of for so long is lost.
    pub heartbeat_timeout: Duration,
    /// A job that waits longer for slots fails.
    pub slots_timeout: Duration,
    /// A worker that does not reserve a port in this time has failed.
    pub reserve_timeout: Duration,
    /// A process that does not follow a deployment in this time has failed; it is fetched first.
    pub deploy_timeout: Duration,
    /// How long workers have to come back when the coordinator has started again.
    pub adoption_timeout: Duration,
    /// How long a job may take to cancel before its processes are killed.
    pub cancel_timeout: Duration,
    /// How long it may take until processes that are to end have ended.
    pub kill_timeout: Duration,
    /// Reports about a member count together if they come within this time.
    pub reports_window: Duration,
    /// Failures of a job's processes on a worker count together if they come within this time.
    pub failures_window: Duration,
    /// After so many of them the worker gets no member of that job for a while.
    pub failures_max: usize,
    /// How long that is.
    pub blocked_for: Duration,
    /// How many jobs that have ended are remembered.
    pub ended_jobs_max: usize,
    /// How many jobs that have not ended there may be.
    pub live_jobs_max: usize,
    /// How many workers are known.
    pub workers_max: usize,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            heartbeat_timeout: seconds(3),
            slots_timeout: seconds(300),
            reserve_timeout: seconds(10),
            deploy_timeout: seconds(120),
            adoption_timeout: seconds(15),
            cancel_timeout: seconds(30),
            kill_timeout: seconds(15),
            reports_window: seconds(10),
            failures_window: seconds(60),
            failures_max: 3,
            blocked_for: seconds(60),
            ended_jobs_max: 200,
            live_jobs_max: 1000,
            workers_max: 1000,
        }
    }
}

/// A connection of a worker: what comes from an older one counts no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSession {
    /// Which worker.
    pub worker: WorkerName,
    /// What it was given when it registered.
    pub generation: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed: several times a second.
    Tick,
    /// A worker has come. [`Cluster::session`] then says its generation.
    Register(Registration),
    /// A worker lives.
    Heartbeat(WorkerSession),
    /// A worker's connection is lost.
    Disconnected(WorkerSession),
    /// A worker keeps a port.
    Reserved {
        /// Who says it.
        from: WorkerSession,
        /// For which job.
        job: JobId,
        /// For which deployment.
        generation: u64,
        /// The port.
        port: u16,
    },
    /// A worker cannot do what it was asked for. Nothing of the deployment runs there.
    Refused {
        /// Who says it.
        from: WorkerSession,
        /// Of which job.
        job: JobId,
        /// Of which deployment.
        generation: u64,
        /// Why.
        error: String,
    },
    /// A process has told something.
    Told {
        /// Its worker.
        from: WorkerSession,
        /// Its job.
        job: JobId,
        /// The deployment that it follows.
        generation: u64,
        /// Its number.
        member: usize,
        /// What.
        told: Told,
    },
    /// A process has ended, or was not there. Nothing of the job is left on the worker, of this
    /// generation or an older one.
    Exited {
        /// Its worker.
        from: WorkerSession,
        /// Its job.
        job: JobId,
        /// The deployment that it was told of last.
        generation: u64,
        /// How.
        how: String,
    },
    /// A client submits a job.
    Submit(JobSpec),
    /// A client wants a job to end at once.
    Cancel(JobId),
    /// A client wants a job to end with a last checkpoint.
    Stop(JobId),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Store a job, durably, before any command behind this one is performed.
    Persist(JobRecord),
    /// Forget a job that has ended long ago.
    Forget(JobId),
    /// Ask a worker to keep a port.
    Reserve {
        /// Whom.
        to: WorkerSession,
        /// For which job.
        job: JobId,
        /// For which deployment.
        generation: u64,
    },
    /// Ask a worker to start a process.
    Start {
        /// Whom.
        to: WorkerSession,
        /// The executable.
        artifact: ArtifactId,
        /// Its arguments.
        args: Vec<String>,
        /// What it is told; the worker adds what only it knows.
        deployment: Deployment,
    },
    /// Ask something of a process.
    Order {
        /// Its worker.
        to: WorkerSession,
        /// Its job.
        job: JobId,
        /// The deployment that it follows; if it is to follow another one, that one.
        generation: u64,
        /// What.
        order: Order,
    },
    /// Ask a worker to end a job's process, and to give up what it keeps for it. It answers with
    /// [`Event::Exited`] in any case.
    Kill {
        /// Whom.
        to: WorkerSession,
        /// The job.
        job: JobId,
        /// The newest deployment that is meant.
        generation: u64,
    },
    /// Close a worker's connection: it was not heard of.
    Disconnect(WorkerSession),
}

/// Why an event is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A worker or process speaks for a generation that was replaced.
    #[error("{who} speaks for generation {generation}, which is not the newest")]
    Outdated {
        /// Who.
        who: String,
        /// Its generation.
        generation: u64,
    },
    /// Another worker has this name.
    #[error(
        "a worker named {0} is connected already; give each its own --name, or wait until the \
         other is lost"
    )]
    NameTaken(WorkerName),
    /// What was sent does not work.
    #[error("{0}")]
    Invalid(String),
    /// There is no such job.
    #[error("there is no job {0}; `millstream list` shows those that are known")]
    UnknownJob(JobId),
    /// A job has ended already.
    #[error("job {id} has ended already: it is {status}")]
    Ended {
        /// Which.
        id: JobId,
        /// How.
        status: JobStatus,
    },
    /// What would follow from it cannot be stored.
    #[error(
        "the coordinator cannot store it: {0}; see to the disk of its data directory and start it again"
    )]
    NotStored(String),
    /// There are as many as are allowed.
    #[error("there are {0} already, which is the most; wait until some have ended")]
    TooMany(String),
}

/// Ticks come more often, or something has kept the coordinator from them.
const STANDSTILL_MIN: Duration = Duration::from_secs(1);

/// All workers and jobs.
#[derive(Clone, Debug)]
pub struct Cluster {
    settings: ClusterSettings,
    /// The newest that a worker was given.
    worker_generation: u64,
    workers: BTreeMap<WorkerName, Worker>,
    jobs: BTreeMap<JobId, Job>,
    /// When it last looked whether anybody was silent.
    looked_at: Duration,
}

impl Cluster {
    /// A cluster without workers, with the jobs that were persisted. `worker_generation` is at least
    /// as great as any that a worker was ever given.
    pub fn recover(
        settings: ClusterSettings,
        worker_generation: u64,
        records: Vec<JobRecord>,
        now: Duration,
    ) -> Self {
        let jobs = records.into_iter().map(|record| {
            let job = Self::recovered(&settings, record, now);
            (job.record.spec.id.clone(), job)
        });
        Self {
            settings,
            worker_generation,
            workers: BTreeMap::new(),
            jobs: jobs.collect(),
            looked_at: now,
        }
    }

    /// The newest connection of a worker, if it is connected.
    pub fn session(&self, worker: &WorkerName) -> Option<WorkerSession> {
        let found = self.workers.get(worker).filter(|found| found.connected)?;
        Some(WorkerSession { worker: worker.clone(), generation: found.generation })
    }

    /// Something has happened at `now`, which never goes back.
    ///
    /// # Errors
    /// If it is not accepted. What was pushed is to be performed all the same.
    pub fn on_event(
        &mut self,
        now: Duration,
        event: Event,
        commands: &mut Vec<Command>,
    ) -> Result<(), Refusal> {
        let mut turn = Turn { cluster: self, now, commands };
        let done = turn.handle(event);
        turn.settle();
        done
    }
}

/// One event and what it leads to.
struct Turn<'a> {
    cluster: &'a mut Cluster,
    now: Duration,
    commands: &'a mut Vec<Command>,
}

impl Turn<'_> {
    fn handle(&mut self, event: Event) -> Result<(), Refusal> {
        match event {
            Event::Tick => {
                self.find_silent_workers();
                Ok(())
            }
            Event::Register(registration) => self.register(registration),
            Event::Heartbeat(from) => self.heard(&from),
            Event::Disconnected(from) => {
                self.heard(&from)?;
                self.lose_worker(&from.worker, "its connection was lost");
                Ok(())
            }
            Event::Reserved { from, job, generation, port } => {
                self.heard(&from)?;
                self.reserved(&from.worker, &job, generation, port)
            }
            Event::Refused { from, job, generation, error } => {
                self.heard(&from)?;
                self.gone(&from.worker, &job, generation, &error)
            }
            Event::Exited { from, job, generation, how } => {
                self.heard(&from)?;
                self.gone(&from.worker, &job, generation, &how)
            }
            Event::Told { from, job, generation, member, told } => {
                self.heard(&from)?;
                self.told(&from.worker, &job, generation, member, told)
            }
            Event::Submit(spec) => self.submit(spec),
            Event::Cancel(job) => self.cancel(&job),
            Event::Stop(job) => self.stop(&job),
        }
    }

    /// A worker has said something.
    fn heard(&mut self, from: &WorkerSession) -> Result<(), Refusal> {
        match self.cluster.workers.get_mut(&from.worker) {
            Some(worker) if worker.connected && worker.generation == from.generation => {
                worker.heard_at = self.now;
                Ok(())
            }
            _ => Err(Refusal::Outdated {
                who: format!("worker {}", from.worker),
                generation: from.generation,
            }),
        }
    }

    fn register(&mut self, registration: Registration) -> Result<(), Refusal> {
        registration.validate().map_err(Refusal::Invalid)?;
        let name = registration.name.clone();
        match self.cluster.workers.get(&name) {
            Some(known)
                if known.connected
                    && known.registration.incarnation != registration.incarnation =>
            {
                return Err(Refusal::NameTaken(name));
            }
            Some(_) => {}
            None => self.make_room_for_a_worker()?,
        }
        self.cluster.worker_generation += 1;
        let processes = registration.processes.clone();
        let worker = Worker::new(registration, self.cluster.worker_generation, self.now);
        self.cluster.workers.insert(name.clone(), worker);
        self.adopt(&name, &processes);
        Ok(())
    }

    fn make_room_for_a_worker(&mut self) -> Result<(), Refusal> {
        let workers = &mut self.cluster.workers;
        if workers.len() < self.cluster.settings.workers_max {
            return Ok(());
        }
        let gone = workers.iter().filter(|(_, one)| !one.connected);
        let longest = gone.min_by_key(|(_, one)| one.heard_at).map(|(name, _)| name.clone());
        match longest {
            Some(name) => {
                workers.remove(&name);
                Ok(())
            }
            None => Err(Refusal::TooMany(format!("{} workers", workers.len()))),
        }
    }

    fn find_silent_workers(&mut self) {
        let timeout = self.cluster.settings.heartbeat_timeout;
        // While the coordinator stood still, nobody was heard.
        let gap = self.now.saturating_sub(std::mem::replace(&mut self.cluster.looked_at, self.now));
        if gap > STANDSTILL_MIN {
            for worker in self.cluster.workers.values_mut() {
                worker.heard_at = (worker.heard_at + gap).min(self.now);
            }
        }
        let silent =
            |one: &&Worker| one.connected && self.now.saturating_sub(one.heard_at) >= timeout;
        let silent: Vec<_> = self.cluster.workers.values().filter(silent).map(session).collect();
        for one in silent {
            self.commands.push(Command::Disconnect(one.clone()));
            self.lose_worker(&one.worker, &format!("it was silent for {timeout:?}"));
        }
    }

    fn lose_worker(&mut self, name: &WorkerName, why: &str) {
        if let Some(worker) = self.cluster.workers.get_mut(name) {
            worker.connected = false;
            worker.held.clear();
        }
        for (id, member) in self.members_on(name) {
            self.lose_member(&id, member, &format!("worker {name} is lost: {why}"), false);
        }
    }

    /// The members that a worker has of jobs that have not ended, but for those that have said that
    /// their job has.
    fn members_on(&self, worker: &WorkerName) -> Vec<(JobId, usize)> {
        let jobs = self.cluster.jobs.iter().filter(|(_, job)| !job.record.status.is_terminal());
        let members = jobs.filter_map(|(id, job)| Some((id, job, job.member_on(worker)?)));
        let lost = members.filter(|(_, job, at)| !matches!(job.steps[*at], Step::Ending { .. }));
        lost.map(|(id, _, at)| (id.clone(), at)).collect()
    }

    fn persist(&mut self, id: &JobId) {
        if let Some(job) = self.cluster.jobs.get(id) {
            self.commands.push(Command::Persist(job.record.clone()));
        }
    }

    /// Asks a worker to end what it has of a job.
    fn kill_on(&mut self, worker: &WorkerName, id: &JobId) {
        if let Some(worker) = self.cluster.workers.get(worker).filter(|one| one.connected)
            && let Some(held) = worker.held.get(id)
        {
            let generation = held.generation;
            self.commands.push(Command::Kill { to: session(worker), job: id.clone(), generation });
        }
    }

    /// The workers that are connected and have slots of a job in use.
    fn holders(&self, id: &JobId) -> Vec<WorkerName> {
        let holds = |one: &&Worker| one.connected && one.held.contains_key(id);
        let workers = self.cluster.workers.values().filter(holds);
        workers.map(|one| one.registration.name.clone()).collect()
    }
}

fn session(worker: &Worker) -> WorkerSession {
    WorkerSession { worker: worker.registration.name.clone(), generation: worker.generation }
}
