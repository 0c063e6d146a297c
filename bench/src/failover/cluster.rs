//! A cluster, a job on it, and what happens to them.

use super::job::{NAME, Told};
use super::{Fault, Options, Sample};
use crate::process::Ending;
use crate::scratch::ScratchFolder;
use crate::{BenchError, files};
use millstream_control::client::{Client, ClientError, Submission};
use millstream_control::secret::ClusterSecret;
use millstream_hosts::{Host, Hosts};
use millstream_ops::Interrupt;
use millstream_protocol::cluster::{JobId, JobStatus, JobView, MemberView};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A coordinator's and those of the workers.
pub(super) const HOSTS: usize = 4;
const WORKER_SLOTS: u32 = 2;
/// One of each worker, so that any two can take over what the third had.
pub(super) const JOB_SLOTS: u32 = 3;
const WORKERS_PORT: u16 = 7411;
const CLIENTS_PORT: u16 = 7410;
/// Between two looks at what changes.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// Between two looks whether the job has failed.
const FAILURE_INTERVAL: Duration = Duration::from_millis(500);
/// What is given up if nothing has changed for so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster with a job. All of it ends with this value.
pub(super) struct Trial<'a> {
    fault: Fault,
    hosts: &'a Hosts,
    client: Client,
    job: JobId,
    told: UnixDatagram,
    start: Duration,
    coordinator_resident: u64,
    worker_resident: u64,
    // Processes end before the folder is removed.
    workers: Vec<Option<Ending>>,
    _coordinator: Ending,
    _scratch: ScratchFolder,
}

impl<'a> Trial<'a> {
    /// Starts a cluster, submits the job, and waits for its first result.
    pub(super) fn start(
        options: &Options,
        keys: u64,
        hosts: &'a Hosts,
        interrupt: &Interrupt,
    ) -> Result<Self, BenchError> {
        let scratch = ScratchFolder::create(options.folder.as_deref(), "failover")?;
        let secret = scratch.path().join("secret");
        files::write(&secret, "only for as long as it is measured")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).map_err(|source| {
            BenchError::write(&secret.display().to_string(), "restrict it", source)
        })?;
        let cluster_secret = ClusterSecret::read(&secret).map_err(|error| failed(&error))?;
        let told_path = scratch.path().join("told");
        let told = UnixDatagram::bind(&told_path)
            .and_then(|told| told.set_nonblocking(true).map(|()| told))
            .map_err(|error| failed(&error))?;

