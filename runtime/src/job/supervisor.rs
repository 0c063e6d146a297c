//! The thread that controls a job: attempts, checkpoints, restarts, the end.

use super::directory::Directory;
use super::panel::{ControlPanel, OTHER_HOSTS, Running, Wanted, begin_anew};
use super::regions::Regions;
use super::site::Site;
use super::{Job, JobResult, JobStatus, process_cpu_time};
use crate::checkpoint::{
    Commit, Control, Damaged, Mail, Report, RestoreFrom, RestoreInto, Restored, Step, Transaction,
    damaged_file, exactly, in_words, newest,
};
use crate::config::CheckpointConfig;
use crate::error::{BoxError, JobError};
use crate::hosts::{self, Crew, Host, shortened};
use crate::slot::SlotFailure;
use millstream_protocol::manifest::layout;
use millstream_protocol::{
    CheckpointKind, Deployment, Manifest, Restart, RestartPolicy, SubtaskId, Told,
};
use millstream_storage::CheckpointDirectory;
use millstream_types::{CheckpointId, SlotIndex};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

/// Makes attempts at a job, again and again.
pub(super) struct Supervisor {
    pub(super) job: Job,
    pub(super) control: Arc<ControlPanel>,
    /// When the job began to run here, and the processor time of the process before.
    pub(super) started: Cell<Option<(Instant, Duration)>>,
    /// The checkpoint that it began with.
    pub(super) began_with: Cell<Option<CheckpointId>>,
    /// The number of the last attempt at a region.
    pub(super) attempts: Cell<u64>,
    /// How often the agent was told that the job runs.
    pub(super) rounds: Cell<u64>,
}

/// What an attempt begins with.
#[derive(Clone, Copy)]
struct Basis<'a> {
    crew: Option<&'a Crew>,
    directory: Option<&'a Directory>,
    restored: Option<&'a Restored>,
    damaged: &'a Damaged,
}

/// When what has failed starts again.
struct Restarts {
    policy: RestartPolicy,
    origin: Instant,
}

impl Restarts {
    fn on_failure(&mut self) -> Restart {
        self.policy.on_failure(self.origin.elapsed(), jitter())
    }
}

/// How an attempt ended that did not fail.
struct Ended {
    status: JobStatus,
    /// The last result.
    at: Instant,
}

impl Supervisor {
    /// Runs the job to its end. `told` is told when it has begun to run.
    pub(super) fn run(
        mut self,
        told: &Sender<Instant>,
        between: &Receiver<()>,
    ) -> Result<JobResult, JobError> {
        loop {
            // With it all threads that it starts, but for the slots'.
            if let Err(error) = self.job.site.background.leave_slots() {
                tracing::debug!("the control of the job may run on cores of slots: {error}");
            }
            let Some(host) = self.job.site.host.clone() else {
                return self.lead(&mut None, told, between);
            };
            let result = self.run_on(&host, told, between);
            let Some(deployment) = self.control.take_deployment() else {
                host.tell_end(&result);
                return result;
            };
            // What is looked for next is where this thread may run, and what it starts.
            if let Err(error) = self.job.site.background.spread() {
                tracing::debug!("the control of the job stays on few cores: {error}");
            }
            if let Err(error) = self.follow_deployment(&deployment) {
                tracing::info!("the process begins anew with the other hosts: {error}");
                begin_anew(&deployment);
            }
        }
    }

    /// Makes this process a member of another deployment, as which it goes on.
    fn follow_deployment(&mut self, deployment: &Deployment) -> Result<(), JobError> {
        self.job.site = Site::follow(&self.job, deployment.clone())?;
        self.job.remains.keep_of(self.job.slots_here());
        self.control.with(|panel| panel.host.clone_from(&self.job.site.host));
        tracing::info!("the job goes on here as generation {}", deployment.generation);
        Ok(())
    }

