//! How a job begins and ends, and what happens when something has taken too long.

use super::job::{Job, JobRecord, JobSpec, JobStatus, Step};
use super::names::JobId;
use super::{Cluster, ClusterSettings, Command, Refusal, Turn};
use crate::deployment::{EndStatus, Order};
use std::time::Duration;

impl Cluster {
    /// A job as it is after the coordinator has started again.
    pub(super) fn recovered(settings: &ClusterSettings, record: JobRecord, now: Duration) -> Job {
        let mut job = Job::new(record);
        match job.record.status {
            JobStatus::Created | JobStatus::Suspended => {}
            JobStatus::Finished | JobStatus::Canceled | JobStatus::Failed => {
                job.steps.fill(Step::Lost);
            }
            // What is left of it ends when its workers come back.
            JobStatus::Canceling | JobStatus::Failing => {
                job.killed = true;
                job.steps.fill(Step::Lost);
            }
            _ => job.become_status(JobStatus::Suspended),
        }
        if job.record.status == JobStatus::Suspended {
            job.deadline = Some(now + settings.adoption_timeout);
        }
        job
    }
}

impl Turn<'_> {
    pub(super) fn submit(&mut self, spec: JobSpec) -> Result<(), Refusal> {
        spec.validate().map_err(Refusal::Invalid)?;
        let jobs = &mut self.cluster.jobs;
        if jobs.contains_key(&spec.id) {
            return Err(Refusal::Invalid(format!("there is a job {} already", spec.id)));
        }
        let live = jobs.values().filter(|job| !job.record.status.is_terminal()).count();
        if live >= self.cluster.settings.live_jobs_max {
            return Err(Refusal::TooMany(format!("{live} jobs")));
        }
        let id = spec.id.clone();
        jobs.insert(id.clone(), Job::new(JobRecord::new(spec)));
        self.persist(&id);
        Ok(())
    }

    fn live(&mut self, id: &JobId) -> Result<&mut Job, Refusal> {
        let job = self.cluster.jobs.get_mut(id);
        let job = job.ok_or_else(|| Refusal::UnknownJob(id.clone()))?;
        match job.record.status {
            status if status.is_terminal() || status == JobStatus::Failing => {
                Err(Refusal::Ended { id: id.clone(), status })
            }
            _ => Ok(job),
        }
    }

    pub(super) fn cancel(&mut self, id: &JobId) -> Result<(), Refusal> {
        let timeout = self.cluster.settings.cancel_timeout;
        let now = self.now;
        let job = self.live(id)?;
        match job.record.status {
            JobStatus::Canceling => return Ok(()),
            JobStatus::Created => job.become_status(JobStatus::Canceled),
            JobStatus::Running => {
                job.become_status(JobStatus::Canceling);
                job.deadline = Some(now + timeout);
                self.order_first(id, Order::Cancel);
            }
            _ => {
                job.become_status(JobStatus::Canceling);
                self.kill_all(id);
            }
        }
        self.persist(id);
        Ok(())
    }

    pub(super) fn stop(&mut self, id: &JobId) -> Result<(), Refusal> {
        let job = self.live(id)?;
        match job.record.status {
            // There is nothing to keep.
            JobStatus::Created => return self.cancel(id),
            JobStatus::Canceling => return Ok(()),
            status => {
                job.record.stop = true;
                if status == JobStatus::Running {
                    self.order_first(id, Order::Stop);
                }
            }
        }
        self.persist(id);
        Ok(())
    }

    /// A job fails for good.
    pub(super) fn fail(&mut self, id: &JobId, why: &str) {
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        job.become_status(JobStatus::Failing);
        job.record.error = Some(why.to_owned());
        job.record.end = Some(EndStatus::Failed);
        self.kill_all(id);
        self.persist(id);
    }

    fn kill_all(&mut self, id: &JobId) {
        let deadline = self.now + self.cluster.settings.kill_timeout;
        if let Some(job) = self.cluster.jobs.get_mut(id) {
            job.killed = true;
            job.deadline = Some(deadline);
        }
        for worker in self.holders(id) {
            self.kill_on(&worker, id);
        }
    }

    /// The first member has said how its job has ended.
    pub(super) fn ended(&mut self, id: &JobId, status: EndStatus, error: Option<String>) {
        let linger = self.now + self.cluster.settings.kill_timeout;
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let canceling = job.record.status == JobStatus::Canceling;
        match status {
            EndStatus::Failed if !canceling => {
                let why = error.unwrap_or_else(|| "it has failed".to_owned());
                self.fail(id, &why);
                return;
            }
            EndStatus::Finished | EndStatus::Stopped => {
                if !canceling {
                    pass_to_running(job);
                }
                job.become_status(JobStatus::Finished);
            }
            EndStatus::Canceled | EndStatus::Failed => {
                if !canceling {
                    job.become_status(JobStatus::Canceling);
                }
                job.become_status(JobStatus::Canceled);
            }
        }
        job.record.end = Some(status);
        job.record.error = error;
        // The other members end by themselves, or are made to.
        job.deadline = Some(linger);
        self.persist(id);
    }

    /// What follows from all that has happened.
    pub(super) fn settle(&mut self) {
        let mut ids: Vec<_> = self
            .cluster
            .jobs
            .iter()
            .map(|(id, job)| (job.record.spec.submitted_at_ms, id.clone()))
            .collect();
        // Who came first is served first.
        ids.sort();
        for (_, id) in &ids {
            self.forget_failures(id);
            self.find_late(id);
            self.find_ended(id);
            let job = &self.cluster.jobs[id];
            let places = match job.record.status {
                JobStatus::Created => true,
                JobStatus::Restarting => job.steps.is_empty() || job.steps.contains(&Step::Lost),
                _ => false,
            };
            if places {
                self.place(id);
            }
            self.find_ended(id);
        }
        self.forget_jobs();
    }

    fn forget_failures(&mut self, id: &JobId) {
        let (now, window) = (self.now, self.cluster.settings.failures_window);
        if let Some(job) = self.cluster.jobs.get_mut(id) {
            job.blocked.retain(|_, until| now < *until);
            job.failures.retain(|_, failures| {
                while failures.pop_front_if(|at| now.saturating_sub(*at) >= window).is_some() {}
                !failures.is_empty()
            });
        }
    }

    /// What has taken too long.
    fn find_late(&mut self, id: &JobId) {
        let timeout = self.cluster.settings.kill_timeout;
        let job = &self.cluster.jobs[id];
        let now = self.now;
        let late_end = job.steps.iter().position(|step| match step {
            Step::Ending { since } => now.saturating_sub(*since) >= timeout,
            _ => false,
        });
        if let Some(at) = late_end
            && !job.record.status.is_terminal()
        {
            self.lose_member(id, at, "a member has ended, and the first has not said how", false);
        }
        let job = &self.cluster.jobs[id];
        if job.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let at = |wanted: &[Step]| job.steps.iter().position(|step| wanted.contains(step));
        match job.record.status {
            JobStatus::Scheduled => {
                if let Some(at) = at(&[Step::Reserving]) {
                    self.lose_member(id, at, "a worker has not kept a port in time", true);
                }
            }
            JobStatus::Deploying => {
                if let Some(at) = at(&[Step::Starting, Step::Redeploying]) {
                    self.lose_member(id, at, "a process has not come up in time", true);
                }
            }
            JobStatus::Suspended => {
                self.find_missing(id);
            }
            JobStatus::Canceling if !job.killed => self.kill_all(id),
            JobStatus::Canceling => self.end(id, JobStatus::Canceled),
            JobStatus::Failing => self.end(id, JobStatus::Failed),
            status if status.is_terminal() => self.kill_rest(id),
            _ => {}
        }
    }

    fn find_missing(&mut self, id: &JobId) {
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let mut missing = Vec::new();
        for (placed, step) in job.record.members.iter().zip(&mut job.steps) {
            if *step == Step::Missing {
                *step = Step::Lost;
                missing.push(placed.worker.to_string());
            }
        }
        let why = match missing.is_empty() {
            true => "its processes have not come back".to_owned(),
            false => format!("no word of workers {} came in time", missing.join(", ")),
        };
        job.record.error = Some(why.clone());
        self.restart(id, &why);
    }

    fn kill_rest(&mut self, id: &JobId) {
        if let Some(job) = self.cluster.jobs.get_mut(id) {
            job.deadline = None;
        }
        for worker in self.holders(id) {
            self.kill_on(&worker, id);
        }
    }

    /// A job of which nothing is left and nothing more is wanted has ended.
    fn find_ended(&mut self, id: &JobId) {
        let status = self.cluster.jobs[id].record.status;
        if !matches!(status, JobStatus::Canceling | JobStatus::Failing) {
            return;
        }
        if self.holders(id).is_empty() {
            let ended = match status {
                JobStatus::Failing => JobStatus::Failed,
                _ => JobStatus::Canceled,
            };
            self.end(id, ended);
        }
    }

    fn end(&mut self, id: &JobId, status: JobStatus) {
        let linger = self.now + self.cluster.settings.kill_timeout;
        if let Some(job) = self.cluster.jobs.get_mut(id) {
            job.become_status(status);
            let end =
                if status == JobStatus::Failed { EndStatus::Failed } else { EndStatus::Canceled };
            job.record.end = Some(end);
            job.deadline = Some(linger);
        }
        self.persist(id);
    }

    /// Forgets the jobs that ended first, if too many have.
    fn forget_jobs(&mut self) {
        let mut ended = Vec::new();
        for (id, job) in &mut self.cluster.jobs {
            if job.record.status.is_terminal() {
                let ended_at = *job.ended_at.get_or_insert(self.now);
                ended.push((ended_at, job.record.spec.submitted_at_ms, id.clone()));
            }
        }
        let over = ended.len().saturating_sub(self.cluster.settings.ended_jobs_max);
        if over == 0 {
            return;
        }
        ended.sort();
        for (_, _, id) in ended.into_iter().take(over) {
            if self.holders(&id).is_empty() {
                self.cluster.jobs.remove(&id);
                self.commands.push(Command::Forget(id));
            }
        }
    }
}

/// A job that ends has been running, even if nobody has heard it yet.
fn pass_to_running(job: &mut Job) {
    use JobStatus::*;
    let way: &[JobStatus] = match job.record.status {
        Scheduled => &[Deploying, Initializing, Running],
        Deploying => &[Initializing, Running],
        Initializing | Suspended | Restarting => &[Running],
        _ => &[],
    };
    way.iter().for_each(|next| job.become_status(*next));
}
