//! The worker: a host's agent. It offers slots to the coordinator, and starts, watches and ends the
//! processes of jobs.
//!
//! A process is told by a file who the members of its job are, speaks with the agent over a socket
//! ([`Told`](millstream_protocol::Told), [`Order`](millstream_protocol::Order)), and has a directory of its own. A
//! coordinator that is gone disturbs none of them: the agent connects again and says what runs.
//!
//! # Invariants
//! - There is one process of a job on a worker, and an older one is gone before a newer one starts.
//! - What an older generation asks for is not done.
//! - A core is given to one process at a time, by all agents of the host together.
//! - In the directory of a job that has ended, a worker deletes what it has made there itself, once enough other jobs
//!   have ended since, and never anything else; what a job writes to its log is bounded.
//! - No process outlives its agent for long: it ends by itself when the agent's socket has been gone for
//!   30 seconds, and the next agent with this directory ends at its start what is left.
#![forbid(unsafe_code)]

mod agent;
mod artifacts;
mod cores;
mod leftovers;
mod link;
mod logs;
mod process;
mod retention;
mod socket;

use agent::Agent;
use millstream_control::secret::{ClusterSecret, SecretError, check_address};
use millstream_protocol::cluster::WorkerName;
use retention::Ended;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often [`run`] looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a worker takes part in a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the coordinator listens to workers: `HOST:PORT`.
    pub coordinator: String,
    /// Its name, which no other worker has.
    pub name: WorkerName,
    /// The address, or name, at which the processes of jobs listen and other hosts reach them.
    pub host: String,
    /// How many slots it offers.
    pub slots: u32,
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// Where it keeps executables, and what the processes of jobs store. For itself alone.
    pub data_directory: PathBuf,
    /// The cluster's secret. None is needed if the coordinator and `host` are of the loopback interface.
    pub secret: Option<ClusterSecret>,
    /// Where the agents of this host note which core is taken.
    pub core_lease_directory: PathBuf,
    /// The user and group that processes of jobs run as; else those of the agent.
    pub run_as: Option<(u32, u32)>,
    /// Of so many jobs that run here no more, those that have ended last, the directories stay as they are. From
    /// others' the worker deletes what it has made there itself, such as logs.
    pub jobs_kept: usize,
    /// A file of what a job's process writes to its standard streams has about so many bytes at the most;
    /// there are up to two for each stream.
    pub job_log_bytes_max: u64,
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// An address takes a secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The address at which others reach it is none.
    #[error(
        "{host} is no address at which other hosts reach this one; give one of its addresses, or its \
         name, with --bind"
    )]
    Host {
        /// What was given.
        host: String,
    },
    /// Its directory cannot be used.
    #[error("the data directory {} cannot be used", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The system gives no event loop.
    #[error("the system gives the worker no event loop")]
    Runtime(#[source] std::io::Error),
    /// A part of it has died, which is a fault of its own.
    #[error(
        "the agent has died ({0}); its processes end with the next one that uses its --data-dir"
    )]
    Died(#[from] tokio::task::JoinError),
    /// Another worker uses its directory.
    #[error("another worker uses {}; give each its own --data-dir", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
}

/// A worker that works until it is told to end.
#[derive(Debug)]
pub struct Worker {
    end: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    /// Locked as long as the worker lives.
    _lock: File,
}

impl Worker {
    /// Ends what an earlier worker has left in the directory, and begins to look for the coordinator.
    ///
    /// # Errors
    /// If the directory or the address cannot be used, or the address takes a secret.
    pub async fn start(mut settings: Settings) -> Result<Self, WorkerError> {
        let host = check_host(&settings.host)?;
        check_address(host, settings.secret.as_ref())?;
        // Who cannot be found yet is checked when he is.
        if let Ok(mut coordinators) = settings.coordinator.to_socket_addrs() {
            coordinators.try_for_each(|one| check_address(one.ip(), settings.secret.as_ref()))?;
        }
        let path = settings.data_directory.clone();
        let failed = |source| WorkerError::Directory { path: path.clone(), source };
        std::fs::create_dir_all(path.join("jobs")).map_err(failed)?;
        settings.data_directory = path.canonicalize().map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        if rustix::fs::flock(&lock, operation).is_err() {
            return Err(WorkerError::InUse { path });
        }
        let mut ended =
            Ended::open(&settings.data_directory, settings.jobs_kept).map_err(failed)?;
        let left = leftovers::end(&settings.data_directory).await.map_err(failed)?;
        left.iter().for_each(|job| ended.note(job));
        let (inputs, input) = mpsc::channel(agent::INPUTS_MAX);
        socket::listen(&settings, inputs.clone()).map_err(failed)?;
        let (end, ends) = oneshot::channel();
        link::keep(settings.coordinator.clone(), settings.secret.clone(), inputs.clone());
        let agent = Agent::new(settings, host, ended, inputs);
        let task = tokio::spawn(agent.run(input, ends));
        Ok(Self { end: Some(end), task, _lock: lock })
    }

    /// Ends all processes, and then the worker.
    ///
    /// # Errors
    /// If its agent has died.
    pub async fn end(mut self) -> Result<(), WorkerError> {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        Ok(self.task.await?)
    }
}

/// Runs a worker on this thread until `ends` holds; then all its processes end.
///
/// # Errors
/// If it cannot start, or its agent dies.
pub fn run(settings: Settings, ends: impl Fn() -> bool) -> Result<(), WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(WorkerError::Runtime)?.block_on(async {
        let worker = Worker::start(settings).await?;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while !ends() && !worker.task.is_finished() {
            looks.tick().await;
        }
        worker.end().await
    })
}

/// The address that the processes of jobs listen on.
fn check_host(host: &str) -> Result<IpAddr, WorkerError> {
    let wrong = || WorkerError::Host { host: host.to_owned() };
    let mut found = (host, 0).to_socket_addrs().map_err(|_| wrong())?;
    let address = found.next().ok_or_else(wrong)?.ip();
    if address.is_unspecified() { Err(wrong()) } else { Ok(address) }
}
