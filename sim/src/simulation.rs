//! The world of one seed: processes that run the job, disks, what is between them, and what befalls all
//! of these.
//!
//! On one host a crash is that of the whole job, and a failure within the process leaves what is in
//! memory. With several, whatever happens to one of them ends the attempt; the next begins when all are
//! there again, and what was on its way to their disks has come to its end. One that was not heard of is
//! waited for, or replaced: then it may be a [zombie](crate::zombie).

use crate::Bug;
use crate::check::{self, Check, Violation};
use crate::disk::{DiskError, DiskFaults, Operation};
use crate::hosts::{AttemptId, Crew, Disks, HostId};
use crate::job::{End, Job, time};
use crate::message::{Context, Token};
use crate::network::{Answer, Body, Message, Network, Request};
use crate::plan::Plan;
use crate::random::Random;
use crate::restore::{Interrupted, Survivors, restore, rot_newest};
use crate::zombie::{Zombie, serve};
use crate::{Failure, Report, Setup, Trace, Watch};
use millstream_protocol::{CheckpointKind, Restart, RestartPolicy, RestartStrategy};
use millstream_types::CheckpointId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What the job does.
enum Phase {
    Running(Box<Job>),
    /// It runs, and waits until nothing is on its way to the disk: a manifest that came to be after
    /// the choice of a checkpoint would name what the restore has rolled back.
    Settling(Box<Job>),
    /// It starts at this tick, or as soon as all hosts are there.
    Down(u64),
}

/// How long a job may take after the faults have stopped.
const CALM_TICKS_MAX: u64 = 30_000;
/// Within so many ticks of calm a checkpoint completes, if there is one at an interval.
const PROGRESS_TICKS_MAX: u64 = 3_000;
/// Who was not heard of for so long is lost.
const SILENCE_MAX: u64 = 30;
/// How long an attempt has what it was restored from still to be copied.
const YOUTH: u64 = 40;

/// What there is beside the job.
struct World {
    plan: Plan,
    setup: Setup,
    random: Random,
    disks: Disks,
    network: Network,
    trace: Trace,
    now: u64,
}

impl World {
    /// For an attempt of this crew.
    fn context<'a>(&'a mut self, crew: &'a Crew) -> Context<'a> {
        Context {
            now: self.now,
            plan: &self.plan,
            setup: self.setup,
            random: &mut self.random,
            disks: &mut self.disks,
            network: &mut self.network,
            crew,
            trace: &mut self.trace,
        }
    }

    /// For one that is over: nothing that it has been promised needs to be kept.
    fn unwatched<'a>(&'a mut self, crew: &'a Crew) -> Context<'a> {
        let setup = Setup { watch: Watch::Outcome, ..self.setup };
        Context { setup, ..self.context(crew) }
    }
}

pub(crate) struct Simulation {
    world: World,
    crew: Crew,
    generation: u64,
    attempts: u64,
    /// Processes that start at some tick.
    down: BTreeMap<HostId, u64>,
    /// Hosts that were lost since a checkpoint completed.
    lost: usize,
    zombies: Vec<Zombie>,
    /// What each host refuses: whatever is of an earlier attempt.
    fences: BTreeMap<HostId, AttemptId>,
    phase: Phase,
    parallelism: Vec<u32>,
    restarts: RestartPolicy,
    survivors: Survivors,
    report: Report,
    /// Completed checkpoints when the faults stopped.
    before_calm: Option<u64>,
    checked_version: u64,
    /// Checkpoints that had ended at the last tick, well or not.
    ended_checkpoints: u64,
    begun_manifests: u64,
    /// When the last attempt began.
    begun: u64,
}

