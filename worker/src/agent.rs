//! What the agent knows, and what it does with all that happens: one thing after the other.

mod entry;

use crate::cores::{self, Lease};
use crate::link::{Cut, Outgoing};
use crate::retention::Ended;
use crate::socket::Orders;
use crate::{Settings, artifacts, leftovers, process};
use entry::{EXIT_TIMEOUT, Entry, HEARD_TIMEOUT, Process, Stage};
use millstream_control::VERSION;
use millstream_control::rpc::coordinator_client::CoordinatorClient;
use millstream_control::rpc::from_worker::Message as Say;
use millstream_control::rpc::to_worker::Message as Asked;
use millstream_control::rpc::{self, FromWorker};
use millstream_protocol::cluster::{ArtifactId, JobId};
use millstream_protocol::{Deployment, Order, Told};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Channel;

/// How many things may wait for the agent.
pub(crate) const INPUTS_MAX: usize = 1024;

const TICK: Duration = Duration::from_millis(250);
/// Without a coordinator for so long, processes end.
const ALONE_MAX: Duration = Duration::from_secs(3600);
/// What was said so shortly before a connection was lost may not have been heard.
const HEARD_AFTER: Duration = Duration::from_secs(10);

/// What happens to an agent.
#[derive(Debug)]
pub(crate) enum Input {
    /// There is a connection: it is to register on it, and then to say so.
    Connected(Outgoing, oneshot::Sender<Cut>),
    Disconnected,
    /// The coordinator asks for something.
    Asked(Asked, CoordinatorClient<Channel>),
    /// A process has connected.
    Hello {
        connection: u64,
        hello: Told,
        orders: Orders,
    },
    /// A process that has connected has told something.
    Told {
        connection: u64,
        told: Told,
    },
    /// A process has closed its connection.
    Hung {
        connection: u64,
    },
    /// An executable is there, or could not be fetched.
    Fetched {
        job: JobId,
        run: u64,
        path: Result<PathBuf, String>,
    },
    /// A process has ended.
    Exited {
        job: JobId,
        run: u64,
        how: String,
    },
}

#[derive(Debug)]
pub(crate) struct Agent {
    settings: Settings,
    /// Where the processes of jobs listen.
    host: IpAddr,
    inputs: mpsc::Sender<Input>,
    incarnation: u64,
    /// The second is dropped with it, which ends the connection.
    link: Option<(Outgoing, oneshot::Sender<()>)>,
    /// The coordinator has taken this worker in on that connection: it has heard what runs.
    registered: bool,
    alone_since: Instant,
    runs: u64,
    jobs: BTreeMap<JobId, Entry>,
    /// Processes that have ended, and when the coordinator was told: it may have died before it knew.
    unconfirmed: Vec<(Instant, JobId, Entry)>,
    ended: Ended,
}

impl Agent {
    pub(crate) fn new(
        settings: Settings,
        host: IpAddr,
        ended: Ended,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        // The standard library's only source of randomness.
        let incarnation = std::hash::RandomState::new().build_hasher().finish();
        Self {
            settings,
            host,
            inputs,
            incarnation,
            link: None,
            registered: false,
            alone_since: Instant::now(),
            runs: 0,
            jobs: BTreeMap::new(),
            unconfirmed: Vec::new(),
            ended,
        }
    }

    /// Works until it is to end; then all processes end.
    pub(crate) async fn run(
        mut self,
        mut input: mpsc::Receiver<Input>,
        mut end: oneshot::Receiver<()>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        let mut ending = false;
        while !(ending && self.jobs.is_empty()) {
            tokio::select! {
                Some(one) = input.recv() => self.on_input(one, ending),
                _ = ticks.tick() => self.tick(),
                _ = &mut end, if !ending => {
                    ending = true;
                    self.link = None;
                    self.end_all();
                }
            }
        }
    }

