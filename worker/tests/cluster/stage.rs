//! A coordinator and workers, each with threads of its own, so that one can be cut off at once.

use millstream_control::client::{Client, Submission};
use millstream_control::secret::ClusterSecret;
use millstream_coordinator::Coordinator;
use millstream_protocol::cluster::{ClusterSettings, JobId, JobStatus, JobView, WorkerName};
use millstream_worker::Worker;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What is waited for comes much sooner, on a host that is not overloaded.
const WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const END_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Stage {
    directory: TempDir,
    secret: Option<ClusterSecret>,
    center: Option<(Runtime, Coordinator)>,
    workers: BTreeMap<String, (Runtime, Worker)>,
    bind: SocketAddr,
    rest: SocketAddr,
}

pub(crate) fn secret(text: &str) -> Option<ClusterSecret> {
    Some(ClusterSecret::new(text.as_bytes()).unwrap())
}

pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

impl Stage {
    pub(crate) fn new(secret: Option<ClusterSecret>) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut stage = Self {
            directory: tempfile::tempdir().unwrap(),
            secret,
            center: None,
            workers: BTreeMap::new(),
            bind: any,
            rest: any,
        };
        stage.start_coordinator();
        stage
    }

    pub(crate) fn start_coordinator(&mut self) {
        let settings = millstream_coordinator::Settings {
            bind: self.bind,
            rest: self.rest,
            data_directory: self.directory.path().join("coordinator"),
            secret: self.secret.clone(),
            cluster: ClusterSettings {
                kill_timeout: Duration::from_secs(1),
                ..ClusterSettings::default()
            },
        };
        let runtime = runtime();
        let coordinator = runtime.block_on(Coordinator::start(settings)).unwrap();
        (self.bind, self.rest) = (coordinator.bind_address(), coordinator.rest_address());
        self.center = Some((runtime, coordinator));
    }

    /// As if it was killed: nobody is told.
    pub(crate) fn stop_coordinator(&mut self) {
        if let Some((runtime, coordinator)) = self.center.take() {
            runtime.shutdown_timeout(END_TIMEOUT);
            drop(coordinator);
        }
    }

    pub(crate) fn restart_coordinator(&mut self) {
        self.stop_coordinator();
        self.start_coordinator();
    }

    pub(crate) fn rest(&self) -> String {
        self.rest.to_string()
    }

    pub(crate) fn client_with(&self, secret: Option<ClusterSecret>) -> Client {
        Client::new(&self.rest(), secret.as_ref())
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(self.secret.clone())
    }

    /// A worker joins, and is known when this returns.
    pub(crate) fn join(&mut self, name: &str, slots: u32) {
        self.join_with(name, slots, self.secret.clone());
        self.wait("the worker is connected", |client| {
            let workers = client.workers().unwrap();
            workers.iter().any(|one| one.name.as_str() == name && one.connected)
        });
    }

    pub(crate) fn join_with(&mut self, name: &str, slots: u32, secret: Option<ClusterSecret>) {
        let settings = millstream_worker::Settings {
            coordinator: self.bind.to_string(),
            name: WorkerName::new(name).unwrap(),
            host: "127.0.0.1".into(),
            slots,
            labels: BTreeMap::new(),
            data_directory: self.directory.path().join(name),
            secret,
            core_lease_directory: self.directory.path().join("cores"),
            run_as: None,
        };
        let runtime = runtime();
        let worker = runtime.block_on(Worker::start(settings)).unwrap();
        self.workers.insert(name.to_owned(), (runtime, worker));
    }

    /// As if its host was lost.
    pub(crate) fn lose(&mut self, name: &str) {
        if let Some((runtime, worker)) = self.workers.remove(name) {
            runtime.shutdown_timeout(END_TIMEOUT);
            drop(worker);
        }
    }

    pub(crate) fn submit(&self, what: &str, slots: u32) -> JobId {
        self.submit_with(what, slots, "rate 10 10m 0s")
    }

    pub(crate) fn submit_with(&self, what: &str, slots: u32, restart: &str) -> JobId {
        let client = self.client();
        let artifact = client.upload(&member()).unwrap();
        let submission = Submission {
            name: what.into(),
            artifact,
            args: vec![what.into()],
            slots,
            labels: BTreeMap::new(),
            restart: Some(restart.into()),
        };
        client.submit(&submission).unwrap()
    }

    pub(crate) fn until(&self, job: &JobId, status: JobStatus) -> JobView {
        self.wait(&format!("the job is {status}"), |client| {
            client.job(job).unwrap().status == status
        });
        self.client().job(job).unwrap()
    }

    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Client) -> bool) {
        let (client, end) = (self.client(), Instant::now() + WAIT);
        while !holds(&client) {
            assert!(Instant::now() < end, "{what}: {:#?}", client.jobs());
            std::thread::park_timeout(LOOK_EVERY);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (runtime, worker) in std::mem::take(&mut self.workers).into_values() {
            runtime.block_on(worker.end());
        }
        self.stop_coordinator();
    }
}

/// The example that cargo has built beside this test.
fn member() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(|deps| deps.parent()).unwrap();
    built.join("examples").join("member")
}
