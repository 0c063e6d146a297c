//! A coordinator and workers, each with threads of its own, so that one can be cut off at once.

use millstream_control::client::{Client, Submission};
use millstream_control::secret::ClusterSecret;
use millstream_coordinator::Coordinator;
use millstream_protocol::cluster::{ClusterSettings, JobId, JobStatus, JobView, WorkerName};
use millstream_worker::Worker;
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// What is waited for comes much sooner, on a host that is not overloaded.
const WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Directories of jobs that a worker keeps.
pub(crate) const JOBS_KEPT: usize = 2;
/// A connection that asks for something begins with more bytes.
const REGISTRATION_BYTES: usize = 200;
pub(crate) const LOG_BYTES_MAX: u64 = 4096;

pub(crate) struct Stage {
    directory: TempDir,
    secret: Option<ClusterSecret>,
    center: Option<Place>,
    workers: BTreeMap<String, Place>,
    bind: SocketAddr,
    rest: SocketAddr,
    run_as: Option<(u32, u32)>,
}

pub(crate) fn secret(text: &str) -> Option<ClusterSecret> {
    Some(ClusterSecret::new(text.as_bytes()).unwrap())
}

pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// A thread with a runtime of its own.
struct Place {
    thread: JoinHandle<()>,
    /// Whether in order; dropped, all is cut off.
    end: oneshot::Sender<()>,
}

impl Place {
    /// `start` sends what it has to say when all is ready, and ends when it is told to.
    fn new<T: Send + 'static, F: Future<Output = ()>>(
        start: impl FnOnce(mpsc::Sender<T>, oneshot::Receiver<()>) -> F + Send + 'static,
    ) -> (Self, T) {
        let (ready, started) = mpsc::channel();
        let (end, ends) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(start(ready, ends));
        });
        let started = started.recv().unwrap();
        (Self { thread, end }, started)
    }

    /// Ends it in order.
    fn end(self) {
        self.end.send(()).unwrap();
        self.thread.join().unwrap();
    }

    /// Cuts it off: nobody is told.
    fn cut(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
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
            run_as: None,
        };
        stage.start_coordinator();
        stage
    }

    /// Processes of workers that join from now on run as this user and group.
    pub(crate) fn run_as(&mut self, user: u32, group: u32) {
        self.run_as = Some((user, group));
        // They reach what is theirs within it.
        fs::set_permissions(self.path(""), Permissions::from_mode(0o711)).unwrap();
    }

    /// Something in the directory of all that is on the stage.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory of a job on a worker.
    pub(crate) fn job_directory(&self, worker: &str, job: &JobId) -> PathBuf {
        self.path(worker).join("jobs").join(job.as_str())
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
        let (place, addresses) = Place::new(|ready, ends| async move {
            let coordinator = Coordinator::start(settings).await.unwrap();
            ready.send((coordinator.bind_address(), coordinator.rest_address())).unwrap();
            let _ = ends.await;
        });
        (self.bind, self.rest) = addresses;
        self.center = Some(place);
    }

    /// As if it was killed: nobody is told.
    pub(crate) fn stop_coordinator(&mut self) {
        if let Some(place) = self.center.take() {
            place.cut();
        }
    }

    /// Something that takes a worker's registration where the coordinator was, and answers nothing.
    pub(crate) fn hear_a_worker_and_die(&self) {
        let (mut stream, _) = TcpListener::bind(self.bind).unwrap().accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut heard = [0; REGISTRATION_BYTES];
        // The begin of HTTP/2 alone has fewer bytes, and the time is over before an answer is missed.
        let _ = stream.read_exact(&mut heard);
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
            run_as: self.run_as,
            jobs_kept: JOBS_KEPT,
            job_log_bytes_max: LOG_BYTES_MAX,
        };
        let (place, ()) = Place::new(|ready, ends| async move {
            let worker = Worker::start(settings).await.unwrap();
            ready.send(()).unwrap();
            if ends.await.is_ok() {
                worker.end().await.unwrap();
            }
        });
        self.workers.insert(name.to_owned(), place);
    }

    /// As if its host was lost.
    pub(crate) fn lose(&mut self, name: &str) {
        if let Some(place) = self.workers.remove(name) {
            place.cut();
        }
    }

    pub(crate) fn submit(&self, what: &str, slots: u32) -> JobId {
        self.submit_with(what, slots, "rate 10 10m 0s")
    }

    pub(crate) fn submit_with(&self, what: &str, slots: u32, restart: &str) -> JobId {
        self.submit_file(&member(), what, slots, restart)
    }

    /// Submits a shell script, which needs one slot.
    pub(crate) fn submit_script(&self, script: &str, restart: &str) -> JobId {
        let path = self.path("script");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        self.submit_file(&path, "script", 1, restart)
    }

    fn submit_file(&self, file: &Path, what: &str, slots: u32, restart: &str) -> JobId {
        let client = self.client();
        let artifact = client.upload(file).unwrap();
        let submission = Submission {
            name: what.into(),
            artifact,
            args: vec![what.into()],
            slots,
            parallelism: None,
            from_checkpoint: None,
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
        std::mem::take(&mut self.workers).into_values().for_each(Place::end);
        self.stop_coordinator();
    }
}

/// The example that cargo has built beside this test.
fn member() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(|deps| deps.parent()).unwrap();
    built.join("examples").join("member")
}
