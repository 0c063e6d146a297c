//! Random stories: workers come, go and are cut off, processes die, the coordinator starts again.
//!
//! Workers are simulated with what is under way to and from each; one seed decides everything.

use super::*;
use std::collections::VecDeque;

const WORKERS: usize = 5;
const SLOTS: u32 = 4;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

struct Process {
    generation: u64,
    member: usize,
    members: usize,
    slots: u32,
    pid: u32,
    running: bool,
}

#[derive(Default)]
struct Agent {
    incarnation: u64,
    up: bool,
    session: Option<WorkerSession>,
    processes: BTreeMap<JobId, Process>,
    reserved: BTreeMap<JobId, u64>,
    /// Under way to the agent, and from it.
    inbox: VecDeque<Command>,
    outbox: VecDeque<Event>,
}

struct World {
    cluster: Cluster,
    now: Duration,
    random: Random,
    stored: BTreeMap<JobId, JobRecord>,
    agents: Vec<Agent>,
    starts: u64,
    pids: u32,
    /// The newest deployment that any process of a job was told of.
    deployed: BTreeMap<JobId, u64>,
    jobs: u64,
}

fn worker(at: usize) -> WorkerName {
    name(&format!("w{at}"))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            cluster: Cluster::recover(ClusterSettings::default(), 0, Vec::new(), Duration::ZERO),
            now: Duration::ZERO,
            random: Random(seed),
            stored: BTreeMap::new(),
            agents: (0..WORKERS).map(|_| Agent::default()).collect(),
            starts: 0,
            pids: 0,
            deployed: BTreeMap::new(),
            jobs: 0,
        }
    }

    fn event(&mut self, event: Event) -> bool {
        let before: Vec<_> =
            self.cluster.jobs().into_iter().map(|job| (job.id, job.generation)).collect();
        let mut commands = Vec::new();
        let done = self.cluster.on_event(self.now, event, &mut commands).is_ok();
        for command in commands {
            self.perform(command);
        }
        self.check(&before);
        done
    }

    fn perform(&mut self, command: Command) {
        let to = match &command {
            Command::Persist(record) => {
                let old = self.stored.insert(record.spec.id.clone(), record.clone());
                assert!(old.is_none_or(|old| old.generation <= record.generation));
                return;
            }
            Command::Forget(id) => {
                self.stored.remove(id);
                return;
            }
            Command::Disconnect(from) => {
                let gone = self.agents.iter_mut().find(|one| one.session.as_ref() == Some(from));
                if let Some(agent) = gone {
                    agent.disconnect();
                }
                return;
            }
            Command::Reserve { to, job, generation } => {
                assert_eq!(self.stored[job].generation, *generation, "stored before it is told");
                to
            }
            Command::Start { to, deployment, .. } => {
                self.check_deployment(deployment);
                to
            }
            Command::Order { to, order, .. } => {
                if let Order::Deploy(deployment) = order {
                    self.check_deployment(deployment);
                }
                to
            }
            Command::Kill { to, .. } => to,
        };
        let agent = self.agents.iter_mut().find(|one| one.session.as_ref() == Some(to));
        if let Some(agent) = agent {
            agent.inbox.push_back(command);
        }
    }

    fn check_deployment(&mut self, deployment: &Deployment) {
        assert_eq!(deployment.validate(), Ok(()));
        let id = JobId::new(&deployment.job).unwrap();
        let stored = &self.stored[&id];
        assert_eq!(stored.generation, deployment.generation, "stored before it is told");
        assert_eq!(deployment.slots(), stored.spec.slots);
        let newest = self.deployed.entry(id).or_default();
        assert!(*newest <= deployment.generation, "generations grow");
        *newest = deployment.generation;
    }

    /// What holds after every event.
    fn check(&self, before: &[(JobId, u64)]) {
        for view in self.cluster.workers() {
            assert!(view.slots_used <= view.slots, "{view:?}");
        }
        for job in self.cluster.jobs() {
            let mut on: Vec<_> = job.members.iter().map(|one| &one.worker).collect();
            on.sort();
            on.dedup();
            assert_eq!(on.len(), job.members.len(), "one member on each worker: {job:?}");
            let old = before.iter().find(|(id, _)| *id == job.id);
            assert!(old.is_none_or(|(_, generation)| *generation <= job.generation));
            assert_eq!(self.stored[&job.id].generation, job.generation);
            assert_eq!(self.stored[&job.id].status, job.status, "what is shown is stored");
        }
        for agent in &self.agents {
            let used: u32 = agent.processes.values().map(|one| one.slots).sum();
            assert!(used <= SLOTS, "a host runs more than it offers");
        }
    }

    fn register(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        agent.disconnect();
        let process = |(id, one): (&JobId, &Process)| RunningProcess {
            job: id.clone(),
            generation: one.generation,
            member: one.member,
            slots: one.slots,
            pid: one.pid,
            running: one.running,
        };
        let registration = Registration {
            name: worker(at),
            incarnation: agent.incarnation,
            processes: agent.processes.iter().map(process).collect(),
            ..registration("x", SLOTS)
        };
        // The answer comes before anything else: the session is set before commands are performed.
        let mut commands = Vec::new();
        let done = self.cluster.on_event(self.now, Event::Register(registration), &mut commands);
        if done.is_ok() {
            self.agents[at].session = self.cluster.session(&worker(at));
        }
        commands.into_iter().for_each(|command| self.perform(command));
    }

    /// An agent does the next thing that it was asked for.
    fn work(&mut self, at: usize) {
        let Some(command) = self.agents[at].inbox.pop_front() else { return };
        self.pids += 1;
        let pid = self.pids;
        let agent = &mut self.agents[at];
        let Some(from) = agent.session.clone() else { return };
        match command {
            Command::Reserve { job, generation, .. } => {
                agent.processes.remove(&job);
                agent.reserved.insert(job.clone(), generation);
                let port = 1000 + pid as u16;
                agent.outbox.push_back(Event::Reserved { from, job, generation, port });
            }
            Command::Start { deployment, .. } => {
                let job = JobId::new(&deployment.job).unwrap();
                let generation = deployment.generation;
                if agent.reserved.remove(&job) != Some(generation) {
                    let error = "no port".to_owned();
                    agent.outbox.push_back(Event::Refused { from, job, generation, error });
                    return;
                }
                let process = Process {
                    generation,
                    member: deployment.member,
                    members: deployment.members.len(),
                    slots: deployment.members[deployment.member].slots,
                    pid,
                    running: false,
                };
                agent.processes.insert(job.clone(), process);
                agent.tell(&job, Told::Hello { job: job.to_string(), generation, member: 0, pid });
            }
            Command::Order { job, generation, order, .. } => match order {
                Order::Deploy(deployment) => match agent.processes.get_mut(&job) {
                    Some(process) => {
                        process.generation = generation;
                        process.member = deployment.member;
                        process.members = deployment.members.len();
                        process.slots = deployment.members[deployment.member].slots;
                        process.running = false;
                        let pid = process.pid;
                        let text = job.to_string();
                        agent.tell(&job, Told::Hello { job: text, generation, member: 0, pid });
                    }
                    None => {
                        let how = "there is none".to_owned();
                        agent.outbox.push_back(Event::Exited { from, job, generation, how });
                    }
                },
                Order::Cancel => self.job_ends(&job, generation, EndStatus::Canceled),
                Order::Stop => self.job_ends(&job, generation, EndStatus::Stopped),
                Order::Checkpoint | Order::Exit => unreachable!("they are not asked for"),
            },
            Command::Kill { job, generation, .. } => {
                if agent.processes.get(&job).is_some_and(|one| one.generation <= generation) {
                    agent.processes.remove(&job);
                }
                if agent.reserved.get(&job).is_some_and(|one| *one <= generation) {
                    agent.reserved.remove(&job);
                }
                let how = "killed".to_owned();
                agent.outbox.push_back(Event::Exited { from, job, generation, how });
            }
            Command::Persist(_) | Command::Forget(_) | Command::Disconnect(_) => {}
        }
    }

    /// All processes of a deployment end, the first in its own time.
    fn job_ends(&mut self, id: &JobId, generation: u64, status: EndStatus) {
        for agent in &mut self.agents {
            if agent.processes.get(id).is_some_and(|one| one.generation == generation) {
                agent.tell(id, Told::Ended { status, error: None });
                agent.exit(id, "exit status: 0");
            }
        }
    }

    /// Deployments of which all processes live begin to work.
    fn jobs_work(&mut self) {
        let mut alive: BTreeMap<(JobId, u64), usize> = BTreeMap::new();
        for agent in &self.agents {
            for (id, one) in &agent.processes {
                *alive.entry((id.clone(), one.generation)).or_default() += 1;
            }
        }
        for agent in &mut self.agents {
            let ready = agent.processes.iter_mut().filter(|(id, one)| {
                let all = alive[&((*id).clone(), one.generation)] == one.members;
                one.member == 0 && !one.running && all
            });
            let ready: Vec<JobId> = ready
                .map(|(id, one)| {
                    one.running = true;
                    id.clone()
                })
                .collect();
            for id in ready {
                agent.tell(&id, Told::Running { attempt: 1, restored: None });
            }
        }
    }

    fn restart_coordinator(&mut self) {
        self.starts += 1;
        let records = self.stored.values().cloned().collect();
        let settings = ClusterSettings::default();
        self.cluster = Cluster::recover(settings, self.starts << 32, records, self.now);
        for id in self.cluster.jobs().into_iter().map(|job| (job.id, job.status)) {
            if let Some(record) = self.stored.get_mut(&id.0) {
                record.status = id.1;
            }
        }
        self.agents.iter_mut().for_each(Agent::disconnect);
    }

    fn any_job(&mut self) -> Option<JobView> {
        let jobs = self.cluster.jobs();
        (!jobs.is_empty()).then(|| jobs[self.random.below(jobs.len())].clone())
    }

    fn fault(&mut self) {
        let at = self.random.below(WORKERS);
        match self.random.below(12) {
            0 => {
                // The host dies. Its connection does not say so.
                let agent = &mut self.agents[at];
                *agent = Agent { incarnation: agent.incarnation, ..Agent::default() };
            }
            1 => {
                // The connection breaks; processes live.
                if let Some(session) = self.agents[at].session.clone() {
                    self.agents[at].disconnect();
                    self.event(Event::Disconnected(session));
                }
            }
            2 | 3 => {
                let agent = &mut self.agents[at];
                let id = agent.processes.keys().next().cloned();
                if let Some(id) = id {
                    agent.exit(&id, "signal: 9 (SIGKILL)");
                }
            }
            4 if self.random.one_in(4) => self.restart_coordinator(),
            5 | 6 => {
                self.jobs += 1;
                let slots = 1 + self.random.below(9) as u32;
                let spec = JobSpec {
                    submitted_at_ms: self.jobs,
                    ..spec(&format!("j{}", self.jobs), slots)
                };
                self.event(Event::Submit(spec));
            }
            7 => {
                if let Some(job) = self.any_job() {
                    self.event(Event::Cancel(job.id));
                }
            }
            8 => {
                if let Some(job) = self.any_job() {
                    self.event(Event::Stop(job.id));
                }
            }
            9 => {
                if let Some(job) = self.any_job() {
                    let status =
                        if self.random.one_in(3) { EndStatus::Failed } else { EndStatus::Finished };
                    self.job_ends(&job.id, job.generation, status);
                }
            }
            _ => {
                // Somebody speaks for what is long over.
                if let Some(job) = self.any_job() {
                    let from = WorkerSession { worker: worker(at), generation: 0 };
                    let told = Told::Ended { status: EndStatus::Finished, error: None };
                    let stale = Event::Told {
                        from,
                        job: job.id,
                        generation: job.generation,
                        member: 0,
                        told,
                    };
                    assert!(!self.event(stale), "an old generation is never accepted");
                    if let Some(from) = self.agents[at].session.clone() {
                        let how = String::new();
                        let stale = Event::Exited {
                            from,
                            job: JobId::new("x").unwrap(),
                            generation: 0,
                            how,
                        };
                        assert!(!self.event(stale));
                    }
                }
            }
        }
    }

    fn step(&mut self, faults: bool) {
        if faults && self.random.one_in(6) {
            self.fault();
        }
        let at = self.random.below(WORKERS);
        if !self.agents[at].up {
            if !faults || self.random.one_in(8) {
                self.agents[at].up = true;
                self.agents[at].incarnation += 1;
            }
        } else if self.agents[at].session.is_none() {
            self.register(at);
        }
        let at = self.random.below(WORKERS);
        self.work(at);
        self.jobs_work();
        let at = self.random.below(WORKERS);
        if let Some(event) = self.agents[at].outbox.pop_front() {
            self.event(event);
        }
        if self.random.one_in(4) {
            self.now += Duration::from_millis(200);
            let sessions: Vec<_> =
                self.agents.iter().filter_map(|one| one.session.clone()).collect();
            for session in sessions {
                self.event(Event::Heartbeat(session));
            }
            self.event(Event::Tick);
        }
    }
}

