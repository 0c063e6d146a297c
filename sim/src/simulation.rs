//! The world of one seed: a process that runs the job, a disk, and what befalls them.

use crate::check::{self, Check, Violation};
use crate::disk::{Disk, DiskFaults};
use crate::job::{End, Job, time};
use crate::message::{Context, Token};
use crate::plan::Plan;
use crate::random::Random;
use crate::restore::{Interrupted, Survivors, restore, rot_newest};
use crate::{Failure, Report, Setup, Trace, Watch};
use millstream_protocol::{CheckpointKind, Restart, RestartPolicy, RestartStrategy};
use millstream_types::CheckpointId;
use std::time::Duration;

/// What the process does.
enum Phase {
    Running(Box<Job>),
    /// It runs, and waits until nothing is on its way to the disk: a manifest that came to be after
    /// the choice of a checkpoint would name what the restore has rolled back.
    Settling(Box<Job>),
    /// It starts at this tick.
    Down(u64),
}

/// How long a job may take after the faults have stopped.
const CALM_TICKS_MAX: u64 = 30_000;
/// Within so many ticks of calm a checkpoint completes, if there is one at an interval.
const PROGRESS_TICKS_MAX: u64 = 3_000;

pub(crate) struct Simulation {
    plan: Plan,
    setup: Setup,
    random: Random,
    disk: Disk<Token>,
    trace: Trace,
    now: u64,
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
}

impl Simulation {
    pub(crate) fn new(seed: u64, setup: Setup, trace: Trace) -> Self {
        let plan = Plan::new(seed);
        // Apart from the plan's, so that neither draws from the other.
        let mut random = Random::new(!seed);
        let mut disk = Disk::new();
        disk.faults = plan.disk;
        let parallelism = (0..=plan.sink().0).map(|_| draw_parallelism(&mut random)).collect();
        let strategy = RestartStrategy::ExponentialDelay {
            initial: Duration::from_millis(1),
            delay_max: Duration::from_millis(40),
            multiplier: 2.0,
            reset_after: Duration::from_millis(100),
            jitter: 0.3,
        };
        Self {
            plan,
            setup,
            random,
            disk,
            trace,
            now: 0,
            phase: Phase::Down(0),
            parallelism,
            restarts: RestartPolicy::new(strategy),
            survivors: Survivors::default(),
            report: Report::default(),
            before_calm: None,
            checked_version: 0,
            ended_checkpoints: 0,
        }
    }

    /// Runs to the end of the job. The trace comes back in either case.
    pub(crate) fn run(mut self) -> (Result<Report, Failure>, Trace) {
        let plan = self.plan.clone();
        self.trace.line(0, || format!("{plan:?}"));
        let result = loop {
            self.now += 1;
            match self.tick() {
                Ok(None) => {}
                Ok(Some(report)) => break Ok(report),
                Err(violation) => {
                    self.trace.line(self.now, || violation.to_string());
                    break Err(Failure {
                        seed: self.plan.seed,
                        setup: self.setup,
                        tick: self.now,
                        violation,
                    });
                }
            }
        };
        (result, self.trace)
    }

    fn tick(&mut self) -> Result<Option<Report>, Violation> {
        self.calm()?;
        match &mut self.phase {
            Phase::Down(until) if *until <= self.now => self.start()?,
            Phase::Down(_) => {}
            Phase::Settling(_) => self.settle()?,
            Phase::Running(_) => {
                self.step()?;
                if let Some(report) = self.take_end()? {
                    return Ok(Some(report));
                }
            }
        }
        self.strike();
        Ok(None)
    }