    /// Runs the job as one of several processes.
    fn run_on(
        &self,
        host: &Arc<Host>,
        told: &Sender<Instant>,
        between: &Receiver<()>,
    ) -> Result<JobResult, JobError> {
        if !host.is_first() {
            return self.follow(host, told);
        }
        let mut crew = Some(Crew::new(Arc::clone(host), self.job.metrics.clone()));
        let result = self.lead(&mut crew, told, between);
        match crew {
            // They hear from their agents.
            Some(mut crew) if self.control.is_handed_over() => crew.leave(),
            Some(crew) => crew.over(&result),
            None => {}
        }
        result
    }

    /// Does what the first member of the job says.
    fn follow(&self, host: &Arc<Host>, told: &Sender<Instant>) -> Result<JobResult, JobError> {
        let ((began, cpu), control) = (self.since(), &*self.control);
        // Nobody listens if the job is not wanted any more.
        let _ = told.send(began);
        let status = hosts::follow(&self.job, host, &|| control.goes_on())?;
        Ok(JobResult {
            status,
            elapsed: began.elapsed(),
            cpu: process_cpu_time().saturating_sub(cpu),
            restored_checkpoint: None,
            metrics: self.job.metrics.clone(),
        })
    }

    /// Since when the job runs here, if not from now on, and the processor time of the process before.
    fn since(&self) -> (Instant, Duration) {
        self.started.get().unwrap_or_else(|| (Instant::now(), process_cpu_time()))
    }

    /// Runs the job to its end, with slots of other members if there are any.
    fn lead(
        &self,
        crew: &mut Option<Crew>,
        told: &Sender<Instant>,
        between: &Receiver<()>,
    ) -> Result<JobResult, JobError> {
        let goes_on = || self.control.goes_on();
        let Some(config) = &self.job.config.checkpoints else {
            let result = self.run_attempts(None, crew, told, between);
            if !matches!(&result, Ok(result) if result.status != JobStatus::Canceled) {
                self.abort();
            }
            return result;
        };
        let directory =
            Directory::open(config, crew.as_mut(), &self.job.metrics.counters, goes_on)?;
        let result = self.run_attempts(Some(&directory), crew, told, between);
        let ended_as = |status| matches!(&result, Ok(result) if result.status == status);
        if !ended_as(JobStatus::Finished) {
            directory.stop_cleaning();
        }
        // What a checkpoint counts on must stay, also if the job has failed or was refused.
        if ended_as(JobStatus::Canceled)
            && !config.retain_on_cancel
            && !self.control.is_handed_over()
        {
            directory.delete_all();
            self.abort();
        }
        result
    }

