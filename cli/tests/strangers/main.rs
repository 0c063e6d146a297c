//! Whoever does not know the secret of a cluster changes nothing and learns nothing, whatever he sends to the
//! ports of its coordinator and of the members of a job that runs.
//!
//! For a long run: `MILLSTREAM_STRANGERS_SECONDS=120 cargo test -p millstream-cli strangers_at_all_ports`.

mod requests;

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{About, Process, Program, Site, Stranger, number, until};
use millstream_control::client::{Client, ClientError, Submission};
use millstream_control::secret::ClusterSecret;
use millstream_hosts::Hosts;
use millstream_protocol::cluster::{JobId, JobStatus, JobView};
use rand::Rng;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const WORKERS: usize = 3;
const RPC_PORT: u16 = 7411;
const REST_PORT: u16 = 7410;
const SECRET: &str = "many words that nobody shall see";
const WORKLOAD: Workload = Workload::Visits;
/// How long strangers are at it.
const SECONDS: u64 = 5;
/// How much longer the job runs at the least.
const MORE_SECONDS: u64 = 10;
/// Of each port, all the time.
const SILENT: usize = 50;
/// What a process may have more when they are gone, for whatever reason.
const GROWTH_KIB_MAX: u64 = 50 * 1024;

/// A coordinator and its workers, each on a host of its own.
struct Center {
    // Before the hosts and the folder, so that processes end before these do. The first is the coordinator.
    processes: Vec<(String, Process)>,
    hosts: Hosts,
    folder: TempDir,
}

impl Center {
    /// One whose workers are there, with a slot each.
    fn new() -> Result<Self> {
        let center = Self {
            processes: Vec::new(),
            hosts: Hosts::new(WORKERS + 2)?,
            folder: tempfile::tempdir()?,
        };
        fs::write(center.path("secret"), SECRET)?;
        fs::set_permissions(center.path("secret"), Permissions::from_mode(0o600))?;
        Ok(center)
    }