impl Agent {
    fn disconnect(&mut self) {
        self.session = None;
        self.inbox.clear();
        self.outbox.clear();
        self.reserved.clear();
    }

    fn tell(&mut self, job: &JobId, told: Told) {
        if let (Some(from), Some(process)) = (self.session.clone(), self.processes.get(job)) {
            let (generation, member) = (process.generation, process.member);
            self.outbox.push_back(Event::Told { from, job: job.clone(), generation, member, told });
        }
    }

    fn exit(&mut self, job: &JobId, how: &str) {
        if let Some(process) = self.processes.remove(job)
            && let Some(from) = self.session.clone()
        {
            let (generation, how) = (process.generation, how.to_owned());
            self.outbox.push_back(Event::Exited { from, job: job.clone(), generation, how });
        }
    }
}

#[test]
fn every_job_ends_or_runs_or_says_what_it_waits_for() {
    let mut ran = 0;
    for seed in 0..40 {
        let mut world = World::new(seed);
        for _ in 0..160 {
            world.step(true);
        }
        // Faults stop; what is there settles.
        for _ in 0..4000 {
            world.step(false);
        }
        for job in world.cluster.jobs() {
            let settled = job.status.is_terminal()
                || job.status == JobStatus::Running
                || job.waits_for.is_some();
            assert!(settled, "seed {seed}: {job:?}");
            ran += usize::from(job.status == JobStatus::Running || job.end.is_some());
            if job.status == JobStatus::Running {
                for (at, member) in job.members.iter().enumerate() {
                    let agent = world.agents.iter().position(|one| {
                        one.session.as_ref().is_some_and(|on| on.worker == member.worker)
                    });
                    let process = &world.agents[agent.unwrap()].processes[&job.id];
                    assert_eq!((process.generation, process.member), (job.generation, at));
                }
            }
        }
        // Nothing runs that nobody knows of.
        for agent in &world.agents {
            for (id, process) in &agent.processes {
                let job = world.cluster.job(id).unwrap();
                assert!(!job.status.is_terminal(), "seed {seed}: {job:?}");
                assert!(process.generation <= job.generation);
            }
        }
    }
    assert!(ran > 50, "the stories are about something: {ran}");
}
