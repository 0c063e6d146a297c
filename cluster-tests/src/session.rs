//! A job on workers, on which a coordinator places it.

use crate::jobs::Workload;
use crate::process::{Process, until};
use crate::site::{Program, Site};
use anyhow::{Context, Result, bail, ensure};
use millstream_control::client::{Client, ClientError, Submission};
use millstream_control::secret::ClusterSecret;
use millstream_hosts::Hosts;
use millstream_protocol::cluster::{JobId, JobStatus, JobView, MemberView};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Slots of the job.
pub(crate) const JOB_SLOTS: u32 = 6;
const WORKERS_PORT: u16 = 7411;
const CLIENTS_PORT: u16 = 7410;
const SECRET: &str = "many words that nobody shall see";

/// A coordinator on the first host, a worker on each other, and a job. All of it ends with this value.
pub(crate) struct Session<'a> {
    /// By host. First, so that processes end before their networks and folders do.
    stations: Vec<Option<Process>>,
    binary: &'a Path,
    worker_slots: u32,
    site: Site,
    client: Client,
    job: Option<JobId>,
    folder: TempDir,
    hosts: Hosts,
}

impl<'a> Session<'a> {
    /// A cluster of so many workers of the `station` binary, with so many slots each.
    pub(crate) fn new(station: &'a Path, workers: usize, worker_slots: u32) -> Result<Self> {
        let (hosts, folder) = (Hosts::new(1 + workers)?, tempfile::tempdir()?);
        let secret_file = folder.path().join("secret");
        fs::write(&secret_file, SECRET)?;
        fs::set_permissions(&secret_file, Permissions::from_mode(0o600))?;
        let secret = ClusterSecret::read(&secret_file)?;
        let rest = format!("{}:{CLIENTS_PORT}", hosts.host(0).address());
        let mut session = Self {
            stations: (0..=workers).map(|_| None).collect(),
            binary: station,
            worker_slots,
            site: Site::new()?,
            client: Client::new(&rest, Some(&secret)),
            job: None,
            folder,
            hosts,
        };
        (0..=workers).try_for_each(|host| session.start(host))?;
        until("the workers", || match session.ask(Client::workers) {
            Ok(there) => Ok((there.len() == workers).then_some(())),
            // It is about to listen.
            Err(ClientError::Unreachable { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        Ok(session)
    }

    /// Starts the coordinator, or a worker, or starts it again.
    pub(crate) fn start(&mut self, host: usize) -> Result<()> {
        let coordinator = format!("{}:{WORKERS_PORT}", self.hosts.host(0).address());
        let own = self.hosts.host(host);
        let mut command = own.command(self.binary);
        command.args(["--coordinator", &coordinator]);
        command.arg("--secret-file").arg(self.folder.path().join("secret"));
        command.arg("--data-dir").arg(self.data(host));
        if host == 0 {
            command.args(["--rest", &format!("{}:{CLIENTS_PORT}", own.address())]);
        } else {
            command.args(["--name", own.name(), "--bind", &own.address().to_string()]);
            command.args(["--slots", &self.worker_slots.to_string()]);
        }
        let log = self.data(host).with_extension("log");
        command.stderr(OpenOptions::new().create(true).append(true).open(log)?);
        self.stations[host] = Some(Process::start(&mut command)?);
        Ok(())
    }

    fn data(&self, host: usize) -> PathBuf {
        self.folder.path().join(format!("host{host}"))
    }

    /// Asks the coordinator, from its host.
    fn ask<T: Send>(
        &self,
        what: impl FnOnce(&Client) -> Result<T, ClientError> + Send,
    ) -> Result<T, ClientError> {
        let (host, client) = (self.hosts.host(0), &self.client);
        host.within(|| what(client)).expect("a thread can enter a network that is there")
    }

    /// Submits a workload.
    pub(crate) fn submit(
        &mut self,
        program: &Program,
        workload: Workload,
        flags: &[&str],
    ) -> Result<()> {
        let words = self.site.arguments(program, workload).map(|word| word.into_string());
        let words = words.into_iter().collect::<Result<Vec<_>, _>>();
        let mut args = words.ok().context("temporary folders have names in UTF-8")?;
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let artifact = self.ask(|client| client.upload(program.path()))?;
        let submission = Submission {
            name: workload.to_string(),
            artifact,
            args,
            slots: JOB_SLOTS,
            parallelism: None,
            from_checkpoint: None,
            labels: BTreeMap::new(),
            restart: None,
        };
        self.job = Some(self.ask(|client| client.submit(&submission))?);
        Ok(())
    }

    /// The job.
    pub(crate) fn view(&self) -> Result<JobView> {
        let job = self.job.as_ref().context("no job was submitted")?;
        Ok(self.ask(|client| client.job(job))?)
    }

    /// Waits until there is what is looked for, of a job that has not ended before.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&JobView) -> Option<T>,
    ) -> Result<T> {
        until(what, || {
            let view = self.view()?;
            let found = look(&view);
            let has_ended = [JobStatus::Finished, JobStatus::Failed, JobStatus::Canceled];
            if found.is_none() && has_ended.contains(&view.status) {
                bail!("the job has ended, {}, before {what}: {:?}", view.status, view.error);
            }
            Ok(found)
        })
    }

    /// As [`Self::until`], of a job that runs.
    pub(crate) fn until_running<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&JobView) -> Option<T>,
    ) -> Result<T> {
        self.until(what, |view| match view.status {
            JobStatus::Running => look(view),
            _ => None,
        })
    }

    /// Waits until the job has finished.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.until("its last result", |view| (view.status == JobStatus::Finished).then_some(()))
    }

    /// The host of a member of the job.
    pub(crate) fn host_of(&self, member: &MemberView) -> Result<usize> {
        let found = self.hosts.all().iter().position(|host| host.name() == member.worker.as_str());
        found.with_context(|| format!("there is no host of {}", member.worker))
    }

    /// Kills a member's process (SIGKILL).
    pub(crate) fn kill_process(&self, member: &MemberView) -> Result<()> {
        let pid = member.pid.and_then(|pid| Pid::from_raw(pid as i32));
        Ok(kill_process(pid.context("the member has a process")?, Signal::KILL)?)
    }

    /// Kills a worker (SIGKILL).
    pub(crate) fn kill_worker(&mut self, host: usize) -> Result<()> {
        let station = self.stations[host].take();
        station.context("the worker is there")?.kill()?;
        Ok(())
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The folders that the job works in.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// What the processes of the job have said on each worker that had one.
    pub(crate) fn said(&self) -> Result<Vec<String>> {
        let job = self.job.as_ref().context("no job was submitted")?;
        let log = |host| self.data(host).join("jobs").join(job.as_str()).join("stderr.log");
        let logs = (1..self.stations.len()).map(log).filter(|log| log.exists());
        logs.map(|log| Ok(fs::read_to_string(log)?)).collect()
    }

    /// All that has been said.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for host in 0..self.stations.len() {
            let log = fs::read_to_string(self.data(host).with_extension("log"));
            let _ = writeln!(all, "==== host {host}\n{}", log.unwrap_or_default());
        }
        for said in self.said().unwrap_or_default() {
            let _ = writeln!(all, "==== a process of the job\n{said}");
        }
        all
    }

    /// Has all stations end in order, which ends what they have started.
    pub(crate) fn end(&mut self) -> Result<()> {
        for station in self.stations.iter_mut().skip(1).filter_map(Option::take) {
            station.terminate()?;
            let status = station.wait()?;
            ensure!(status.success(), "a worker has ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // If something has failed: what is left ends with its host.
        let _ = self.end();
    }
}