    fn start(&mut self) -> Result<()> {
        let (rpc, rest) = (self.rpc().to_string(), self.rest().to_string());
        self.start_on(0, "coordinator", &["--bind", &rpc, "--rest", &rest])?;
        for host in 1..=WORKERS {
            let bind = self.hosts.host(host).address().to_string();
            let flags = ["--coordinator", &rpc, "--bind", &bind, "--slots", "1"];
            let cores = self.path("cores").display().to_string();
            let more = ["--name", &format!("host{host}"), "--core-lease-dir", &cores];
            self.start_on(host, "worker", &[&flags[..], &more].concat())?;
        }
        until("the workers to be there", || match self.ask(|client| client.workers()) {
            Ok(workers) => Ok((workers.len() == WORKERS).then_some(())),
            Err(ClientError::Unreachable { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    fn start_on(&mut self, host: usize, what: &str, flags: &[&str]) -> Result<()> {
        let name = format!("{what}{host}");
        let mut command = self.hosts.host(host).command(env!("CARGO_BIN_EXE_millstream"));
        command.arg(what).args(["--log-level", "trace"]).args(flags);
        command.arg("--secret-file").arg(self.path("secret"));
        command.arg("--data-dir").arg(self.path(&name));
        command.stderr(File::create(self.path(&name).with_extension("log"))?);
        self.processes.push((name, Process::start(&mut command)?));
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rpc(&self) -> SocketAddr {
        (self.hosts.host(0).address(), RPC_PORT).into()
    }

    fn rest(&self) -> SocketAddr {
        (self.hosts.host(0).address(), REST_PORT).into()
    }

    /// Asks the coordinator as somebody who knows the secret.
    fn ask<T: Send>(
        &self,
        what: impl FnOnce(Client) -> Result<T, ClientError> + Send,
    ) -> Result<T, ClientError> {
        let client = Client::new(&self.rest().to_string(), Some(&secret()));
        self.hosts.host(0).within(|| what(client)).expect("the host is there")
    }

    fn submit(&self, program: &Path, site: &Site, input: &Program, seconds: u64) -> Result<JobId> {
        let rate = WORKLOAD.records() as f64 / seconds as f64;
        let flags = format!("--source-rate {rate} --checkpoint-interval 50ms --log-level trace");
        let args = site.arguments(input, WORKLOAD).into_iter();
        let args = args.map(|arg| arg.to_string_lossy().into_owned());
        let submission = |artifact| Submission {
            name: "ours".into(),
            artifact,
            args: args.chain(flags.split(' ').map(str::to_owned)).collect(),
            slots: WORKERS as u32,
            parallelism: None,
            from_checkpoint: None,
            labels: BTreeMap::new(),
            restart: None,
        };
        Ok(self.ask(|client| client.submit(&submission(client.upload(program)?)))?)
    }

    fn job(&self, id: &JobId) -> Result<JobView> {
        Ok(self.ask(|client| client.job(id))?)
    }

    /// Waits until the job has more checkpoints than it has now.
    fn wait_for_checkpoint(&self, id: &JobId) -> Result<JobView> {
        let before = self.job(id)?.progress.checkpoint;
        until("a checkpoint", || {
            let job = self.job(id)?;
            ensure!(job.status != JobStatus::Failed, "the job has failed: {:?}", job.error);
            Ok((job.progress.checkpoint > before).then_some(job))
        })
    }

    /// Where anybody has written what he does.
    fn logs(&self) -> Result<Vec<PathBuf>> {
        let (mut folders, mut logs) = (vec![self.path("")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_string_lossy().contains(".log") {
                    logs.push(path);
                }
            }
        }
        Ok(logs)
    }

    /// The ends of all logs.
    fn last_words(&self) -> String {
        let words = |path: PathBuf| {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let end: Vec<_> = text.lines().rev().take(20).collect();
            format!("---- {}, backwards\n{}\n", path.display(), end.join("\n"))
        };
        self.logs().unwrap_or_default().into_iter().map(words).collect()
    }
}

/// A port, and what is said to it.
#[derive(Clone, Copy)]
enum Port {
    /// Of the coordinator, for clients.
    Rest,
    /// Behind a handshake.
    Gate,
}

/// Says one thing to a port.
fn disturb(stranger: &mut Stranger<'_>, port: Port, address: SocketAddr, job: &str) -> Result<()> {
    let kind = stranger.rng().gen_range(0..5);
    let mut bytes = match kind {
        0 => stranger.noise(),
        1 => stranger.greeting(),
        2 => stranger.hello(),
        3 => requests::grpc(),
        _ => requests::rest(stranger, &address.to_string(), job),
    };
    if stranger.rng().gen_bool(0.5) {
        stranger.mutate(&mut bytes);
    }
    match port {
        Port::Rest => requests::check_refused(&stranger.send(address, &bytes)?),
        Port::Gate if kind == 0 => stranger.prove_wrongly(address),
        Port::Gate => stranger.send_to_gate(address, &bytes),
    }
}

/// Strangers at all ports at once, for so long. How many things they have said.
fn attack(center: &Center, job: &JobView, time: Duration) -> Result<usize> {
    let members = job.members.iter().map(|member| Ok((Port::Gate, member.address.parse()?)));
    let mut ports = members.collect::<Result<Vec<_>>>()?;
    ports.extend([(Port::Rest, center.rest()), (Port::Gate, center.rpc())]);
    let host = center.hosts.host(WORKERS + 1);
    std::thread::scope(|scope| {
        let at = |(seed, (port, address))| {
            scope.spawn(move || -> Result<usize> {
                let mut stranger = Stranger::new(host, seed);
                let silent = (0..SILENT).map(|_| stranger.connect(address));
                let silent = silent.collect::<Result<Vec<_>>>()?;
                let (begun, mut said) = (Instant::now(), 0);
                while begun.elapsed() < time {
                    disturb(&mut stranger, port, address, job.id.as_str())
                        .with_context(|| format!("{address}, after {said} others"))?;
                    said += 1;
                }
                drop(silent);
                Ok(said)
            })
        };
        let strangers: Vec<_> = (0..).zip(ports).map(at).collect();
        let said = strangers.into_iter().map(|stranger| stranger.join().expect("no panic"));
        said.sum::<Result<usize>>()
    })
}

#[test]
fn strangers_at_all_ports_of_a_cluster_change_nothing_and_learn_nothing() -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let mut center = Center::new()?;
    let result = center.start().and_then(|()| run(&mut center));
    result.with_context(|| center.last_words())
}

fn run(center: &mut Center) -> Result<()> {
    let seconds = number("MILLSTREAM_STRANGERS_SECONDS")?.unwrap_or(SECONDS);
    let (program, site) = (Program::new(victim()?)?, Site::new()?);
    let id = center.submit(&victim()?, &site, &program, seconds + MORE_SECONDS)?;
    let before = center.wait_for_checkpoint(&id)?;
    let members = before.members.iter().map(|member| About(member.pid.expect("it runs")));
    let processes = center.processes.iter().map(|(_, process)| process.about());
    let all: Vec<_> = processes.chain(members).collect();
    let tokens = [SECRET.to_owned(), secret().token().header(), secret().job_secret(id.as_str())];
    for (process, secret) in all.iter().flat_map(|process| tokens.iter().map(move |t| (process, t)))
    {
        process.check_hides(secret)?;
    }
    let had = all.iter().map(|process| Ok((process.resident_kib()?, process.sockets()?)));
    let had = had.collect::<Result<Vec<_>>>()?;

    let said = attack(center, &before, Duration::from_secs(seconds))?;

    let after = center.wait_for_checkpoint(&id)?;
    ensure!(after.members == before.members, "members have changed: {after:?}");
    ensure!(after.restarts == 0 && after.progress.attempt == before.progress.attempt, "{after:?}");
    let jobs = center.ask(|client| client.jobs())?;
    ensure!(jobs.len() == 1, "strangers have submitted jobs: {jobs:?}");
    let workers = center.ask(|client| client.workers())?;
    ensure!(workers.len() == WORKERS, "strangers have joined: {workers:?}");
    let artifacts = fs::read_dir(center.path("coordinator0/artifacts"))?.count();
    ensure!(artifacts == 1, "strangers have stored something: there are {artifacts} files");
    for (name, process) in &mut center.processes {
        ensure!(process.ended()?.is_none(), "{name} has ended");
    }
    for (process, (kib, sockets)) in all.iter().zip(&had) {
        let now = process.resident_kib()?;
        println!("{process:?}: {kib} KiB before and {now} after, {sockets} sockets");
        ensure!(now < kib + GROWTH_KIB_MAX, "{process:?} has grown from {kib} KiB to {now}");
        until("strangers to be let go", || Ok((process.sockets()? <= *sockets).then_some(())))?;
    }
    println!("{said} things were said in {seconds} s");

    until("the end of the job", || {
        Ok((center.job(&id)?.status == JobStatus::Finished).then_some(()))
    })?;
    ensure!(center.job(&id)?.restarts == 0, "the job has begun anew for strangers");
    site.check(&program.undisturbed(WORKLOAD)?)?;
    for path in center.logs()? {
        let text = fs::read(&path)?;
        let (text, path) = (String::from_utf8_lossy(&text), path.display());
        for secret in &tokens {
            ensure!(!text.contains(secret), "a secret is in {path}");
        }
        ensure!(!text.contains("panicked"), "somebody has panicked: {path}");
    }
    Ok(())
}

fn secret() -> ClusterSecret {
    ClusterSecret::new(SECRET.as_bytes()).expect("it is long enough")
}

/// The example that cargo has built beside this test.
fn victim() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(Path::parent).context("a test lies in a folder")?;
    Ok(built.join("examples").join("victim"))
}