impl Simulation {
    pub(crate) fn new(seed: u64, setup: Setup, trace: Trace) -> Self {
        let plan = Plan::new(seed);
        // Apart from the plan's, so that neither draws from the other.
        let mut random = Random::new(!seed);
        let parallelism: Vec<_> =
            (0..=plan.sink().0).map(|_| draw_parallelism(&mut random)).collect();
        let strategy = RestartStrategy::ExponentialDelay {
            initial: Duration::from_millis(1),
            delay_max: Duration::from_millis(40),
            multiplier: 2.0,
            reset_after: Duration::from_millis(100),
            jitter: 0.3,
        };
        let hosts = (0..plan.hosts).collect();
        Self {
            crew: Crew::new(&plan, hosts, &parallelism, 0, 0),
            generation: 0,
            attempts: 0,
            down: BTreeMap::new(),
            lost: 0,
            zombies: Vec::new(),
            fences: BTreeMap::new(),
            world: World {
                disks: Disks::new(plan.hosts, plan.disk),
                network: Network::default(),
                plan,
                setup,
                random,
                trace,
                now: 0,
            },
            phase: Phase::Down(0),
            parallelism,
            restarts: RestartPolicy::new(strategy),
            survivors: Survivors::default(),
            report: Report::default(),
            before_calm: None,
            checked_version: 0,
            ended_checkpoints: 0,
            begun_manifests: 0,
            begun: 0,
        }
    }

    /// Runs to the end of the job. The trace comes back in either case.
    pub(crate) fn run(mut self) -> (Result<Report, Failure>, Trace) {
        let plan = self.world.plan.clone();
        self.world.trace.line(0, || format!("{plan:?}"));
        let result = loop {
            self.world.now += 1;
            match self.tick() {
                Ok(None) => {}
                Ok(Some(report)) => break Ok(report),
                Err(violation) => {
                    self.world.trace.line(self.world.now, || violation.to_string());
                    break Err(Failure {
                        seed: self.world.plan.seed,
                        setup: self.world.setup,
                        tick: self.world.now,
                        violation,
                    });
                }
            }
        };
        (result, self.world.trace)
    }

    fn tick(&mut self) -> Result<Option<Report>, Violation> {
        self.calm()?;
        let completed = self.report.checkpoints;
        self.arrive()?;
        match &mut self.phase {
            Phase::Down(until) => {
                if *until <= self.world.now && self.is_there() {
                    self.start()?;
                }
            }
            Phase::Settling(_) => self.settle()?,
            Phase::Running(_) => {
                self.step()?;
                if self.report.checkpoints > completed {
                    self.lost = 0;
                }
                self.check()?;
                if let Some(report) = self.take_end()? {
                    return Ok(Some(report));
                }
            }
        }
        self.step_zombies()?;
        if self.world.plan.hosts == 1 {
            self.strike()
        } else {
            self.strike_hosts()
        }
        Ok(None)
    }

    fn is_several(&self) -> bool {
        self.world.plan.hosts > 1
    }

    /// Whether all members have come, and left what they did for the attempt before.
    fn is_there(&self) -> bool {
        let (now, hosts) = (self.world.now, &self.crew.hosts);
        hosts.iter().all(|host| self.down.get(host).is_none_or(|until| *until <= now))
            && self.world.network.is_whole(hosts)
            && self.crew.disks(&self.world.disks).iter().all(|disk| disk.is_quiet())
    }

    /// Scripts come to their end, and messages arrive.
    fn arrive(&mut self) -> Result<(), Violation> {
        let mut ended = Vec::new();
        for (host, disk) in self.world.disks.iter_mut() {
            if !self.world.network.is_frozen(host) {
                let done = disk.step(self.world.now, &mut self.world.random).into_iter();
                ended.extend(done.map(|(token, done)| (host, token, done)));
            }
        }
        for (host, (attempt, token), done) in ended {
            self.on_disk(host, attempt, token, done)?;
        }
        for message in self.world.network.step(self.world.now) {
            self.on_message(message)?;
        }
        Ok(())
    }