        let begun = Instant::now();
        let first = hosts.host(0).address();
        let (for_workers, for_clients) =
            (format!("{first}:{WORKERS_PORT}"), format!("{first}:{CLIENTS_PORT}"));
        let spawn = |host: &Host, role: &str, arguments: &[&str]| {
            let mut command: Command = host.command(&options.ours);
            command.arg(role).args(arguments).arg("--secret-file").arg(&secret);
            command.arg("--data-dir").arg(scratch.path().join(host.name()));
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn().map(Ending).map_err(|error| failed(&error))
        };
        let coordinator =
            spawn(hosts.host(0), "coordinator", &["--bind", &for_workers, "--rest", &for_clients])?;
        let mut workers = Vec::new();
        for host in &hosts.all()[1..] {
            let (name, bind) = (host.name(), host.address().to_string());
            let slots = WORKER_SLOTS.to_string();
            let leases = scratch.path().join(format!("{name}-cores"));
            workers.push(Some(spawn(
                host,
                "worker",
                &[
                    "--coordinator",
                    &for_workers,
                    "--bind",
                    &bind,
                    "--name",
                    name,
                    "--slots",
                    &slots,
                    "--core-lease-dir",
                    &leases.display().to_string(),
                ],
            )?));
        }
        let client = Client::new(&for_clients, Some(&cluster_secret));
        wait_until("the workers to register", interrupt, || match client.workers() {
            Ok(there) => Ok((there.len() == workers.len()).then_some(())),
            // It is about to listen.
            Err(ClientError::Unreachable { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
        })?;
        let resident = |process: &Ending| resident_bytes(process.0.id());
        let coordinator_resident = resident(&coordinator)?;
        let worker_resident = workers[0].as_ref().map_or(Ok(0), resident)?;

        let artifact = client.upload(&options.ours).map_err(|error| failed(&error))?;
        let mut args: Vec<String> =
            options.arguments.iter().map(|one| one.to_string_lossy().into_owned()).collect();
        args.extend(["--told".to_owned(), told_path.display().to_string()]);
        let submission = Submission {
            name: NAME.to_owned(),
            artifact,
            args,
            slots: JOB_SLOTS,
            labels: BTreeMap::new(),
            restart: None,
            from_checkpoint: None,
            parallelism: None,
        };
        let job = client.submit(&submission).map_err(|error| failed(&error))?;
        let trial = Self {
            fault: options.fault,
            hosts,
            client,
            job,
            told,
            start: Duration::ZERO,
            coordinator_resident,
            worker_resident,
            workers,
            _coordinator: coordinator,
            _scratch: scratch,
        };
        trial.until("its first result", interrupt, |_| true)?;
        let start = begun.elapsed();
        eprintln!("a job on {JOB_SLOTS} slots fills {} keys", millstream_ops::count(keys));
        Ok(Self { start, ..trial })
    }

    /// Waits until all keys are in a checkpoint, has one worker lost, and sees how soon the job goes on.
    pub(super) fn run(mut self, interrupt: &Interrupt) -> Result<Sample, BenchError> {
        let mut filled = BTreeSet::new();
        self.until("all keys", interrupt, |told| {
            if told.count > 1 {
                filled.insert(told.subtask);
            }
            filled.len() == JOB_SLOTS as usize
        })?;
        // One that began before is followed by one that did not.
        let before = self.view()?.progress.checkpoint.unwrap_or(0) + 2;
        wait_until("a checkpoint with all keys", interrupt, || {
            self.empty();
            Ok((self.view()?.progress.checkpoint >= Some(before)).then_some(()))
        })?;
        let view = self.view()?;
        let last = view.members.len() - 1;
        let lost = view.members[last].clone();
        let (pid, number) = self.process_of(&lost)?;
        let subtask = self.subtask_of(pid, interrupt)?;

        let begun = Instant::now();
        let fault = match self.fault {
            Fault::Kill => {
                // Both at once, as when a host is lost.
                kill(pid)?;
                self.workers[number - 1] = None;
                None
            }
            Fault::Silence => {
                let fault = self.hosts.isolate(number).map_err(|error| failed(&error))?;
                Some(fault)
            }
        };
        let detected = wait_until("the loss to be noticed", interrupt, || {
            self.empty();
            let now = self.view()?;
            let same = now.status == JobStatus::Running && now.generation == view.generation;
            Ok((!same).then(|| begun.elapsed()))
        })?;
        let first_result = self.until("a result of what was lost", interrupt, |told| {
            told.subtask == subtask && told.pid != pid
        })?;
        let first_result = first_result - begun;
        wait_until("the job to run again", interrupt, || {
            self.empty();
            Ok((self.view()?.status == JobStatus::Running).then_some(()))
        })?;
        drop(fault);
        let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
        Ok(Sample {
            detected_ms: millis(detected),
            first_result_ms: millis(first_result),
            start_ms: millis(self.start),
            coordinator_resident_bytes: self.coordinator_resident,
            worker_resident_bytes: self.worker_resident,
        })
    }

    /// The job.
    fn view(&self) -> Result<JobView, BenchError> {
        let view = self.client.job(&self.job).map_err(|error| failed(&error))?;
        match view.status {
            JobStatus::Failed | JobStatus::Canceled | JobStatus::Finished => {
                let why = view.error.unwrap_or_default();
                Err(BenchError::Different(format!("the job has ended, {}: {why}", view.status)))
            }
            _ => Ok(view),
        }
    }

    /// The process of a member, and the number of its host.
    fn process_of(&self, member: &MemberView) -> Result<(u32, usize), BenchError> {
        let is_its = |host: &Host| host.name() == member.worker.as_str();
        let number = self.hosts.all().iter().position(is_its);
        member.pid.zip(number).ok_or_else(|| {
            BenchError::Different(format!("worker {} has no process", member.worker.as_str()))
        })
    }

    /// A subtask of this process.
    fn subtask_of(&self, pid: u32, interrupt: &Interrupt) -> Result<u32, BenchError> {
        let mut found = 0;
        self.until("a result of the worker", interrupt, |told| {
            found = told.subtask;
            told.pid == pid
        })?;
        Ok(found)
    }

    /// Waits for a result, and returns when it came.
    fn until(
        &self,
        what: &str,
        interrupt: &Interrupt,
        mut found: impl FnMut(Told) -> bool,
    ) -> Result<Instant, BenchError> {
        let mut looked = Instant::now();
        wait_until(what, interrupt, || {
            // Not for each result; and a job that has failed gives none.
            if looked.elapsed() > FAILURE_INTERVAL {
                self.view()?;
                looked = Instant::now();
            }
            while let Some(told) = self.next()? {
                if found(told) {
                    return Ok(Some(Instant::now()));
                }
            }
            Ok(None)
        })
    }

    /// What is told next, if anything is by now.
    fn next(&self) -> Result<Option<Told>, BenchError> {
        let mut buffer = [0; 256];
        match self.told.recv(&mut buffer) {
            Ok(len) => serde_json::from_slice(&buffer[..len]).map(Some).map_err(|error| {
                BenchError::Different(format!("a process has told what is none: {error}"))
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Passes over what was told by now, so that what comes then is new.
    fn empty(&self) {
        while let Ok(Some(_)) = self.next() {}
    }
}

fn failed(error: &dyn std::error::Error) -> BenchError {
    BenchError::Different(error.to_string())
}

/// Waits until there is something, with a bound.
fn wait_until<T>(
    what: &str,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> Result<Option<T>, BenchError>,
) -> Result<T, BenchError> {
    let begun = Instant::now();
    loop {
        if interrupt.is_raised() {
            return Err(BenchError::Cancelled);
        }
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            return Err(BenchError::Different(format!("waited in vain for {what}: {PATIENCE:?}")));
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks, with a bound")]
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Kills a process that is a child of a child.
fn kill(pid: u32) -> Result<(), BenchError> {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(BenchError::Different(format!("process {pid} cannot be killed: {status}")))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// How much memory a process has resident.
fn resident_bytes(pid: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| kibibytes << 10)
        .ok_or_else(|| BenchError::Different(format!("{path} does not say how much is resident")))
}
