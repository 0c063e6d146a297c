//! What becomes of a job's members: placed, started, adopted, lost.

use super::job::{Job, JobStatus, Placed, Report, Step, Waiting};
use super::names::{JobId, WorkerName};
use super::placement::{Before, Candidate, Seat, place, replace};
use super::worker::{Held, RACK_LABEL, RunningProcess};
use super::{Command, Refusal, Turn, session};
use crate::deployment::{Deployment, Member, Order, Told};
use crate::restart::Restart;

/// So many reports of one member about another, or of as many members as below, replace the other.
const REPORTS_OF_ONE: usize = 3;
const REPORTING_MEMBERS: usize = 2;

impl Turn<'_> {
    /// A worker has registered, with these processes.
    pub(super) fn adopt(&mut self, name: &WorkerName, processes: &[RunningProcess]) {
        for process in processes {
            let adopted = self.cluster.jobs.get_mut(&process.job).is_some_and(|job| {
                let member = job.member_on(name);
                let live = !job.record.status.is_terminal() && !job.killed;
                let same = process.generation == job.record.generation;
                if !(live && same && member == Some(process.member)) {
                    return false;
                }
                if !matches!(job.steps[process.member], Step::Ending { .. }) {
                    job.steps[process.member] = Step::Alive;
                }
                job.pids[process.member] = Some(process.pid);
                job.works |= process.member == 0 && process.running;
                true
            });
            if !adopted {
                self.kill_on(name, &process.job);
            }
        }
        for (id, member) in self.members_on(name) {
            let generation = self.cluster.jobs[&id].record.generation;
            let runs = processes.iter().any(|one| one.job == id && one.generation == generation);
            if !runs {
                let why = format!("worker {name} has come back without its process");
                self.lose_member(&id, member, &why, false);
            }
        }
        let ids: Vec<JobId> = processes.iter().map(|process| process.job.clone()).collect();
        for id in &ids {
            self.check_alive(id);
            // What it was told on the connection before may not have come.
            let first = |job: &Job| job.member_on(name) == Some(0);
            let stops = self.cluster.jobs.get(id).is_some_and(|job| {
                job.record.stop && job.record.status == JobStatus::Running && first(job)
            });
            if stops {
                self.order_first(id, Order::Stop);
            }
        }
    }

    /// Gives a job slots, if there are enough.
    pub(super) fn place(&mut self, id: &JobId) {
        let job = &self.cluster.jobs[id];
        let survivors =
            |worker: &WorkerName| job.member_on(worker).is_some_and(|at| job.steps[at].survives());
        if self.now < job.place_after {
            return;
        }
        let settled = self.holders(id).iter().all(survivors);
        if !settled && self.now < job.settle_until {
            return;
        }
        let candidates = self.candidates(job);
        let before: Vec<Before> = (0..job.steps.len()).map(|at| self.before(job, at)).collect();
        let seats = if before.iter().any(|one| matches!(one, Before::Survives { .. })) {
            replace(&before, candidates.clone())
        } else {
            place(job.record.spec.slots, candidates.clone())
        };
        match seats {
            Ok(seats) => self.seat(id, seats),
            Err(missing) => self.wait(id, missing, &candidates),
        }
    }

    fn before(&self, job: &Job, at: usize) -> Before {
        let Placed { worker, slots, .. } = &job.record.members[at];
        if job.steps[at].survives() {
            let free = self.cluster.workers.get(worker).map_or(0, |worker| worker.free());
            Before::Survives { slots: *slots, free }
        } else {
            Before::Lost(*slots)
        }
    }

    fn candidates(&self, job: &Job) -> Vec<Candidate> {
        let id = &job.record.spec.id;
        let workers = self.cluster.workers.iter().filter(|(name, worker)| {
            let can = worker.connected && worker.free() > 0 && !worker.held.contains_key(id);
            can && !job.is_blocked(name, self.now) && worker.has_labels(&job.record.spec.labels)
        });
        let candidate = |(name, worker): (&WorkerName, &super::Worker)| Candidate {
            worker: name.clone(),
            offered: worker.registration.slots,
            used: worker.used(),
            preferred: job.record.members.iter().any(|placed| placed.worker == *name),
            failures: job.failures.get(name).map_or(0, |failures| failures.len()),
        };
        workers.map(candidate).collect()
    }

    fn wait(&mut self, id: &JobId, missing: u32, candidates: &[Candidate]) {
        let timeout = self.cluster.settings.slots_timeout;
        let now = self.now;
        let workers = self.cluster.workers.values().filter(|worker| worker.connected).count();
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let free: u32 = candidates.iter().map(|one| one.offered - one.used).sum();
        let blocked = job.blocked.values().filter(|until| now < **until).count();
        let mut what = format!(
            "{missing} more slots: it wants {} in all, and {free} are free for it, with {workers} \
             workers connected",
            job.record.spec.slots
        );
        if !job.record.spec.labels.is_empty() {
            let labels = job.record.spec.labels.iter().map(|(key, value)| format!("{key}={value}"));
            what += &format!("; a worker must have {}", labels.collect::<Vec<_>>().join(", "));
        }
        if blocked > 0 {
            what += &format!("; {blocked} workers get none of it for a while, it failed there");
        }
        let since = job.waiting.as_ref().map_or(now, |waiting| waiting.since);
        job.waiting = Some(Waiting { since, what: what.clone() });
        if now.saturating_sub(since) >= timeout {
            self.fail(id, &format!("it has waited {timeout:?} for {what}"));
        }
    }

    /// Makes the next deployment of these members.
    fn seat(&mut self, id: &JobId, seats: Vec<Seat>) {
        let deadline = self.now + self.cluster.settings.reserve_timeout;
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        job.become_status(JobStatus::Scheduled);
        job.deadline = Some(deadline);
        job.record.generation += 1;
        job.works = false;
        job.reports.clear();
        let generation = job.record.generation;
        let (mut members, mut steps, mut pids) = (Vec::new(), Vec::new(), Vec::new());
        for seat in seats {
            match seat {
                Seat::Survivor { was, slots } => {
                    let placed = Placed { slots, ..job.record.members[was].clone() };
                    if let Some(held) = self.cluster.workers.get_mut(&placed.worker)
                        && let Some(held) = held.held.get_mut(id)
                    {
                        held.slots = slots;
                    }
                    members.push(placed);
                    steps.push(Step::Kept);
                    pids.push(job.pids[was]);
                }
                Seat::New { worker, slots } => {
                    if let Some(on) = self.cluster.workers.get_mut(&worker) {
                        on.held.insert(id.clone(), Held { generation, slots });
                    }
                    members.push(Placed { worker, address: String::new(), slots });
                    steps.push(Step::Reserving);
                    pids.push(None);
                }
            }
        }
        (job.record.members, job.steps, job.pids) = (members, steps, pids);
        self.commands.push(Command::Persist(job.record.clone()));
        for (placed, step) in job.record.members.iter().zip(&job.steps) {
            if let Some(worker) = self.cluster.workers.get(&placed.worker)
                && *step == Step::Reserving
            {
                let to = session(worker);
                self.commands.push(Command::Reserve { to, job: id.clone(), generation });
            }
        }
        self.deploy(id);
    }

    /// A worker keeps a port.
    pub(super) fn reserved(
        &mut self,
        worker: &WorkerName,
        id: &JobId,
        generation: u64,
        port: u16,
    ) -> Result<(), Refusal> {
        let outdated = Refusal::Outdated { who: format!("worker {worker}"), generation };
        let address = self.cluster.workers.get(worker).map(|one| one.registration.address(port));
        let job = self.cluster.jobs.get_mut(id).ok_or_else(|| outdated.clone())?;
        let member = job.member_on(worker).filter(|at| job.steps[*at] == Step::Reserving);
        match (member, address) {
            (Some(member), Some(address)) if job.record.generation == generation => {
                job.record.members[member].address = address;
                job.steps[member] = Step::Reserved;
                self.deploy(id);
                Ok(())
            }
            _ => Err(outdated),
        }
    }

    /// Tells all members who they are, if all have a port.
    fn deploy(&mut self, id: &JobId) {
        let deadline = self.now + self.cluster.settings.deploy_timeout;
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let ready = |step: &Step| matches!(step, Step::Reserved | Step::Kept);
        if job.record.status != JobStatus::Scheduled || !job.steps.iter().all(ready) {
            return;
        }
        job.become_status(JobStatus::Deploying);
        job.deadline = Some(deadline);
        self.commands.push(Command::Persist(job.record.clone()));
        let generation = job.record.generation;
        let rack = |worker: &WorkerName| {
            self.cluster.workers.get(worker)?.registration.labels.get(RACK_LABEL).cloned()
        };
        let member = |placed: &Placed| Member {
            name: placed.worker.to_string(),
            address: placed.address.clone(),
            slots: placed.slots,
            rack: rack(&placed.worker),
        };
        let members: Vec<Member> = job.record.members.iter().map(member).collect();
        for at in 0..members.len() {
            let Some(worker) = self.cluster.workers.get_mut(&job.record.members[at].worker) else {
                continue;
            };
            let to = session(worker);
            let deployment = Deployment {
                job: id.to_string(),
                generation,
                members: members.clone(),
                member: at,
                parallelism: job.record.spec.parallelism,
                from_checkpoint: job.record.spec.from_checkpoint.clone(),
                cores: Vec::new(),
                secret_file: None,
                data_directory: None,
                agent: None,
            };
            if job.steps[at] == Step::Kept {
                job.steps[at] = Step::Redeploying;
                if let Some(held) = worker.held.get_mut(id) {
                    held.generation = generation;
                }
                let order = Order::Deploy(deployment);
                self.commands.push(Command::Order { to, job: id.clone(), generation, order });
            } else {
                job.steps[at] = Step::Starting;
                let (artifact, args) = (job.record.spec.artifact.clone(), &job.record.spec.args);
                let args = args.clone();
                self.commands.push(Command::Start { to, artifact, args, deployment });
            }
        }
    }

    /// A process has told something.
    pub(super) fn told(
        &mut self,
        worker: &WorkerName,
        id: &JobId,
        generation: u64,
        member: usize,
        told: Told,
    ) -> Result<(), Refusal> {
        let outdated =
            Refusal::Outdated { who: format!("member {member} of job {id}"), generation };
        let held = self.cluster.workers.get(worker).and_then(|one| one.held.get(id));
        let current = held.is_some_and(|held| held.generation == generation);
        let job = self.cluster.jobs.get_mut(id).filter(|_| current);
        let job = job.ok_or_else(|| outdated.clone())?;
        let at = job.member_on(worker).ok_or_else(|| outdated.clone())?;
        if job.record.status.is_terminal() || job.killed {
            return Err(outdated);
        }
        let first = member == 0;
        let newest = generation == job.record.generation;
        match told {
            Told::Hello { pid, .. } => {
                job.pids[at] = Some(pid);
                if newest && matches!(job.steps[at], Step::Starting | Step::Redeploying) {
                    job.steps[at] = Step::Alive;
                    self.check_alive(id);
                }
            }
            Told::Running { attempt, restored } if first && newest => {
                job.progress.attempt = attempt;
                job.progress.restored = restored;
                job.works = true;
                self.check_alive(id);
            }
            Told::Restarting { error } if first && newest => {
                job.record.error = Some(error);
                job.works = false;
                if job.record.status == JobStatus::Running {
                    job.become_status(JobStatus::Restarting);
                    self.persist(id);
                }
            }
            Told::Unreachable { member: about, error } if newest => {
                self.unreachable(id, at, about, &error);
            }
            Told::Checkpoint { id: checkpoint, took_us } if first => {
                job.progress.checkpoint = Some(checkpoint);
                job.progress.checkpoint_took_us = Some(took_us);
            }
            Told::Counters { records_in, records_out } if first => {
                (job.progress.records_in, job.progress.records_out) = (records_in, records_out);
            }
            Told::Ended { status, error } => {
                job.steps[at] = Step::Ending { since: self.now };
                if first {
                    self.ended(id, status, error);
                }
            }
            // What only the first member has to say, or what counts only for the newest deployment.
            _ => return Err(outdated),
        }
        Ok(())
    }

    fn unreachable(&mut self, id: &JobId, by: usize, about: usize, error: &str) {
        let window = self.cluster.settings.reports_window;
        let now = self.now;
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let alive = |at: usize| job.steps.get(at) == Some(&Step::Alive);
        if by == about || !alive(by) || !alive(about) {
            return;
        }
        job.reports.push_back(Report { at: now, by, about });
        while job.reports.pop_front_if(|one| now.saturating_sub(one.at) > window).is_some() {}
        let of_one =
            |by: usize| job.reports.iter().filter(|one| one.about == about && one.by == by).count();
        let reporting = (0..job.steps.len()).filter(|by| of_one(*by) > 0).count();
        if reporting >= REPORTING_MEMBERS || of_one(by) >= REPORTS_OF_ONE {
            let name = &job.record.members[about].worker;
            let why = format!("the member on {name} cannot be reached by others: {error}");
            self.lose_member(id, about, &why, true);
        }
    }

    /// Nothing of a job is left on a worker.
    pub(super) fn gone(
        &mut self,
        worker: &WorkerName,
        id: &JobId,
        generation: u64,
        how: &str,
    ) -> Result<(), Refusal> {
        let outdated = Refusal::Outdated { who: format!("job {id} on {worker}"), generation };
        let on = self.cluster.workers.get_mut(worker).ok_or_else(|| outdated.clone())?;
        if on.held.get(id).is_none_or(|held| held.generation > generation) {
            return Err(outdated);
        }
        on.held.remove(id);
        let Some(job) = self.cluster.jobs.get(id) else { return Ok(()) };
        match job.member_on(worker) {
            // It has said how the job ended; the first member has yet to say so.
            Some(at) if !matches!(job.steps[at], Step::Ending { .. }) => {
                self.lose_member(
                    id,
                    at,
                    &format!("the process on {worker} has ended: {how}"),
                    true,
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// A member is lost. `failed`: it counts against the worker.
    pub(super) fn lose_member(&mut self, id: &JobId, at: usize, why: &str, failed: bool) {
        let settings = self.cluster.settings;
        let now = self.now;
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let worker = job.record.members[at].worker.clone();
        if job.record.status.is_terminal() || job.steps[at] == Step::Lost {
            return;
        }
        job.steps[at] = Step::Lost;
        job.pids[at] = None;
        if failed && !job.killed {
            let failures = job.failures.entry(worker.clone()).or_default();
            failures.push_back(now);
            if failures.len() >= settings.failures_max {
                failures.clear();
                job.blocked.insert(worker.clone(), now + settings.blocked_for);
            }
        }
        let status = job.record.status;
        job.settle_until = now + settings.kill_timeout;
        self.kill_on(&worker, id);
        match status {
            JobStatus::Canceling | JobStatus::Failing => {}
            JobStatus::Suspended => {
                if let Some(job) = self.cluster.jobs.get_mut(id) {
                    job.record.error = Some(why.to_owned());
                }
                self.check_alive(id);
            }
            _ => self.restart(id, why),
        }
    }

    /// Members are lost: the rest waits for others, or the job fails.
    pub(super) fn restart(&mut self, id: &JobId, why: &str) {
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        job.record.error = Some(why.to_owned());
        job.restarts += 1;
        let lost = job.steps.iter().filter(|step| **step == Step::Lost).count();
        if job.record.status == JobStatus::Restarting && lost > 1 {
            // What another loss has brought about is not done yet: a rack that fails is one failure.
            self.persist(id);
            return;
        }
        // In the middle of the jitter: what is decided here follows from events alone.
        match job.policy.on_failure(self.now, 0.5) {
            Restart::GiveUp { reason } => {
                self.fail(id, &format!("{why}; {reason}"));
                return;
            }
            Restart::After(delay) => job.place_after = job.place_after.max(self.now + delay),
        }
        if job.record.status != JobStatus::Restarting {
            job.become_status(JobStatus::Restarting);
        }
        job.works = false;
        let mut dropped = Vec::new();
        for (placed, step) in job.record.members.iter().zip(&mut job.steps) {
            if step.survives() {
                *step = Step::Kept;
            } else if *step != Step::Lost {
                *step = Step::Lost;
                dropped.push(placed.worker.clone());
            }
        }
        if !dropped.is_empty() {
            job.settle_until = self.now + self.cluster.settings.kill_timeout;
        }
        dropped.iter().for_each(|worker| self.kill_on(worker, id));
        self.persist(id);
    }

    /// Goes on if all that was waited for is there.
    pub(super) fn check_alive(&mut self, id: &JobId) {
        let Some(job) = self.cluster.jobs.get_mut(id) else { return };
        let status = job.record.status;
        let any = |step: Step| job.steps.contains(&step);
        if status == JobStatus::Suspended && !any(Step::Missing) && any(Step::Lost) {
            let why = job.record.error.clone().unwrap_or_default();
            self.restart(id, &why);
            return;
        }
        let there = |step: &Step| matches!(step, Step::Alive | Step::Ending { .. });
        if !job.steps.iter().all(there) {
            return;
        }
        if matches!(status, JobStatus::Deploying | JobStatus::Suspended) {
            job.become_status(JobStatus::Initializing);
        }
        let waits = matches!(job.record.status, JobStatus::Initializing | JobStatus::Restarting);
        if job.works && waits {
            job.become_status(JobStatus::Running);
            if job.record.stop {
                self.order_first(id, Order::Stop);
            }
        }
        if self.cluster.jobs[id].record.status != status {
            self.persist(id);
        }
    }

    /// Asks something of a job's first member.
    pub(super) fn order_first(&mut self, id: &JobId, order: Order) {
        let Some(job) = self.cluster.jobs.get(id) else { return };
        let Some(placed) = job.record.members.first() else { return };
        if let Some(worker) = self.cluster.workers.get(&placed.worker).filter(|one| one.connected) {
            let (to, generation) = (session(worker), job.record.generation);
            self.commands.push(Command::Order { to, job: id.clone(), generation, order });
        }
    }
}
