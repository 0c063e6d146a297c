//! The coordinator: keeps jobs and their executables, places jobs on workers, answers clients.
//!
//! What is decided is in [`millstream_protocol::cluster`]; this crate performs it. All events go through one
//! `Driver`, one after the other, and what is to be stored is stored before anybody is told.
//! A coordinator that was killed finds its jobs again, and workers that come back say what still runs.
#![forbid(unsafe_code)]

mod artifacts;
mod driver;
mod rest;
mod service;
mod store;

pub use store::StoreError;

use artifacts::Artifacts;
use driver::Driver;
use millstream_control::gate;
use millstream_control::rpc::coordinator_server::CoordinatorServer;
use millstream_control::secret::{ClusterSecret, SecretError, check_address};
use millstream_protocol::cluster::ClusterSettings;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How often [`run`] looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(200);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const STREAMS_PER_CONNECTION_MAX: u32 = 16;

/// Where a coordinator listens and stores.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens to workers.
    pub bind: SocketAddr,
    /// Where it listens to clients.
    pub rest: SocketAddr,
    /// Where it stores jobs and their executables, for itself alone.
    pub data_directory: PathBuf,
    /// The cluster's secret. None is needed if both addresses are of the loopback interface.
    pub secret: Option<ClusterSecret>,
    /// How long things may take.
    pub cluster: ClusterSettings,
}

/// Why a coordinator cannot start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// An address takes a secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// An address cannot be listened on.
    #[error("{address} cannot be listened on: {source}; give another one with --bind or --rest")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// What it stores cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its directory cannot be used.
    #[error("the data directory {} cannot be used", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The system gives no event loop.
    #[error("the system gives the coordinator no event loop")]
    Runtime(#[source] std::io::Error),
    /// The service for workers has ended.
    #[error("workers are not listened to any more")]
    Service(#[from] tonic::transport::Error),
    /// A part of it has died, which is a fault of its own.
    #[error("a part of the coordinator has died ({0}); start it again, jobs go on meanwhile")]
    Died(#[from] tokio::task::JoinError),
}

/// A coordinator that works until it is dropped.
#[derive(Debug)]
pub struct Coordinator {
    bind: SocketAddr,
    rest: SocketAddr,
    tasks: JoinSet<Result<(), CoordinatorError>>,
}

impl Coordinator {
    /// Opens what is stored and begins to listen.
    ///
    /// # Errors
    /// If an address or the data directory cannot be used, or an address takes a secret.
    pub async fn start(settings: Settings) -> Result<Self, CoordinatorError> {
        let Settings { bind, rest, data_directory, secret, cluster } = settings;
        check_address(bind.ip(), secret.as_ref())?;
        check_address(rest.ip(), secret.as_ref())?;
        let directory =
            |source| CoordinatorError::Directory { path: data_directory.clone(), source };
        std::fs::create_dir_all(&data_directory).map_err(directory)?;
        let store = Store::open(&data_directory.join("coordinator.redb"))?;
        let artifacts = Artifacts::open(data_directory.join("artifacts")).map_err(directory)?;
        let workers = listen(bind).await?;
        let clients = listen(rest).await?;
        let driver = Driver::recover(store, artifacts, cluster)?;
        let bound = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
        let (bind, rest) = (bound(&workers, bind), bound(&clients, rest));

        let mut tasks = JoinSet::new();
        let ticking = driver.clone();
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                ticking.tick();
                if let Some(error) = ticking.fatal() {
                    return Err(CoordinatorError::Store(error));
                }
            }
        });
        let token = secret.as_ref().map(ClusterSecret::token);
        let service = CoordinatorServer::new(service::Service::new(driver.clone()));
        let incoming = gate::admit(workers, secret);
        tasks.spawn(async move {
            let server = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE))
                .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
                .add_service(service);
            Ok(server.serve_with_incoming(incoming).await?)
        });
        tasks.spawn(async move {
            rest::serve(clients, driver, token).await;
            Ok(())
        });
        Ok(Self { bind, rest, tasks })
    }

    /// Where workers reach it.
    pub fn bind_address(&self) -> SocketAddr {
        self.bind
    }

    /// Where clients reach it.
    pub fn rest_address(&self) -> SocketAddr {
        self.rest
    }

    /// Waits for what ends it.
    ///
    /// # Errors
    /// If it cannot store any more, or cannot be reached any more.
    pub async fn wait(&mut self) -> Result<(), CoordinatorError> {
        match self.tasks.join_next().await {
            Some(done) => done?,
            None => Ok(()),
        }
    }
}

/// Runs a coordinator on this thread until `ends` holds. `started` is called when it listens.
///
/// # Errors
/// If it cannot start, or cannot go on.
pub fn run(
    settings: Settings,
    started: impl FnOnce(&Coordinator),
    ends: impl Fn() -> bool,
) -> Result<(), CoordinatorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(CoordinatorError::Runtime)?;
    runtime.block_on(async {
        let mut coordinator = Coordinator::start(settings).await?;
        started(&coordinator);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                done = coordinator.wait() => return done,
                _ = looks.tick() => if ends() {
                    return Ok(());
                }
            }
        }
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, CoordinatorError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| CoordinatorError::Bind { address, source })
}
