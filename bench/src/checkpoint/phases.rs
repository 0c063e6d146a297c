//! Phases of a job with checkpoints and without, in turns.

use super::Options;
use crate::steered::{Order, SteeredJob};
use crate::{BenchError, Session, files};
use millstream_runtime::job::process_cpu_time;
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether checkpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    On,
    Off,
}

/// What a phase came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// What its latencies are recorded under.
    pub(super) number: u32,
    events: u64,
    elapsed: Duration,
    cpu: Duration,
}

impl Phase {
    pub(super) fn events_per_second(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn events_per_cpu_second(&self) -> f64 {
        self.events as f64 / self.cpu.as_secs_f64().max(1e-9)
    }
}

/// Two phases, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) on: Phase,
    pub(super) off: Phase,
}

impl Pair {
    pub(super) fn of(&self, side: Side) -> &Phase {
        match side {
            Side::On => &self.on,
            Side::Off => &self.off,
        }
    }
}

/// Takes a job through phases.
pub(super) struct Phases<'a> {
    job: &'a SteeredJob,
    session: &'a Session,
    options: &'a Options,
    /// Where the job's files are.
    folder: &'a Path,
    /// Keys that a phase changes.
    window: u64,
    next: u32,
    entries_changed: u64,
    disk_bytes_max: u64,
}

impl<'a> Phases<'a> {
    pub(super) fn new(
        job: &'a SteeredJob,
        session: &'a Session,
        options: &'a Options,
        folder: &'a Path,
        window: u64,
    ) -> Self {
        Self {
            job,
            session,
            options,
            folder,
            window,
            next: 1,
            entries_changed: 0,
            disk_bytes_max: 0,
        }
    }

    /// The most bytes of files that there were at the end of a phase.
    pub(super) fn disk_bytes_max(&self) -> u64 {
        self.disk_bytes_max
    }

    /// Entries of the state that the phases have changed: those that one has changed several times
    /// count once for it.
    pub(super) fn entries_changed(&self) -> u64 {
        self.entries_changed
    }

    /// A phase with checkpoints, then one without.
    pub(super) fn pair(&mut self, rate: Option<f64>) -> Result<Pair, BenchError> {
        Ok(Pair { on: self.phase(Side::On, rate)?, off: self.phase(Side::Off, rate)? })
    }

    fn phase(&mut self, side: Side, rate: Option<f64>) -> Result<Phase, BenchError> {
        let number = self.next;
        self.next += 1;
        let first = u64::from(number) * self.window;
        let (results, cpu, start) = (self.job.results(), process_cpu_time(), Instant::now());
        let order = if self.options.shuffle { number.into() } else { 0 };
        self.job.order(Order::Visit { phase: number, order, first, count: self.window, rate });
        match side {
            Side::On => self.with_checkpoints(start)?,
            Side::Off => self.job.sleep(self.session, self.options.phase)?,
        }
        let phase = Phase {
            number,
            events: self.job.results() - results,
            elapsed: start.elapsed(),
            cpu: process_cpu_time().saturating_sub(cpu),
        };
        self.entries_changed += phase.events.min(self.window);
        self.disk_bytes_max = self.disk_bytes_max.max(files::total_bytes(self.folder)?);
        Ok(phase)
    }

    fn with_checkpoints(&self, start: Instant) -> Result<(), BenchError> {
        let (phase, interval) = (self.options.phase, self.options.interval);
        let mut at = Duration::ZERO;
        while at < phase {
            let over = self.job.completed() + self.job.failed() + 1;
            self.job.ask_for_checkpoint();
            at += interval;
            let left = at.min(phase).saturating_sub(start.elapsed());
            self.job.sleep(self.session, left)?;
            self.job.wait_for_checkpoint_end(over, self.session)?;
        }
        Ok(())
    }
}