    fn run_attempts(
        &self,
        directory: Option<&Directory>,
        crew: &mut Option<Crew>,
        told: &Sender<Instant>,
        between: &Receiver<()>,
    ) -> Result<JobResult, JobError> {
        let mut restored = match (directory, &self.job.config.checkpoints) {
            (Some(directory), Some(config)) => self.first_checkpoint(directory, config)?,
            _ => None,
        };
        let mut damaged = Damaged::new();
        let (mut restores, mut strict) = (false, false);
        let policy = RestartPolicy::new(self.job.config.restart_strategy());
        let mut restarts = Restarts { policy, origin: Instant::now() };
        self.rounds.set(0);
        // No attempt that another process has led has such a number.
        self.attempts.set(self.job.site.host.as_ref().map_or(0, |host| host.attempts_before()));
        loop {
            // What a member has is wanted only when it is there again.
            if let Some(crew) = crew.as_mut() {
                crew.gather(|| self.control.goes_on())?;
            }
            if restores && let Some(directory) = directory {
                match self.restore(&directory.checkpoints, strict, &damaged) {
                    Ok(found) => {
                        restored = found;
                        // Copies that were made ahead of a checkpoint which never came, for example.
                        if let Err(error) = directory.clean_orphans() {
                            let words = in_words(&error);
                            tracing::warn!("files of earlier attempts stay: {words}");
                        }
                    }
                    // Whatever could not be read may be there when all are.
                    Err(error) if crew.as_ref().is_some_and(Crew::misses_any) => {
                        tracing::warn!("{error}; waiting for all hosts");
                        continue;
                    }
                    // A host does not answer, as its disk stands still, or a disk is full: not for ever.
                    Err(error)
                        if is_lost_host(&error) || matches!(error, JobError::Checkpoint(_)) =>
                    {
                        self.wait_to_restart(error, &mut restarts, crew.as_ref(), between)?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.started.get().is_none() {
                self.began_with.set(restored.as_ref().map(Restored::checkpoint));
            }
            let (restored_from, crew_of) = (restored.as_ref(), crew.as_ref());
            let basis =
                Basis { crew: crew_of, directory, restored: restored_from, damaged: &damaged };
            let ended = self.attempt(basis, &mut restarts, |at| {
                self.started.set(Some(self.since()));
                self.tell_running(restored.as_ref().map(Restored::checkpoint));
                // Nobody listens any more after the first attempt.
                let _ = told.send(at);
            });
            let error = match ended {
                Ok(ended) => {
                    let (began, cpu) = self.since();
                    return Ok(JobResult {
                        status: ended.status,
                        elapsed: ended.at.saturating_duration_since(began),
                        cpu: process_cpu_time().saturating_sub(cpu),
                        restored_checkpoint: self.began_with.get(),
                        metrics: self.job.metrics.clone(),
                    });
                }
                Err(error) => error,
            };
            if let (Some(config), Some(from)) = (&self.job.config.checkpoints, &restored)
                && let Some(file) = damaged_in(&error)
                && damaged.insert(file.to_owned())
            {
                self.job.remains.distrust(&damaged);
                // Another place may have it whole. If none has, this says so of the checkpoint.
                tracing::warn!("checkpoint {}: {error}", from.checkpoint());
                (restores, strict) = (true, config.strict);
                continue;
            }
            // A job that cannot even be put together will not be so after a while, unless it is for want
            // of a host.
            if self.started.get().is_none() && !is_lost_host(&error) {
                return Err(error);
            }
            self.wait_to_restart(error, &mut restarts, crew.as_ref(), between)?;
            (restores, strict) = (true, false);
        }
    }

    /// After a failure: waits as long as the restart strategy says.
    ///
    /// # Errors
    /// The failure, if the job is not to start again.
    fn wait_to_restart(
        &self,
        error: JobError,
        restarts: &mut Restarts,
        crew: Option<&Crew>,
        between: &Receiver<()>,
    ) -> Result<(), JobError> {
        if self.control.is_handed_over() {
            return Err(error);
        }
        let pause = match restarts.on_failure() {
            // Its place is taken by another, or it comes back: what the pause is for has not failed.
            Restart::After(_) if crew.is_some_and(Crew::misses_any) => Duration::ZERO,
            Restart::After(pause) => pause,
            Restart::GiveUp { .. } => return Err(error),
        };
        tracing::warn!("{error}; the job starts again in {pause:?}");
        self.tell_agent(Told::Restarting { error: shortened(error.to_string()) });
        self.job.metrics.counters.add_restart();
        if !self.pause(pause, between) {
            return Err(error);
        }
        Ok(())
    }

    fn tell_running(&self, restored: Option<CheckpointId>) {
        self.rounds.set(self.rounds.get() + 1);
        let restored = restored.map(|checkpoint| checkpoint.0);
        self.tell_agent(Told::Running { attempt: self.rounds.get(), restored });
    }

    fn tell_agent(&self, told: Told) {
        if let Some(host) = &self.job.site.host {
            host.tell(told);
        }
    }

    /// The checkpoint that the job begins with.
    fn first_checkpoint(
        &self,
        directory: &Directory,
        config: &CheckpointConfig,
    ) -> Result<Option<Restored>, JobError> {
        let failed = |error| JobError::Restore(in_words(&error));
        if !config.resume {
            let present = directory.checkpoints.contents().map_err(failed)?;
            if let Some((newest, _)) = present.complete.last_key_value() {
                return Err(JobError::Invalid(format!(
                    "{} holds checkpoint {newest} of an earlier run: go on from it (--resume), give another directory, or delete it (`millstream checkpoints delete {} {newest}`)",
                    config.directory.display(),
                    config.directory.display()
                )));
            }
        }
        let restored = self.restore(&directory.checkpoints, config.strict, &Damaged::new())?;
        if restored.is_none() && config.must_exist {
            return Err(JobError::Restore(format!(
                "{} holds no checkpoint to go on from",
                config.directory.display()
            )));
        }
        directory.clean().map_err(failed)?;
        Ok(restored)
    }

    fn restore(
        &self,
        directory: &CheckpointDirectory,
        strict: bool,
        damaged: &Damaged,
    ) -> Result<Option<Restored>, JobError> {
        let uids = self.job.graph.uids();
        let stores = self.job.config.checkpoints.as_ref().map(CheckpointConfig::stores);
        let restored = self
            .job
            .restore_into(|into| newest(directory, into, strict, damaged, stores.as_deref()))?;
        if let Some(restored) = &restored {
            restored.check_in_flight(&uids, &self.job.graph)?;
            tracing::info!("going on from checkpoint {}", restored.checkpoint());
            self.settle(directory, restored.checkpoint())?;
            // Complete, but maybe not all committed.
            self.commit(&restored.transactions(&uids, &self.job.graph)?)
                .map_err(|error| JobError::Restore(error.to_string()))?;
        }
        Ok(restored)
    }

    /// Makes a checkpoint that can be seen durable, with as many hosts as are to have it. The process that
    /// took it may have been killed between the two; what is committed on its behalf now must not outlive it.
    fn settle(
        &self,
        directory: &CheckpointDirectory,
        checkpoint: CheckpointId,
    ) -> Result<(), JobError> {
        let Some(config) = &self.job.config.checkpoints else { return Ok(()) };
        directory.copy_manifest(checkpoint).map_err(|error| match error.is_remote() {
            true => JobError::Host(in_words(&error)),
            false => JobError::Checkpoint(error.into()),
        })?;
        let folder = config.directory.join(layout::checkpoint_folder(checkpoint));
        // Not there if it came from the replica.
        for directory in [&folder, &config.directory].into_iter().filter(|d| d.exists()) {
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(
                |error| {
                    JobError::Restore(format!("{} cannot be synced: {error}", directory.display()))
                },
            )?;
        }
        Ok(())
    }

    /// Waits; false if the job is not wanted any more.
    fn pause(&self, pause: Duration, between: &Receiver<()>) -> bool {
        let until = Instant::now() + pause;
        loop {
            if !self.control.goes_on() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || between.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                return self.control.goes_on();
            }
        }
    }

    fn next_number(&self) -> u64 {
        self.attempts.set(self.attempts.get() + 1);
        self.attempts.get()
    }

    /// Runs the job once, but for regions that start again.
    fn attempt(
        &self,
        basis: Basis<'_>,
        restarts: &mut Restarts,
        begun: impl FnOnce(Instant),
    ) -> Result<Ended, JobError> {
        let (job, restored) = (&self.job, basis.restored);
        let mut regions = Regions::new();
        let started =
            job.site.regions.iter().try_for_each(|slots| {
                self.start_region(&mut regions, slots.clone(), restored, basis)
            });
        let result = started.and_then(|()| self.run_regions(&mut regions, basis, restarts, begun));
        basis.crew.into_iter().for_each(Crew::end_all);
        // An operator's failure elsewhere may be heard of after that of the connections which it has ended.
        match regions.end().0 {
            Some(failure) if result.is_err() && failure.blamed.is_some() => {
                Err(self.named(failure))
            }
            _ => result,
        }
    }

    /// Starts a region, here or where else it has slots.
    fn start_region(
        &self,
        regions: &mut Regions,
        slots: Range<u32>,
        restored: Option<&Restored>,
        basis: Basis<'_>,
    ) -> Result<(), JobError> {
        let (job, number) = (&self.job, self.next_number());
        let mut streams = Vec::new();
        if let Some(crew) = basis.crew {
            let manifest = restored.map(|restored| &restored.manifest);
            crew.begin(number, &slots, manifest, basis.damaged);
            if !job.is_regional() {
                let give_up = || crew.has_failed(number);
                streams = crew.host().connect_slots(number, &give_up)?.streams;
            }
        }
        regions.start(job, slots, number, restored, streams)?;
        basis.crew.into_iter().for_each(|crew| regions.add_members(number, crew));
        Ok(())
    }

    fn run_regions(
        &self,
        regions: &mut Regions,
        basis: Basis<'_>,
        restarts: &mut Restarts,
        begun: impl FnOnce(Instant),
    ) -> Result<Ended, JobError> {
        let Basis { directory, restored, .. } = basis;
        let mut with_state = BTreeSet::new();
        let mut ready = 0;
        while ready < self.job.config.slots && !regions.has_failed() {
            match regions.reports.recv() {
                Ok(Report::Ready { with_state: of_slot, .. }) => {
                    ready += 1;
                    with_state.extend(of_slot);
                }
                // The thread of a slot has died.
                Ok(Report::Ended { .. }) | Err(_) => break,
                Ok(_) => {}
            }
        }
        if ready < self.job.config.slots || regions.has_failed() {
            let (failure, joined) = regions.end();
            if let Some(failure) = failure {
                return Err(self.named(failure));
            }
            joined?;
            return Err(JobError::Host("a slot has ended before it was ready".to_owned()));
        }
        let mut checkpoints = match (directory, &self.job.config.checkpoints) {
            (Some(directory), Some(config)) => Some(Control::new(
                directory.checkpoints.clone(),
                directory.newest_used.get(),
                config,
                self.job.identity.of_operators(&with_state),
                self.job.subtasks(),
                regions.post(),
                regions.reporter.clone(),
                Arc::clone(&self.job.metrics.counters),
            )?),
            _ => None,
        };
        if let (Some(checkpoints), Some(restored)) = (&mut checkpoints, restored)
            && restored.rounds(&self.job.graph) > 0
        {
            tracing::debug!("no checkpoint begins before what was in flight has been received");
            let subtasks = self.job.subtasks().into_values().flatten();
            checkpoints.wait_for(subtasks.filter(|subtask| self.reads(subtask)));
        }
        self.show(regions);
        begun(Instant::now());
        regions.release_all();
        let watched = self.watch(regions, checkpoints.as_mut(), basis, restarts);
        self.control.with(|panel| panel.running = None);
        if watched.is_ok() {
            regions.shared().iter().for_each(|shared| shared.end());
        }
        let (failure, joined) = regions.end();
        if let (Some(directory), Some(checkpoints)) = (directory, checkpoints) {
            directory.newest_used.set(checkpoints.newest());
            let completes = matches!(&watched, Ok(ended) if ended.status != JobStatus::Canceled);
            match &self.job.site.host {
                // It may be for want of the one that is waited for; or nobody needs it any more.
                Some(host) if !completes || failure.is_some() => {
                    host.give_up_files(|| drop(checkpoints));
                }
                _ => drop(checkpoints),
            }
        }
        if let Some(failure) = failure {
            return Err(self.named(failure));
        }
        joined?;
        watched
    }

    /// Whoever wants something of the job reaches these regions from now on.
    fn show(&self, regions: &Regions) {
        let running = Running { regions: regions.shared(), reports: regions.reporter.clone() };
        self.control.with(|panel| panel.running = Some(running));
    }

    /// True if the subtask reads what others send.
    fn reads(&self, subtask: &SubtaskId) -> bool {
        !self.job.graph.vertices[subtask.vertex.0 as usize].is_source
    }

    /// Follows an attempt until it is to end.
    fn watch(
        &self,
        regions: &mut Regions,
        mut checkpoints: Option<&mut Control>,
        basis: Basis<'_>,
        restarts: &mut Restarts,
    ) -> Result<Ended, JobError> {
        let slots = self.job.config.slots;
        let mut last = Instant::now();
        let mut transactions = Vec::new();
        let mut stopping = false;
        let completed = loop {
            if self.control.is_handed_over() {
                return Err(JobError::Host(OTHER_HOSTS.to_owned()));
            }
            match self.control.wanted() {
                Wanted::Running => {}
                Wanted::Canceled => {
                    return Ok(Ended { status: JobStatus::Canceled, at: Instant::now() });
                }
                Wanted::Stopped if stopping => {}
                Wanted::Stopped => {
                    stopping = true;
                    let Some(control) = checkpoints.as_deref_mut() else {
                        return Ok(Ended { status: JobStatus::Canceled, at: Instant::now() });
                    };
                    if let Step::Fail(error) = control.trigger(CheckpointKind::Stop, self) {
                        return Err(JobError::Checkpoint(error));
                    }
                }
            }
            if regions.are_several() {
                self.fail_regions(regions, checkpoints.as_deref_mut(), basis, restarts)?;
            }
            if let (Some((slots, from)), Some(control)) =
                (regions.due(), checkpoints.as_deref_mut())
            {
                self.restart_region(regions, slots, from, basis)?;
                control.post_to(regions.post());
            }
            let waits = [checkpoints.as_deref().and_then(Control::wait), regions.wait()];
            let report = match waits.into_iter().flatten().min() {
                Some(wait) => match regions.reports.recv_timeout(wait) {
                    Ok(report) => Some(report),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break false,
                },
                None => match regions.reports.recv() {
                    Ok(report) => Some(report),
                    Err(_) => break false,
                },
            };
            let step = match (report, checkpoints.as_deref_mut()) {
                (Some(Report::Woken), _) => Step::GoOn,
                (Some(Report::Ready { attempt, .. }), control) => {
                    match (regions.on_ready(attempt), control) {
                        (Some((slots, rounds)), Some(control)) => {
                            self.go_on(regions, slots, rounds, control)
                        }
                        _ => Step::GoOn,
                    }
                }
                (Some(Report::Ended { attempt }), control) => {
                    if regions.on_ended(attempt, control.is_some()) {
                        break false;
                    }
                    Step::GoOn
                }
                (Some(Report::Finished { attempt, .. }), _) if !regions.is_of_now(attempt) => {
                    Step::GoOn
                }
                (Some(Report::Finished { attempt, at, transactions: of_slot }), control) => {
                    regions.on_finished(attempt);
                    let finished = regions.finished();
                    last = at;
                    transactions.extend(of_slot);
                    match control {
                        Some(control) if finished == slots => {
                            control.trigger(CheckpointKind::Final, self)
                        }
                        Some(_) => Step::GoOn,
                        None if finished == slots => match self.commit(&transactions) {
                            Ok(()) => Step::Finish,
                            Err(error) => return Err(error),
                        },
                        None => Step::GoOn,
                    }
                }
                (None, Some(control)) => control.tick(self),
                (Some(Report::Asked), Some(control)) => {
                    control.trigger(CheckpointKind::Checkpoint, self)
                }
                (Some(Report::Sealed(sealed)), Some(control)) => {
                    control.on_sealed(sealed);
                    Step::GoOn
                }
                (Some(Report::Persisted { slot, checkpoint, result }), Some(control)) => {
                    control.on_persisted(slot, checkpoint, result);
                    Step::GoOn
                }
                (Some(Report::FileChanged(change)), Some(control)) => {
                    control.on_file_change(change);
                    Step::GoOn
                }
                (Some(Report::Durable { slot, checkpoint, result }), Some(control)) => {
                    control.on_durable(slot, checkpoint, result, self)
                }
                (Some(Report::Stored { slot, checkpoint, result }), Some(control)) => {
                    control.on_stored(slot, checkpoint, result, self)
                }
                (Some(Report::ManifestStored { checkpoint, result }), Some(control)) => {
                    control.on_manifest(checkpoint, result, self)
                }
                (Some(Report::Recovered { attempt, subtask }), Some(control)) => {
                    match regions.is_of_now(attempt) {
                        true => control.on_recovered(subtask, self),
                        false => Step::GoOn,
                    }
                }
                (Some(Report::Declined { subtask, checkpoint, reason }), Some(control)) => {
                    control.on_declined(subtask, checkpoint, reason, self)
                }
                (_, None) => Step::GoOn,
            };
            match step {
                Step::GoOn => {}
                Step::Finish => break true,
                Step::Fail(error) => return Err(JobError::Checkpoint(error)),
            }
        };
        regions.shared().iter().for_each(|shared| shared.end());
        regions.post().send(Mail::Exit);
        // One that came to its end while it was asked to stop has finished.
        let all = regions.finished() == slots;
        let status = match (completed, all) {
            (true, true) => JobStatus::Finished,
            (true, false) => JobStatus::Stopped,
            // The slots were told to end, and this thread hears of it by their having done so.
            (false, _) => JobStatus::Canceled,
        };
        Ok(Ended { status, at: if all { last } else { Instant::now() } })
    }

    /// Ends regions that have failed, to start them again while the others go on.
    ///
    /// # Errors
    /// If all are to start again, or none: as there is nothing to go back to, a file is damaged, a thread has died,
    /// or the restart strategy says so.
    fn fail_regions(
        &self,
        regions: &mut Regions,
        mut checkpoints: Option<&mut Control>,
        basis: Basis<'_>,
        restarts: &mut Restarts,
    ) -> Result<(), JobError> {
        while let Some((slots, failure)) = regions.take_failed(basis.crew)? {
            let error = self.named(failure);
            let is_of_region = !is_lost_host(&error) && damaged_in(&error).is_none();
            let can_go_back = |control: &&mut Control| {
                is_of_region && (control.completed().is_some() || basis.restored.is_some())
            };
            let Some(control) = checkpoints.as_deref_mut().filter(can_go_back) else {
                return Err(error);
            };
            let Restart::After(pause) = restarts.on_failure() else { return Err(error) };
            tracing::warn!("{error}; slots {slots:?} start again in {pause:?}, the others go on");
            self.tell_agent(Told::Restarting { error: shortened(error.to_string()) });
            self.job.metrics.counters.add_restart();
            self.job.metrics.counters.add_region_restart();
            regions.pause(&slots, pause);
            if let Step::Fail(error) = control.on_failed(slots, self) {
                return Err(JobError::Checkpoint(error));
            }
        }
        if let Some(from) = checkpoints.and_then(Control::take_restore) {
            regions.restore_from(from);
        }
        Ok(())
    }

    /// Starts a region again.
    ///
    /// # Errors
    /// If what it goes back to cannot be read.
    fn restart_region(
        &self,
        regions: &mut Regions,
        slots: Range<u32>,
        RestoreFrom(checkpoint): RestoreFrom,
        basis: Basis<'_>,
    ) -> Result<(), JobError> {
        let directory = basis.directory.map(|directory| &directory.checkpoints);
        let restored = match (checkpoint, directory) {
            (Some(checkpoint), Some(directory)) => {
                let failed = |error| JobError::Restore(in_words(&error));
                let manifest = directory.manifest(checkpoint).map_err(failed)?;
                self.job.restore_exactly(Some(directory), Some(manifest), basis.damaged)?
            }
            _ => basis.restored.cloned(),
        };
        let from = restored.as_ref().map(Restored::checkpoint).unwrap_or_default();
        tracing::info!("slots {slots:?} go on from checkpoint {from}");
        self.start_region(regions, slots, restored.as_ref(), basis)?;
        self.show(regions);
        Ok(())
    }

    /// A region has been built again: it goes on.
    fn go_on(
        &self,
        regions: &mut Regions,
        slots: Range<u32>,
        rounds: u32,
        control: &mut Control,
    ) -> Step {
        regions.release(&slots);
        if regions.all_run() {
            self.tell_running(control.completed().or(self.began_with.get()));
        }
        let subtasks = self.job.subtasks();
        let of_region = subtasks.range(SlotIndex(slots.start)..SlotIndex(slots.end));
        for subtask in of_region.flat_map(|(_, subtasks)| subtasks) {
            if (rounds == 0 || !self.reads(subtask))
                && let fail @ Step::Fail(_) = control.on_recovered(*subtask, self)
            {
                return fail;
            }
        }
        Step::GoOn
    }

    fn named(&self, failure: SlotFailure) -> JobError {
        failure.into_error(|operator| self.job.graph.operators[operator.0 as usize].name.clone())
    }

    /// Commits the transactions of each sink.
    fn commit(&self, transactions: &[Transaction]) -> Result<(), JobError> {
        for (operator, _, outcome) in &self.job.graph.outcomes {
            let of_sink: Vec<_> = transactions
                .iter()
                .filter(|transaction| transaction.operator == *operator)
                .map(|transaction| transaction.bytes.clone())
                .collect();
            outcome.commit(&of_sink).map_err(|error| JobError::Failed {
                operator: self.job.graph.operators[operator.0 as usize].name.clone(),
                subtask: 0,
                error,
            })?;
        }
        Ok(())
    }

    fn abort(&self) {
        for (_, vertex, outcome) in &self.job.graph.outcomes {
            outcome.abort(self.job.slots_of[vertex.0 as usize].len() as u32);
        }
    }
}

impl Job {
    /// What is restored, into what.
    fn restore_into<R>(&self, restore: impl FnOnce(&RestoreInto<'_>) -> R) -> R {
        let (uids, owned) = (self.graph.uids(), self.owned_here());
        restore(&RestoreInto {
            uids: &uids,
            max_parallelism: self.config.max_parallelism,
            backend: &*self.backend,
            owned: &owned,
        })
    }

    /// Reads a checkpoint that the first member has chosen.
    pub(crate) fn restore_exactly(
        &self,
        directory: Option<&CheckpointDirectory>,
        manifest: Option<Manifest>,
        damaged: &Damaged,
    ) -> Result<Option<Restored>, JobError> {
        let (Some(directory), Some(manifest), Some(config)) =
            (directory, manifest, &self.config.checkpoints)
        else {
            return Ok(None);
        };
        self.remains.distrust(damaged);
        let restore =
            |into: &RestoreInto<'_>| exactly(directory, manifest, into, damaged, &config.stores());
        self.restore_into(restore).map(Some)
    }
}

impl Commit for Supervisor {
    fn commit(&self, transactions: &[Transaction]) -> Result<(), BoxError> {
        Ok(Self::commit(self, transactions)?)
    }
}

/// The attempt has failed for want of a host, and not by what the job does.
fn is_lost_host(error: &JobError) -> bool {
    matches!(error, JobError::Host(_) | JobError::Connection(_))
}

/// The state file that is damaged, if that is why.
fn damaged_in(error: &JobError) -> Option<&str> {
    match error {
        JobError::Failed { error, .. } => damaged_file(&**error),
        _ => None,
    }
}

/// A number from 0 to 1 that differs between jobs that failed together.
fn jitter() -> f64 {
    let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.subsec_nanos());
    f64::from(nanos) / 1e9
}