    fn on_input(&mut self, input: Input, ending: bool) {
        match input {
            Input::Connected(..) | Input::Asked(..) if ending => {}
            Input::Connected(outgoing, registered) => {
                let (cut, is_cut) = oneshot::channel();
                self.link = Some((outgoing, cut));
                self.registered = false;
                self.register();
                // The link has gone meanwhile, if not.
                let _ = registered.send(is_cut);
            }
            Input::Disconnected => self.lose_link(),
            Input::Asked(asked, client) => {
                if let Err(error) = self.on_asked(asked, client) {
                    tracing::warn!("the coordinator asks for what is not understood: {error}");
                }
            }
            Input::Hello { connection, hello, orders } => self.on_hello(connection, hello, orders),
            Input::Told { connection, told } => self.on_told(connection, told),
            Input::Hung { connection } => {
                if let Some((_, process)) = self.process_of(connection) {
                    process.connection = None;
                    process.hung = true;
                    self.finish_exited(Instant::now());
                }
            }
            Input::Fetched { job, run, path } => self.on_fetched(job, run, path),
            Input::Exited { job, run, how } => self.on_exited(&job, run, how),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for entry in self.jobs.values_mut() {
            if let Stage::Runs(process) = &mut entry.stage
                && process.kill_at.is_some_and(|at| at <= now)
            {
                process.kill();
                process.kill_at = Some(now + EXIT_TIMEOUT);
            }
        }
        self.finish_exited(now);
        if self.registered {
            self.unconfirmed.retain(|(told, ..)| now - *told < HEARD_AFTER);
        }
        self.ended.clear_one(|job| self.jobs.contains_key(job));
        if self.link.is_none() && now - self.alone_since >= ALONE_MAX {
            tracing::error!("there was no coordinator for {ALONE_MAX:?}; all processes end");
            self.alone_since = now;
            self.end_all();
        }
    }

    fn end_all(&mut self) {
        self.jobs.retain(|_, entry| matches!(entry.stage, Stage::Runs(_)));
        for entry in self.jobs.values_mut() {
            entry.end();
        }
    }

    /// Says what runs; from here on the coordinator hears what happens.
    fn register(&mut self) {
        // The coordinator does not count on what has not been started.
        self.jobs
            .retain(|_, entry| !matches!(entry.stage, Stage::Reserved(_) | Stage::Fetching { .. }));
        let mut processes = Vec::new();
        let mut says = Vec::new();
        for (job, entry) in std::mem::take(&mut self.jobs) {
            let (pid, running) = match &entry.stage {
                Stage::Runs(process) => (process.pid, process.running),
                Stage::Ended { pid, running, says: later } => {
                    says.extend(later.iter().cloned());
                    (*pid, *running)
                }
                Stage::Reserved(_) | Stage::Fetching { .. } => continue,
            };
            let (name, generation, member, slots) =
                (job.to_string(), entry.generation, entry.member, entry.slots);
            processes.push(rpc::RunningProcess {
                job: name,
                generation,
                member,
                pid,
                running,
                slots,
            });
            match entry.stage {
                Stage::Runs(_) => drop(self.jobs.insert(job, entry)),
                _ => self.unconfirmed.push((Instant::now(), job, entry)),
            }
        }
        let system = rustix::system::sysinfo();
        let register = rpc::Register {
            version: VERSION,
            name: self.settings.name.to_string(),
            incarnation: self.incarnation,
            host: self.settings.host.clone(),
            slots: self.settings.slots,
            labels: self.settings.labels.clone().into_iter().collect(),
            cores: cores::count() as u32,
            memory_bytes: system.totalram.saturating_mul(u64::from(system.mem_unit)),
            processes,
        };
        self.say(Say::Register(register));
        says.into_iter().for_each(|one| self.say(one));
        // What lives and has told already how its job has ended, while nobody heard it.
        let ended: Vec<Say> = self
            .jobs
            .values()
            .filter_map(|entry| match &entry.stage {
                Stage::Runs(process) => process.ended.clone(),
                _ => None,
            })
            .collect();
        ended.into_iter().for_each(|one| self.say(one));
    }

    fn say(&mut self, message: Say) {
        let Some((link, _)) = &self.link else { return };
        if link.try_send(FromWorker { message: Some(message) }).is_err() {
            // It is connected anew, and then all is said again that counts.
            self.lose_link();
        }
    }

    fn lose_link(&mut self) {
        if self.link.take().is_none() {
            return;
        }
        let now = Instant::now();
        let registered = std::mem::take(&mut self.registered);
        if registered {
            self.alone_since = now;
        }
        for (told, job, entry) in self.unconfirmed.drain(..) {
            if !registered || now - told < HEARD_AFTER {
                self.jobs.entry(job).or_insert(entry);
            }
        }
    }

    fn refuse(&mut self, job: &JobId, generation: u64, error: String) {
        tracing::warn!("job {job}: {error}");
        self.say(Say::Refused(rpc::Refused { job: job.to_string(), generation, error }));
    }

    fn exited(&mut self, job: &JobId, generation: u64, how: &str) {
        let how = how.to_owned();
        self.say(Say::Exited(rpc::Exited { job: job.to_string(), generation, how }));
    }

    fn on_asked(
        &mut self,
        asked: Asked,
        client: CoordinatorClient<Channel>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        match asked {
            Asked::Registered(_) => {
                self.registered = true;
                // What was said with the registration is heard from now on.
                self.unconfirmed.iter_mut().for_each(|(told, ..)| *told = Instant::now());
            }
            Asked::Reserve(asked) => self.reserve(&JobId::new(&asked.job)?, asked.generation),
            Asked::Start(asked) => {
                let deployment: Deployment = serde_json::from_str(&asked.deployment)?;
                deployment.validate()?;
                let artifact = ArtifactId::new(&asked.artifact)?;
                self.fetch(artifact, asked.args, deployment, client)?;
            }
            Asked::Order(asked) => {
                let order: Order = serde_json::from_str(&asked.order)?;
                self.order(&JobId::new(&asked.job)?, asked.generation, order)?;
            }
            Asked::Kill(asked) => self.kill(&JobId::new(&asked.job)?, asked.generation),
        }
        Ok(())
    }

    /// Keeps a port, when what is older has ended.
    fn reserve(&mut self, job: &JobId, generation: u64) {
        if let Some(entry) = self.jobs.get_mut(job) {
            if entry.generation >= generation {
                return;
            }
            entry.end();
            if let Stage::Runs(process) = &mut entry.stage {
                process.reserve_next = Some(generation);
                return;
            }
        }
        match TcpListener::bind((self.host, 0)) {
            Ok(listener) => {
                let port = listener.local_addr().map_or(0, |address| address.port());
                self.runs += 1;
                let stage = Stage::Reserved(listener);
                let entry = Entry { run: self.runs, generation, member: 0, slots: 0, stage };
                self.jobs.insert(job.clone(), entry);
                let (job, port) = (job.to_string(), port.into());
                self.say(Say::Reserved(rpc::Reserved { job, generation, port }));
            }
            Err(error) => {
                let host = &self.settings.host;
                let error = format!("no port at {host} is to be had: {error}");
                self.refuse(job, generation, error);
            }
        }
    }

    fn fetch(
        &mut self,
        artifact: ArtifactId,
        args: Vec<String>,
        deployment: Deployment,
        client: CoordinatorClient<Channel>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let job = JobId::new(&deployment.job)?;
        let generation = deployment.generation;
        let Some(entry) = self.jobs.get_mut(&job).filter(|one| one.generation == generation) else {
            self.refuse(&job, generation, "no port is kept for it".to_owned());
            return Ok(());
        };
        let Stage::Reserved(port) = &entry.stage else { return Ok(()) };
        let port = port.try_clone()?;
        entry.member = deployment.member as u32;
        entry.slots = deployment.members[deployment.member].slots;
        entry.stage = Stage::Fetching { port, args, deployment: Box::new(deployment) };
        let (run, inputs) = (entry.run, self.inputs.clone());
        let directory = self.settings.data_directory.join("artifacts");
        tokio::spawn(async move {
            let path = artifacts::fetch(directory, artifact, run, client).await;
            // The agent has ended, if not.
            let _ = inputs.send(Input::Fetched { job, run, path }).await;
        });
        Ok(())
    }

    fn on_fetched(&mut self, job: JobId, run: u64, path: Result<PathBuf, String>) {
        let Some(entry) = self.jobs.remove(&job) else { return };
        let generation = entry.generation;
        let (args, deployment) = match entry.stage {
            // The port is free from here on, for the process to listen on.
            Stage::Fetching { port, args, deployment } if entry.run == run => {
                drop(port);
                (args, *deployment)
            }
            _ => {
                self.jobs.insert(job, entry);
                return;
            }
        };
        let lease = Lease::take(&self.settings.core_lease_directory, entry.slots as usize);
        let deployment = process::complete(&self.settings, deployment, &job, &lease);
        let started = path.and_then(|path| {
            let started = process::start(&self.settings, &job, &path, &args, &deployment, &lease);
            started.map_err(|error| format!("the process could not be started: {error}"))
        });
        let started = started.and_then(|(child, logs)| {
            let pid = child.id().ok_or_else(|| "it has ended".to_owned())?;
            Ok((child, logs, pid))
        });
        let (mut child, logs, pid) = match started {
            Ok(started) => started,
            Err(error) => {
                self.ended.note(&job);
                return self.refuse(&job, generation, error);
            }
        };
        tracing::info!("job {job}: process {pid} of generation {generation}");
        let process = Process {
            pid,
            lease,
            connection: None,
            follows: (generation, entry.member),
            running: false,
            ended: None,
            kill_at: None,
            hung: false,
            exited: None,
            reserve_next: None,
        };
        self.jobs.insert(job.clone(), Entry { stage: Stage::Runs(Box::new(process)), ..entry });
        let (inputs, log_bytes_max) = (self.inputs.clone(), self.settings.job_log_bytes_max);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = child.wait() => ended,
                never = logs.keep_within(log_bytes_max) => match never {},
            };
            let how = match ended {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            // What it has started and left.
            process::kill(pid);
            let _ = inputs.send(Input::Exited { job, run, how }).await;
        });
    }

    fn order(
        &mut self,
        job: &JobId,
        generation: u64,
        order: Order,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let order = match (order, self.jobs.get_mut(job)) {
            (Order::Deploy(deployment), Some(entry)) if entry.generation < generation => {
                deployment.validate()?;
                entry.generation = generation;
                entry.member = deployment.member as u32;
                entry.slots = deployment.members[deployment.member].slots;
                let Stage::Runs(process) = &mut entry.stage else {
                    self.jobs.remove(job);
                    self.refuse(job, generation, "there is no process of it".to_owned());
                    return Ok(());
                };
                process.running = false;
                let directory = &self.settings.core_lease_directory;
                process.lease.grow(directory, entry.slots as usize);
                let deployment = process::complete(&self.settings, deployment, job, &process.lease);
                process::write_deployment(&self.settings, job, &deployment)?;
                Order::Deploy(deployment)
            }
            (Order::Deploy(_), _) => {
                self.refuse(job, generation, "there is no process of it".to_owned());
                return Ok(());
            }
            (order, _) => order,
        };
        let entry = self.jobs.get_mut(job).filter(|entry| entry.generation == generation);
        let Some(Stage::Runs(process)) = entry.map(|entry| &mut entry.stage) else {
            return Ok(());
        };
        let sent = match &process.connection {
            Some((_, orders)) => orders.try_send(order).is_ok(),
            None => false,
        };
        if !sent {
            tracing::warn!("job {job}: its process does not listen; it is ended");
            process.kill();
        }
        Ok(())
    }

    fn kill(&mut self, job: &JobId, generation: u64) {
        match self.jobs.get_mut(job) {
            Some(entry) if entry.generation > generation => {}
            Some(entry) if matches!(entry.stage, Stage::Runs(_)) => {
                entry.end();
                if let Stage::Runs(process) = &mut entry.stage {
                    process.reserve_next = None;
                }
            }
            _ => {
                self.jobs.remove(job);
                self.exited(job, generation, "it was to end");
            }
        }
    }

    fn process_of(&mut self, connection: u64) -> Option<(&JobId, &mut Process)> {
        self.jobs.iter_mut().find_map(|(job, entry)| match &mut entry.stage {
            Stage::Runs(process)
                if process.connection.as_ref().is_some_and(|(id, _)| *id == connection) =>
            {
                Some((job, &mut **process))
            }
            _ => None,
        })
    }

    fn on_hello(&mut self, connection: u64, hello: Told, orders: Orders) {
        let Told::Hello { job, generation, member, pid } = &hello else { return };
        let known = JobId::new(job).ok().and_then(|job| self.jobs.get_mut(&job));
        let Some(entry) = known else { return };
        let Stage::Runs(process) = &mut entry.stage else { return };
        let same = (*generation, *member as u32) == (entry.generation, entry.member);
        if !same || *pid != process.pid || process.kill_at.is_some() {
            tracing::warn!("job {job}: process {pid} is not the one of generation {generation}");
            return;
        }
        process.connection = Some((connection, orders));
        process.hung = false;
        self.on_told(connection, hello);
    }

    fn on_told(&mut self, connection: u64, told: Told) {
        let text = match serde_json::to_string(&told) {
            Ok(text) => text,
            Err(error) => return tracing::warn!("what a process has told is lost: {error}"),
        };
        let Some((job, process)) = self.process_of(connection) else { return };
        match &told {
            // Also when it follows another deployment.
            Told::Hello { generation, member, .. } => {
                process.follows = (*generation, *member as u32)
            }
            Told::Running { .. } => process.running = true,
            Told::Restarting { .. } => process.running = false,
            _ => {}
        }
        let (generation, member) = process.follows;
        let say = Say::Told(rpc::Told { job: job.to_string(), generation, member, told: text });
        if let Told::Ended { .. } = told {
            process.ended = Some(say.clone());
        }
        self.say(say);
    }

    fn on_exited(&mut self, job: &JobId, run: u64, how: String) {
        let Some(entry) = self.jobs.get_mut(job).filter(|entry| entry.run == run) else { return };
        let Stage::Runs(process) = &mut entry.stage else { return };
        // What it told last may come after the news of its end.
        let now = Instant::now();
        let heard = process.hung || process.kill_at.is_some();
        process.exited = Some((how, if heard { now } else { now + HEARD_TIMEOUT }));
        self.finish_exited(now);
    }

    /// Goes on with processes that have ended and of which nothing more is to be heard.
    fn finish_exited(&mut self, now: Instant) {
        let done = |(job, entry): (&JobId, &Entry)| match &entry.stage {
            Stage::Runs(process) => {
                let (how, until) = process.exited.as_ref()?;
                (process.hung || *until <= now).then(|| (job.clone(), how.clone()))
            }
            _ => None,
        };
        let done: Vec<_> = self.jobs.iter().filter_map(done).collect();
        done.into_iter().for_each(|(job, how)| self.finish(&job, how));
    }

    fn finish(&mut self, job: &JobId, how: String) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Stage::Runs(process) = &mut entry.stage else { return };
        tracing::info!("job {job}: process {} has ended: {how}", process.pid);
        self.ended.note(job);
        leftovers::forget(&self.settings.data_directory, job);
        let generation = entry.generation;
        let exited = Say::Exited(rpc::Exited { job: job.to_string(), generation, how });
        let (pid, running, next) = (process.pid, process.running, process.reserve_next);
        let was_to_end = process.kill_at.is_some();
        let says = process.ended.take().into_iter().chain([exited.clone()]).collect();
        entry.stage = Stage::Ended { pid, running, says };
        if self.link.is_none() && !was_to_end {
            return;
        }
        if let Some(entry) = self.jobs.remove(job).filter(|_| !was_to_end) {
            self.unconfirmed.push((Instant::now(), job.clone(), entry));
        }
        self.say(exited);
        if let Some(generation) = next {
            self.reserve(job, generation);
        }
    }
}
