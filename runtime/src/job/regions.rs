//! The slots of a job that runs, by failover region: those that start together, and start again together when
//! one of them fails.
//!
//! # Invariants
//! - Each start of a region is an attempt of its own, with a number that no other has. What is reported of
//!   one that is over counts for nothing.
//! - A region that has failed starts again when it is known what it goes back to, and not before the restart strategy
//!   allows it.

use super::Job;
use super::attempt::{Attempt, Shared};
use crate::checkpoint::{Report, RestoreFrom, Restored};
use crate::error::JobError;
use crate::exchange::SlotStream;
use crate::hosts::{Crew, Post};
use crate::slot::SlotFailure;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// All regions of a job that have slots in this process.
pub(super) struct Regions {
    all: Vec<Region>,
    pub(super) reports: Receiver<Report>,
    pub(super) reporter: Sender<Report>,
}

/// One of them.
struct Region {
    slots: Range<u32>,
    /// Of the attempt.
    number: u64,
    attempt: Attempt,
    /// The ways to its slots on other hosts.
    elsewhere: Post,
    phase: Phase,
    /// Slots of which all subtasks have finished.
    finished: u32,
    /// Slots whose loop is over.
    ended: u32,
}

enum Phase {
    /// So many of its slots have built their subtasks, which receive what was in flight in so many rounds.
    Starts {
        ready: u32,
        rounds: u32,
    },
    Runs,
    /// It does not start again before this time.
    Failed {
        until: Instant,
        from: Option<RestoreFrom>,
    },
}

impl Regions {
    /// Without any slots yet.
    pub(super) fn new() -> Self {
        let (reporter, reports) = channel();
        Self { all: Vec::new(), reports, reporter }
    }