    fn on_disk(
        &mut self,
        host: HostId,
        attempt: AttemptId,
        token: Token,
        done: Result<(), DiskError>,
    ) -> Result<(), Violation> {
        if let Token::Serve(from, number, spoiled) = token {
            self.report.disk_errors += u64::from(done.is_err());
            if let (Err(_), Some(path), Some(disk)) =
                (done, spoiled, self.world.disks.get_mut(host))
                && disk.read(&path) != disk.read_durable(&path)
            {
                // What a failed sync has dropped the next one would not miss.
                let remove = Operation::Remove(path);
                let _ = disk.perform(self.world.now, remove, &mut self.world.random);
            }
            let answer = if done.is_ok() { Answer::Done } else { Answer::Failed };
            self.answer((host, from), attempt, number, answer);
            return Ok(());
        }
        if let Some(zombie) = self.zombies.iter_mut().find(|one| one.crew.attempt == attempt) {
            // Others' are of no interest to anybody.
            if !zombie.has(&token) {
                return Ok(());
            }
            let mut cx = self.world.unwatched(&zombie.crew);
            return zombie.job.on_disk(
                token,
                done.map_err(|e| e.to_string()),
                &mut cx,
                &mut zombie.report,
            );
        }
        if attempt != self.crew.attempt {
            return Ok(());
        }
        let mut cx = self.world.context(&self.crew);
        match &mut self.phase {
            Phase::Running(job) => {
                job.on_disk(token, done.map_err(|e| e.to_string()), &mut cx, &mut self.report)
            }
            Phase::Settling(job) => {
                job.settle(&token, done.is_ok(), &mut cx);
                Ok(())
            }
            Phase::Down(_) => Ok(()),
        }
    }

    fn answer(
        &mut self,
        (from, to): (HostId, HostId),
        attempt: AttemptId,
        number: u64,
        answer: Answer,
    ) {
        let message = Message { from, to, attempt, body: Body::Answer(number, answer) };
        self.world.network.send(self.world.now, message, &mut self.world.random);
    }

    fn on_message(&mut self, message: Message) -> Result<(), Violation> {
        let Message { from, to, attempt, body } = message;
        let is_up = self.down.get(&to).is_none_or(|until| *until <= self.world.now);
        let (Some(disk), true) = (self.world.disks.get_mut(to), is_up) else { return Ok(()) };
        let lax = self.world.setup.bug == Some(Bug::NoFencing);
        let is_fenced = self.fences.get(&to).is_some_and(|fence| attempt < *fence);
        if is_fenced {
            self.report.fenced += 1;
            self.world
                .trace
                .line(self.world.now, || format!("host {to} refuses {body:?} of {from}"));
            if !lax {
                return Ok(());
            }
        }
        if let Body::Request(number, request) = body {
            let name = format!("{attempt}-{from}-{number}");
            let spoiled = match &request {
                Request::Append(path, ..) => Some(path.clone()),
                _ => None,
            };
            match serve(request, disk, &name, self.world.setup.bug) {
                Ok(script) => {
                    let token = (attempt, Token::Serve(from, number, spoiled));
                    disk.submit(self.world.now, token, script, &mut self.world.random);
                }
                Err(answer) => self.answer((to, from), attempt, number, answer),
            }
            return Ok(());
        }
        let zombie = self.zombies.iter_mut().find(|one| one.host == to);
        let (job, mut cx, report) = match (zombie, &mut self.phase) {
            (Some(zombie), _) if zombie.crew.attempt == attempt => {
                (&mut zombie.job, self.world.unwatched(&zombie.crew), &mut zombie.report)
            }
            (None, Phase::Running(job)) if attempt == self.crew.attempt || lax => {
                (job, self.world.context(&self.crew), &mut self.report)
            }
            _ => return Ok(()),
        };
        let crew = cx.crew;
        let member = |host| crew.hosts.iter().position(|one| *one == host);
        match body {
            Body::Mail(id, message) => job.on_mail(id, message),
            Body::Report(id, said) if to == crew.hosts[0] => {
                job.on_message(id, said, &mut cx, report)?;
            }
            Body::Answer(number, answer) => {
                if let (Some(from), Some(to)) = (member(from), member(to)) {
                    job.on_answer((from, to), number, answer, &mut cx, report)?;
                }
            }
            Body::Report(..) | Body::Request(..) => {}
        }
        Ok(())
    }

    fn step_zombies(&mut self) -> Result<(), Violation> {
        for zombie in &mut self.zombies {
            let mut cx = self.world.unwatched(&zombie.crew);
            zombie.job.step(&mut cx, &mut zombie.report)?;
        }
        let (now, network) = (self.world.now, &mut self.world.network);
        for zombie in self.zombies.extract_if(.., |one| one.until <= now) {
            self.world.trace.line(now, || format!("host {} notices, and ends", zombie.host));
            network.end(zombie.crew.attempt, now, &mut self.world.random);
            self.world.disks.remove(zombie.host);
        }
        Ok(())
    }

