//! Performs what the state machine of the cluster decides.
//!
//! # Invariants
//! - Events are handled one after the other, under a lock that is never held over a wait.
//! - What cannot be stored is not done: the coordinator ends, and starts again from what is stored.

use crate::CoordinatorError;
use crate::artifacts::Artifacts;
use crate::store::{Store, StoreError};
use millstream_control::rpc::{self, ToWorker, to_worker::Message};
use millstream_protocol::cluster::{
    Cluster, ClusterSettings, Command, Event, JobId, Refusal, Registration, WorkerName,
    WorkerSession,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::Status;

/// How many messages may be under way to a worker.
pub(crate) const TO_WORKER_MAX: usize = 1024;
/// Workers say that they live so many times within the time after which they are lost.
const HEARTBEATS_PER_TIMEOUT: u32 = 4;
/// Generations of workers begin anew, and higher, with each start.
const GENERATIONS_PER_START_BITS: u32 = 32;

pub(crate) type Outgoing = mpsc::Sender<Result<ToWorker, Status>>;

#[derive(Clone)]
pub(crate) struct Driver {
    core: Arc<Mutex<Core>>,
    pub(crate) artifacts: Artifacts,
}

struct Core {
    cluster: Cluster,
    store: Store,
    started: Instant,
    /// The number of this start, and of jobs since: together no two are the same.
    start: u64,
    jobs: u64,
    heartbeat_interval: Duration,
    links: BTreeMap<WorkerName, (u64, Outgoing)>,
    fatal: Option<StoreError>,
    stopped: bool,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    pub(crate) fn recover(
        store: Store,
        artifacts: Artifacts,
        settings: ClusterSettings,
    ) -> Result<Self, CoordinatorError> {
        let (start, records) = store.begin()?;
        let needed: BTreeSet<_> = records.iter().map(|one| one.spec.artifact.clone()).collect();
        if let Err(error) = artifacts.keep_only(&needed) {
            tracing::warn!("executables that no job needs could not be deleted: {error}");
        }
        if !records.is_empty() {
            tracing::info!("{} jobs were found again", records.len());
        }
        let generation = start << GENERATIONS_PER_START_BITS;
        let cluster = Cluster::recover(settings, generation, records, Duration::ZERO);
        let core = Core {
            cluster,
            store,
            started: Instant::now(),
            start,
            jobs: 0,
            heartbeat_interval: settings.heartbeat_timeout / HEARTBEATS_PER_TIMEOUT,
            links: BTreeMap::new(),
            fatal: None,
            stopped: false,
        };
        Ok(Self { core: Arc::new(Mutex::new(core)), artifacts })
    }

    /// The lock; what a panic has left is still whole, as commands are performed after decisions.
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tick(&self) {
        // Time alone is never refused.
        let _ = self.event(Event::Tick);
    }

    /// What makes it impossible to go on, once.
    pub(crate) fn fatal(&self) -> Option<StoreError> {
        self.core().fatal.take()
    }

    /// Something has happened.
    pub(crate) fn event(&self, event: Event) -> Result<(), Refusal> {
        let mut core = self.core();
        let mut commands = Vec::new();
        let done = core.decide(event, &mut commands);
        core.perform(commands, &self.artifacts)?;
        done
    }

    /// A worker has come; its first message is its generation.
    pub(crate) fn register(
        &self,
        registration: Registration,
        outgoing: Outgoing,
    ) -> Result<WorkerSession, Refusal> {
        let name = registration.name.clone();
        let mut core = self.core();
        let mut commands = Vec::new();
        let done = core.decide(Event::Register(registration), &mut commands);
        let session = core.cluster.session(&name);
        if let (Ok(()), Some(session)) = (&done, &session) {
            let heartbeat_interval_ms = core.heartbeat_interval.as_millis() as u64;
            core.links.insert(name.clone(), (session.generation, outgoing));
            let generation = session.generation;
            let registered = rpc::Registered { generation, heartbeat_interval_ms };
            core.send(session, Message::Registered(registered));
        }
        core.perform(commands, &self.artifacts)?;
        done?;
        session.ok_or_else(|| Refusal::Invalid(format!("worker {name} is not connected")))
    }

    /// An id that no job had before.
    pub(crate) fn new_job_id(&self) -> Result<JobId, Refusal> {
        let mut core = self.core();
        core.jobs += 1;
        let id = format!("{:08x}-{:06x}", core.start, core.jobs);
        JobId::new(&id).map_err(|error| Refusal::Invalid(error.to_string()))
    }

    /// Shows something of the cluster.
    pub(crate) fn show<T>(&self, show: impl FnOnce(&Cluster) -> T) -> T {
        show(&self.core().cluster)
    }
}

impl Core {
    fn decide(&mut self, event: Event, commands: &mut Vec<Command>) -> Result<(), Refusal> {
        if self.stopped {
            return Err(Refusal::NotStored("its store has failed before".to_owned()));
        }
        self.cluster.on_event(self.started.elapsed(), event, commands)
    }

    /// What cannot be stored is not accepted, and ends the coordinator.
    fn perform(&mut self, commands: Vec<Command>, artifacts: &Artifacts) -> Result<(), Refusal> {
        let done = self.persist(&commands).and_then(|()| {
            commands.into_iter().try_for_each(|command| self.perform_one(command, artifacts))
        });
        done.map_err(|error| {
            let refusal = Refusal::NotStored(error.to_string());
            self.stopped = true;
            self.fatal = Some(error);
            tracing::error!("{refusal}");
            refusal
        })
    }

    /// Stores what has become of all jobs at once, before anybody hears of it: when a worker with many of them is
    /// lost, each by itself would take longer than heartbeats may.
    fn persist(&self, commands: &[Command]) -> Result<(), StoreError> {
        let changed = commands.iter().filter_map(|command| match command {
            Command::Persist(record) => Some(record),
            _ => None,
        });
        let mut changed = changed.peekable();
        if changed.peek().is_none() {
            return Ok(());
        }
        self.store.put_all(changed.inspect(|record| {
            let (id, status) = (&record.spec.id, record.status);
            let why = record.error.as_deref().unwrap_or("-");
            tracing::info!("job {id}: {status}, generation {}, {why}", record.generation);
        }))
    }

    fn perform_one(&mut self, command: Command, artifacts: &Artifacts) -> Result<(), StoreError> {
        match command {
            // It is stored already.
            Command::Persist(_) => {}
            Command::Forget(id) => {
                self.store.remove(&id)?;
                let needed: BTreeSet<_> =
                    self.cluster.jobs().into_iter().map(|job| job.artifact).collect();
                if let Err(error) = artifacts.keep_only(&needed) {
                    tracing::warn!("executables could not be deleted: {error}");
                }
            }
            Command::Reserve { to, job, generation } => {
                let job = job.to_string();
                self.send(&to, Message::Reserve(rpc::Reserve { job, generation }));
            }
            Command::Start { to, artifact, args, deployment } => {
                let job = deployment.job.clone();
                let deployment = json(&job, &deployment)?;
                let artifact = artifact.to_string();
                self.send(&to, Message::Start(rpc::Start { artifact, args, deployment }));
            }
            Command::Order { to, job, generation, order } => {
                let job = job.to_string();
                let order = json(&job, &order)?;
                self.send(&to, Message::Order(rpc::Order { job, generation, order }));
            }
            Command::Kill { to, job, generation } => {
                let job = job.to_string();
                self.send(&to, Message::Kill(rpc::Kill { job, generation }));
            }
            Command::Disconnect(session) => {
                tracing::warn!("worker {} is silent", session.worker);
                self.unlink(&session);
            }
        }
        Ok(())
    }

    fn send(&mut self, to: &WorkerSession, message: Message) {
        let sent = match self.links.get(&to.worker) {
            Some((generation, outgoing)) if *generation == to.generation => {
                outgoing.try_send(Ok(ToWorker { message: Some(message) })).is_ok()
            }
            _ => return,
        };
        if !sent {
            // It does not read what it is sent. It is to connect again and to say what it has.
            tracing::warn!("worker {} takes no more messages", to.worker);
            self.unlink(to);
        }
    }

    /// Ends the stream to a worker, which then connects again.
    fn unlink(&mut self, session: &WorkerSession) {
        let newest = self.links.get(&session.worker);
        if newest.is_some_and(|(generation, _)| *generation == session.generation) {
            self.links.remove(&session.worker);
        }
    }
}

fn json(job: &str, value: &impl serde::Serialize) -> Result<String, StoreError> {
    let text = serde_json::to_string(value);
    text.map_err(|source| StoreError::Record { job: job.to_owned(), source })
}