    /// Starts a region, in the place of the one that had its slots before and has failed. `streams` are its connections to
    /// slots of other hosts.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start(
        &mut self,
        job: &Job,
        slots: Range<u32>,
        number: u64,
        restored: Option<&Restored>,
        streams: Vec<Vec<SlotStream>>,
    ) -> Result<(), JobError> {
        let (reporter, of_process) = (self.reporter.clone(), job.slots_here());
        let here = match slots.start.max(of_process.start)..slots.end.min(of_process.end) {
            here if here.is_empty() => of_process.start..of_process.start,
            here => here,
        };
        let attempt = Attempt::start(job, number, here, restored, streams, reporter)?;
        let rounds = restored.map_or(0, |restored| restored.rounds(&job.graph));
        let phase = Phase::Starts { ready: 0, rounds };
        let elsewhere = Post::default();
        let region = Region { slots, number, attempt, elsewhere, phase, finished: 0, ended: 0 };
        match self.all.iter_mut().find(|before| before.slots == region.slots) {
            Some(before) => *before = region,
            None => self.all.push(region),
        }
        Ok(())
    }

    /// Other members take part in an attempt that was started: what they tell of it is reported, too, and they do
    /// what its slots are told.
    pub(super) fn add_members(&mut self, attempt: u64, crew: &Crew) {
        let Some(region) = self.all.iter_mut().find(|region| region.number == attempt) else {
            return;
        };
        region.elsewhere = crew.post(attempt);
        region.attempt.shared.lead(region.elsewhere.clone());
        crew.report_to(attempt, self.reporter.clone(), Arc::clone(&region.attempt.shared));
    }

    /// True if there is more than one, so that some can go on when others fail.
    pub(super) fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// The ways to all slots.
    pub(super) fn post(&self) -> Post {
        let mailboxes = self.all.iter().flat_map(|region| &region.attempt.mailboxes);
        let here = Post::to_slots(mailboxes.cloned().collect());
        self.all.iter().fold(here, |post, region| post.and(&region.elsewhere))
    }

    /// What the slots of each share with whoever wants something of them.
    pub(super) fn shared(&self) -> Vec<Arc<Shared>> {
        self.all.iter().map(|region| Arc::clone(&region.attempt.shared)).collect()
    }

    fn find(&mut self, attempt: u64) -> Option<&mut Region> {
        self.all.iter_mut().find(|region| region.number == attempt && !region.has_failed())
    }

    /// A slot has built its subtasks. Returns the slots of the region and the rounds in which it receives what was in
    /// flight, if it was the last one.
    pub(super) fn on_ready(&mut self, attempt: u64) -> Option<(Range<u32>, u32)> {
        let region = self.find(attempt)?;
        let Phase::Starts { ready, rounds } = &mut region.phase else { return None };
        *ready += 1;
        (*ready == region.slots.len() as u32).then_some((region.slots.clone(), *rounds))
    }

    /// All slots of all regions may go.
    pub(super) fn release_all(&mut self) {
        for region in &mut self.all {
            region.phase = Phase::Runs;
            region.attempt.shared.release();
        }
    }

    /// All slots of a region may go.
    pub(super) fn release(&mut self, slots: &Range<u32>) {
        if let Some(region) = self.all.iter_mut().find(|region| region.slots == *slots) {
            region.phase = Phase::Runs;
            region.attempt.shared.release();
        }
    }

    /// True if each runs.
    pub(super) fn all_run(&self) -> bool {
        self.all.iter().all(|region| matches!(region.phase, Phase::Runs))
    }

    /// All subtasks of a slot have finished. False if it is one of a past attempt.
    pub(super) fn on_finished(&mut self, attempt: u64) -> bool {
        let region = self.find(attempt);
        let is_of_now = region.is_some();
        region.into_iter().for_each(|region| region.finished += 1);
        is_of_now
    }

    /// Slots of which all subtasks have finished.
    pub(super) fn finished(&self) -> u32 {
        self.all.iter().map(|region| region.finished).sum()
    }

    /// A slot's loop is over. True if it was the last of a region that will not start again, and should not have ended
    /// yet: where slots do not `stay` when they have finished, it is all right that they end.
    pub(super) fn on_ended(&mut self, attempt: u64, stay: bool) -> bool {
        let are_several = self.are_several();
        self.find(attempt).is_some_and(|region| {
            region.ended += 1;
            let slots = region.slots.len() as u32;
            let starts_again = are_several && region.attempt.shared.has_failed();
            let may_end = !stay && region.finished == slots;
            region.ended == slots && !starts_again && !may_end
        })
    }

    /// True if it is the number of an attempt that runs.
    pub(super) fn is_of_now(&mut self, attempt: u64) -> bool {
        self.find(attempt).is_some()
    }

    /// True if one has failed, which has not been [taken](Self::take_failed) yet.
    pub(super) fn has_failed(&self) -> bool {
        self.all.iter().any(|region| region.attempt.shared.has_failed())
    }

    /// Ends a region that has failed, if there is one. Returns its slots, and why.
    ///
    /// # Errors
    /// If one of its threads has died.
    pub(super) fn take_failed(
        &mut self,
        crew: Option<&Crew>,
    ) -> Result<Option<(Range<u32>, SlotFailure)>, JobError> {
        let failed = |region: &&mut Region| region.attempt.shared.has_failed();
        let Some(region) = self.all.iter_mut().find(failed) else { return Ok(None) };
        region.attempt.shared.stop();
        region.attempt.join()?;
        crew.into_iter().for_each(|crew| crew.end(region.number));
        region.phase = Phase::Failed { until: Instant::now(), from: None };
        region.finished = 0;
        let failure = region.attempt.shared.take_failure();
        Ok(failure.map(|failure| (region.slots.clone(), failure)))
    }

    /// A region that has failed does not start again for so long.
    pub(super) fn pause(&mut self, slots: &Range<u32>, pause: Duration) {
        let of_slots = self.all.iter_mut().find(|region| region.slots == *slots);
        if let Some(Phase::Failed { until, from }) = of_slots.map(|region| &mut region.phase) {
            (*until, *from) = (Instant::now() + pause, None);
        }
    }

    /// All that have failed go back there.
    pub(super) fn restore_from(&mut self, checkpoint: RestoreFrom) {
        for region in &mut self.all {
            if let Phase::Failed { from, .. } = &mut region.phase {
                *from = Some(checkpoint);
            }
        }
    }

    /// One that is to start again now, and what it goes back to.
    pub(super) fn due(&self) -> Option<(Range<u32>, RestoreFrom)> {
        let now = Instant::now();
        self.all.iter().find_map(|region| match region.phase {
            Phase::Failed { until, from: Some(from) } if until <= now => {
                Some((region.slots.clone(), from))
            }
            _ => None,
        })
    }

    /// How long until one is, if that is known.
    pub(super) fn wait(&self) -> Option<Duration> {
        let until = self.all.iter().filter_map(|region| match region.phase {
            Phase::Failed { until, from: Some(_) } => Some(until),
            _ => None,
        });
        until.min().map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Ends all. Returns why one has failed, the first whose failure somebody is to blame for.
    ///
    /// # Errors
    /// If a thread has died.
    pub(super) fn end(&mut self) -> (Option<SlotFailure>, Result<(), JobError>) {
        self.all.iter().for_each(|region| region.attempt.shared.stop());
        let joined: Vec<_> = self.all.iter_mut().map(|region| region.attempt.join()).collect();
        let failures = self.all.iter().filter_map(|region| region.attempt.shared.take_failure());
        let failure = failures.max_by_key(|failure| failure.blamed.is_some());
        (failure, joined.into_iter().collect())
    }
}

impl Region {
    fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed { .. })
    }
}