    /// From some tick on nothing fails any more, and progress is due.
    fn calm(&mut self) -> Result<(), Violation> {
        if self.world.now < self.world.plan.calm_at {
            return Ok(());
        }
        if self.before_calm.is_none() {
            self.world.disks.heal();
            self.world.network.heal();
            self.before_calm = Some(self.report.checkpoints);
            self.world.trace.line(self.world.now, || "faults stop".to_owned());
        }
        let calm_for = self.world.now - self.world.plan.calm_at;
        let idle = self.before_calm == Some(self.report.checkpoints);
        let periodic = self.world.plan.settings.interval.is_some();
        if calm_for > PROGRESS_TICKS_MAX && periodic && idle {
            return Err(Check::Progress.violated("no checkpoint completes, and nothing fails"));
        }
        if calm_for > CALM_TICKS_MAX {
            return Err(Check::Progress.violated("the job does not end, and nothing fails"));
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), Violation> {
        if self.world.random.one_in(3) {
            let vertex = self.world.random.index(self.parallelism.len());
            self.parallelism[vertex] = draw_parallelism(&mut self.world.random);
        }
        self.attempts += 1;
        // As the product counts them: what was of an earlier generation had less.
        let attempt = (self.generation << 32) + self.attempts;
        let hosts = self.crew.hosts.clone();
        self.crew = Crew::new(&self.world.plan, hosts, &self.parallelism, self.generation, attempt);
        self.fences.extend(self.crew.hosts.iter().map(|host| (*host, attempt)));
        self.world.network.begin();
        let mut cx = self.world.context(&self.crew);
        match restore(&mut cx, &self.parallelism, &mut self.survivors, &mut self.report) {
            Ok(job) => {
                self.report.starts += 1;
                self.begun = self.world.now;
                self.report.spread += u64::from(self.world.plan.hosts > 1);
                self.phase = Phase::Running(Box::new(job));
            }
            Err(Interrupted::Violated(violation)) => return Err(violation),
            Err(Interrupted::Disk(error)) => {
                self.world.trace.line(self.world.now, || format!("the restore fails: {error}"));
                self.phase = Phase::Down(self.world.now + 5);
            }
            Err(Interrupted::Killed) => self.crash(self.crew.hosts[0], false),
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Violation> {
        if !self.crew.disks(&self.world.disks).iter().all(|disk| disk.is_quiet()) {
            return Ok(());
        }
        if let Phase::Settling(job) =
            std::mem::replace(&mut self.phase, Phase::Down(self.world.now))
        {
            self.survivors = Survivors { newest: job.newest(), stale: job.into_stale() };
        }
        self.start()
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Phase::Running(job) = &mut self.phase else { return Ok(()) };
        let mut cx = self.world.context(&self.crew);
        job.step(&mut cx, &mut self.report)?;
        if cx.now < cx.plan.calm_at && job.end.is_none() {
            for (often, kind) in [
                (cx.plan.savepoint, CheckpointKind::Savepoint),
                (cx.plan.stop, CheckpointKind::Stop),
            ] {
                if cx.random.one_in(often) && job.end.is_none() {
                    job.trigger(kind, &mut cx, &mut self.report)?;
                }
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Violation> {
        let (Phase::Running(job), Watch::EveryTick) = (&self.phase, self.world.setup.watch) else {
            return Ok(());
        };
        let version = self.world.disks.version();
        if version == std::mem::replace(&mut self.checked_version, version) {
            return Ok(());
        }
        job.check(self.lost, &self.crew.disks(&self.world.disks), &self.world.plan)
    }

    fn take_end(&mut self) -> Result<Option<Report>, Violation> {
        let Phase::Running(job) = &mut self.phase else { return Ok(None) };
        match job.end.clone() {
            None => Ok(None),
            Some(End::Finished) => {
                check::is_exactly_once(&self.world.plan, self.world.disks.output())?;
                self.report.ticks = self.world.now;
                Ok(Some(self.report.clone()))
            }
            Some(End::Stopped) => {
                self.world
                    .trace
                    .line(self.world.now, || "the job was stopped, and is resumed".to_owned());
                self.report.stops += 1;
                self.restart();
                Ok(None)
            }
            Some(End::Failed(reason)) => {
                self.world.trace.line(self.world.now, || format!("the job fails: {reason}"));
                self.fail();
                Ok(None)
            }
        }
    }

    /// What the seed has in store for this tick.
    fn strike(&mut self) {
        if self.world.now >= self.world.plan.calm_at {
            return;
        }
        let faults = self.world.plan.faults;
        let completed = self.report.checkpoints + self.report.aborted;
        let ambush = completed > std::mem::replace(&mut self.ended_checkpoints, completed);
        if ambush && self.world.random.one_in(faults.ambush) {
            let power = self.world.random.one_in(2);
            self.crash(0, power);
        } else if self.world.random.one_in(faults.kill) {
            self.crash(0, false);
        } else if self.world.random.one_in(faults.power) {
            self.crash(0, true);
        } else if self.world.random.one_in(faults.panic) {
            self.fail();
        }
    }

    /// The same, for a job on several hosts.
    fn strike_hosts(&mut self) {
        if self.world.now >= self.world.plan.calm_at {
            return;
        }
        self.listen();
        let faults = self.world.plan.faults;
        let completed = self.report.checkpoints + self.report.aborted;
        let ambush = completed > std::mem::replace(&mut self.ended_checkpoints, completed)
            || self.world.now < self.begun + YOUTH && self.world.random.one_in(YOUTH);
        let place = self.world.random.index(self.crew.hosts.len());
        let host = self.crew.hosts[place];
        let long = self.world.now + self.world.random.between(5, 4 * SILENCE_MAX);
        // What a zombie does shows only when the attempt that it knows nothing of has ended.
        let haunted = !self.zombies.is_empty();
        let storing = self.report.manifests > self.begun_manifests;
        self.begun_manifests = self.report.manifests;
        if storing && self.world.random.one_in(faults.ambush) {
            // Long enough to be replaced, with a manifest in its hands.
            let host = self.crew.hosts[0];
            self.freeze(host, long.max(self.world.now + SILENCE_MAX + 10));
        } else if ambush && self.world.random.one_in(faults.ambush) {
            match self.world.random.below(4) {
                0 => self.freeze(host, long),
                1 | 2 => self.disaster(place),
                _ => self.crash(host, true),
            }
        } else if haunted && self.world.random.one_in(YOUTH) {
            self.fail();
        } else if self.world.random.one_in(faults.kill) {
            self.crash(host, false);
        } else if self.world.random.one_in(faults.power) {
            self.crash(host, true);
        } else if self.world.random.one_in(faults.panic) {
            self.fail();
        } else if self.world.random.one_in(faults.loss) {
            self.lose(place);
        } else if self.world.random.one_in(faults.freeze) {
            self.freeze(host, long);
        } else if self.world.random.one_in(faults.cut) {
            let step = 1 + self.world.random.index(self.crew.hosts.len() - 1);
            let other = self.crew.hosts[(place + step) % self.crew.hosts.len()];
            self.report.cuts += 1;
            self.world.network.cut(host, other, long);
            let both = self.world.random.one_in(2);
            if both {
                self.world.network.cut(other, host, long);
            }
            self.world.trace.line(self.world.now, || {
                format!("nothing comes from host {host} to {other}, both ways: {both}")
            });
        }
    }

    fn freeze(&mut self, host: HostId, until: u64) {
        self.report.freezes += 1;
        self.world.trace.line(self.world.now, || format!("host {host} stands still until {until}"));
        self.world.network.freeze(host, until);
    }

    /// Whoever hears nothing of another for too long ends the attempt. The other is waited for, or
    /// replaced.
    fn listen(&mut self) {
        if !matches!(self.phase, Phase::Running(_)) {
            return;
        }
        let hosts = &self.crew.hosts;
        let Some((who, whom)) = self.world.network.silence(hosts, self.world.now, SILENCE_MAX)
        else {
            return;
        };
        self.report.silences += 1;
        // Who cannot be heard may be the one who cannot hear.
        let is_still = self.world.network.is_frozen(whom);
        let victim = if is_still || self.world.random.one_in(2) { whom } else { who };
        let replaces = self.lost < self.world.plan.copies && self.world.random.one_in(2);
        self.world.trace.line(self.world.now, || {
            format!("host {who} hears nothing of {whom}; {victim} is replaced: {replaces}")
        });
        let place = hosts.iter().position(|host| *host == victim).unwrap_or(0);
        if !replaces {
            self.fail();
            return;
        }
        let until = self.world.now + self.world.random.between(SILENCE_MAX, 12 * SILENCE_MAX);
        if let Phase::Running(job) = std::mem::replace(&mut self.phase, Phase::Down(self.world.now))
        {
            self.report.zombies += 1;
            self.survivors = Survivors { newest: job.newest(), stale: Vec::new() };
            self.zombies.push(Zombie::new(job, self.crew.clone(), place, until));
        }
        self.replace(place);
    }

    /// An empty host takes the place of another.
    fn replace(&mut self, place: usize) {
        self.lost += 1;
        self.generation += 1;
        let faults =
            if self.before_calm.is_some() { DiskFaults::default() } else { self.world.plan.disk };
        self.crew.hosts[place] = self.world.disks.add(faults);
        if place == 0 {
            self.forget();
        }
    }

    /// A host is lost with its disk, if there are copies of all that it has.
    fn lose(&mut self, place: usize) {
        if self.lost >= self.world.plan.copies {
            return;
        }
        let host = self.crew.hosts[place];
        self.report.lost_hosts += 1;
        self.world.trace.line(self.world.now, || format!("host {host} is lost"));
        self.fail();
        self.world.network.forget(host);
        self.world.disks.remove(host);
        self.replace(place);
    }

    /// A host is lost, and the others' power fails.
    fn disaster(&mut self, place: usize) {
        self.lose(place);
        for host in self.crew.hosts.clone() {
            self.crash(host, true);
        }
    }

    /// What the process that controls the job knows is lost.
    fn forget(&mut self) {
        self.survivors = Survivors::default();
        self.report.newest_announced = CheckpointId(0);
    }

    /// All that is volatile on a host is lost.
    fn crash(&mut self, host: HostId, power: bool) {
        self.report.crashes += 1;
        self.world
            .trace
            .line(self.world.now, || format!("crash of host {host}, power fails: {power}"));
        if self.is_several() {
            self.fail();
        }
        if let Some(disk) = self.world.disks.get_mut(host) {
            disk.kill(self.world.now, &mut self.world.random);
            if power {
                disk.lose_power(&mut self.world.random);
            }
        }
        let until = self.world.now + self.pause();
        if self.is_several() {
            self.down.insert(host, until);
            if host == self.crew.hosts[0] {
                self.forget();
            }
            return;
        }
        self.forget();
        let calm = self.world.now >= self.world.plan.calm_at;
        if !calm && self.world.random.one_in(self.world.plan.faults.rot) {
            let disk = self.world.disks.get_mut(host);
            let rotten = disk.and_then(|disk| rot_newest(disk, &mut self.world.random));
            self.world.trace.line(self.world.now, || format!("rots: {rotten:?}"));
        }
        self.phase = Phase::Down(until);
    }

    /// The job was stopped, and everybody has ended.
    fn restart(&mut self) {
        if !self.is_several() {
            return self.crash(0, false);
        }
        self.fail();
        self.forget();
    }

    /// The attempt fails and the processes live.
    fn fail(&mut self) {
        let several = self.is_several();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Down(self.world.now)) {
            Phase::Running(job) if several => {
                self.report.failovers += 1;
                self.world.network.end(self.crew.attempt, self.world.now, &mut self.world.random);
                self.survivors = Survivors { newest: job.newest(), stale: Vec::new() };
                self.world.trace.line(self.world.now, || "the attempt is over".to_owned());
                Phase::Down(self.world.now + self.pause())
            }
            Phase::Running(job) => {
                self.report.failovers += 1;
                self.world
                    .trace
                    .line(self.world.now, || "the job is restarted in its process".to_owned());
                Phase::Settling(job)
            }
            other => other,
        };
    }

    fn pause(&mut self) -> u64 {
        match self.restarts.on_failure(time(self.world.now), self.world.random.fraction()) {
            Restart::After(delay) => delay.as_millis() as u64,
            Restart::GiveUp { .. } => 0,
        }
    }
}

fn draw_parallelism(random: &mut Random) -> u32 {
    random.between(1, 3) as u32
}