    /// From some tick on nothing fails any more, and progress is due.
    fn calm(&mut self) -> Result<(), Violation> {
        if self.now < self.plan.calm_at {
            return Ok(());
        }
        if self.before_calm.is_none() {
            self.disk.faults = DiskFaults::default();
            self.before_calm = Some(self.report.checkpoints);
            self.trace.line(self.now, || "faults stop".to_owned());
        }
        let calm_for = self.now - self.plan.calm_at;
        let idle = self.before_calm == Some(self.report.checkpoints);
        let periodic = self.plan.settings.interval.is_some();
        if calm_for > PROGRESS_TICKS_MAX && periodic && idle {
            return Err(Check::Progress.violated("no checkpoint completes, and nothing fails"));
        }
        if calm_for > CALM_TICKS_MAX {
            return Err(Check::Progress.violated("the job does not end, and nothing fails"));
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), Violation> {
        if self.random.one_in(3) {
            let vertex = self.random.index(self.parallelism.len());
            self.parallelism[vertex] = draw_parallelism(&mut self.random);
        }
        let mut cx = Context {
            now: self.now,
            plan: &self.plan,
            setup: self.setup,
            random: &mut self.random,
            disk: &mut self.disk,
            trace: &mut self.trace,
        };
        match restore(&mut cx, &self.parallelism, &mut self.survivors, &mut self.report) {
            Ok(job) => {
                self.report.starts += 1;
                self.phase = Phase::Running(Box::new(job));
            }
            Err(Interrupted::Violated(violation)) => return Err(violation),
            Err(Interrupted::Disk(error)) => {
                self.trace.line(self.now, || format!("the restore fails: {error}"));
                self.phase = Phase::Down(self.now + 5);
            }
            Err(Interrupted::Killed) => self.crash(false),
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Violation> {
        let Phase::Settling(job) = &mut self.phase else { return Ok(()) };
        let mut cx = Context {
            now: self.now,
            plan: &self.plan,
            setup: self.setup,
            random: &mut self.random,
            disk: &mut self.disk,
            trace: &mut self.trace,
        };
        job.settle(&mut cx);
        if !self.disk.is_quiet() {
            return Ok(());
        }
        if let Phase::Settling(job) = std::mem::replace(&mut self.phase, Phase::Down(self.now)) {
            self.survivors = Survivors { newest: job.newest(), stale: job.into_stale() };
        }
        self.start()
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Phase::Running(job) = &mut self.phase else { return Ok(()) };
        let mut cx = Context {
            now: self.now,
            plan: &self.plan,
            setup: self.setup,
            random: &mut self.random,
            disk: &mut self.disk,
            trace: &mut self.trace,
        };
        job.step(&mut cx, &mut self.report)?;
        if self.now < self.plan.calm_at && job.end.is_none() {
            for (often, kind) in [
                (self.plan.savepoint, CheckpointKind::Savepoint),
                (self.plan.stop, CheckpointKind::Stop),
            ] {
                if cx.random.one_in(often) && job.end.is_none() {
                    job.trigger(kind, &mut cx, &mut self.report)?;
                }
            }
        }
        if self.setup.watch == Watch::EveryTick && cx.disk.version() != self.checked_version {
            self.checked_version = cx.disk.version();
            job.check(&cx)?;
        }
        Ok(())
    }

    fn take_end(&mut self) -> Result<Option<Report>, Violation> {
        let Phase::Running(job) = &mut self.phase else { return Ok(None) };
        match job.end.clone() {
            None => Ok(None),
            Some(End::Finished) => {
                check::is_exactly_once(&self.plan, &self.disk)?;
                self.report.ticks = self.now;
                Ok(Some(self.report.clone()))
            }
            Some(End::Stopped) => {
                self.trace.line(self.now, || "the job was stopped, and is resumed".to_owned());
                self.report.stops += 1;
                self.crash(false);
                Ok(None)
            }
            Some(End::Failed(reason)) => {
                self.trace.line(self.now, || format!("the job fails: {reason}"));
                self.panic();
                Ok(None)
            }
        }
    }

    /// What the seed has in store for this tick.
    fn strike(&mut self) {
        if self.now >= self.plan.calm_at {
            return;
        }
        let faults = self.plan.faults;
        let completed = self.report.checkpoints + self.report.aborted;
        let ambush = completed > std::mem::replace(&mut self.ended_checkpoints, completed);
        if ambush && self.random.one_in(faults.ambush) {
            let power = self.random.one_in(2);
            self.crash(power);
        } else if self.random.one_in(faults.kill) {
            self.crash(false);
        } else if self.random.one_in(faults.power) {
            self.crash(true);
        } else if self.random.one_in(faults.panic) {
            self.panic();
        }
    }

    /// All that is volatile is lost.
    fn crash(&mut self, power: bool) {
        self.report.crashes += 1;
        self.trace.line(self.now, || format!("crash, power fails: {power}"));
        self.disk.kill(self.now, &mut self.random);
        if power {
            self.disk.lose_power(&mut self.random);
        }
        self.survivors = Survivors::default();
        self.report.newest_announced = CheckpointId(0);
        let calm = self.now >= self.plan.calm_at;
        if !calm && self.random.one_in(self.plan.faults.rot) {
            let rotten = rot_newest(&mut self.disk, &mut self.random);
            self.trace.line(self.now, || format!("rots: {rotten:?}"));
        }
        self.phase = Phase::Down(self.now + self.pause());
    }

    /// The job fails and the process lives.
    fn panic(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Down(self.now)) {
            Phase::Running(job) => {
                self.report.failovers += 1;
                self.trace.line(self.now, || "the job is restarted in its process".to_owned());
                Phase::Settling(job)
            }
            other => other,
        };
    }

    fn pause(&mut self) -> u64 {
        match self.restarts.on_failure(time(self.now), self.random.fraction()) {
            Restart::After(delay) => delay.as_millis() as u64,
            Restart::GiveUp { .. } => 0,
        }
    }
}

fn draw_parallelism(random: &mut Random) -> u32 {
    random.between(1, 3) as u32
}
