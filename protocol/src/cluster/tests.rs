//! Single stories; random ones are in `faults`.

mod faults;

use super::*;
use crate::deployment::EndStatus;
use std::path::{Path, PathBuf};

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> WorkerName {
    WorkerName::new(text).unwrap()
}

fn registration(worker: &str, slots: u32) -> Registration {
    Registration {
        name: name(worker),
        incarnation: 1,
        host: "127.0.0.1".into(),
        slots,
        labels: BTreeMap::new(),
        cores: slots,
        memory_bytes: 0,
        processes: Vec::new(),
    }
}

fn spec(id: &str, slots: u32) -> JobSpec {
    JobSpec {
        id: JobId::new(id).unwrap(),
        name: id.into(),
        artifact: ArtifactId::new(&"0".repeat(64)).unwrap(),
        args: Vec::new(),
        slots,
        parallelism: None,
        from_checkpoint: None,
        labels: BTreeMap::new(),
        restart: "rate 10 10m 0s".into(),
        submitted_at_ms: 1,
    }
}

/// A cluster, its time, and what it has stored.
struct Stage {
    cluster: Cluster,
    now: Duration,
    stored: BTreeMap<JobId, JobRecord>,
}

impl Stage {
    /// Workers of these names, with four slots each, and a job of the id `job`.
    fn new(workers: &[&str], slots: u32) -> Self {
        let cluster = Cluster::recover(ClusterSettings::default(), 0, Vec::new(), Duration::ZERO);
        let mut stage = Self { cluster, now: SECOND, stored: BTreeMap::new() };
        for worker in workers {
            stage.on(Event::Register(registration(worker, 4)));
        }
        stage.on(Event::Submit(spec("job", slots)));
        stage
    }

    fn try_on(&mut self, event: Event) -> Result<Vec<Command>, Refusal> {
        let mut commands = Vec::new();
        let done = self.cluster.on_event(self.now, event, &mut commands);
        for command in &commands {
            if let Command::Persist(record) = command {
                self.stored.insert(record.spec.id.clone(), record.clone());
            }
        }
        done.map(|()| commands)
    }

    fn on(&mut self, event: Event) -> Vec<Command> {
        self.try_on(event).unwrap()
    }

    fn pass(&mut self, time: Duration) -> Vec<Command> {
        let mut all = Vec::new();
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + SECOND).min(end);
            let workers: Vec<_> = self.cluster.workers().into_iter().map(|one| one.name).collect();
            let sessions: Vec<_> =
                workers.iter().filter_map(|one| self.cluster.session(one)).collect();
            for session in sessions {
                all.extend(self.on(Event::Heartbeat(session)));
            }
            all.extend(self.on(Event::Tick));
        }
        all
    }

    fn from(&self, worker: &str) -> WorkerSession {
        self.cluster.session(&name(worker)).unwrap()
    }

    fn job(&self) -> JobView {
        self.cluster.job(&job()).unwrap()
    }

    fn reserve(&mut self, worker: &str, port: u16) -> Vec<Command> {
        let (from, generation) = (self.from(worker), self.job().generation);
        self.on(Event::Reserved { from, job: job(), generation, port })
    }

    fn tell(&mut self, worker: &str, told: Told) -> Vec<Command> {
        self.try_tell(worker, told).unwrap()
    }

    fn try_tell(&mut self, worker: &str, told: Told) -> Result<Vec<Command>, Refusal> {
        let view = self.job();
        let member = view.members.iter().position(|one| one.worker == name(worker)).unwrap_or(99);
        let generation = view.generation;
        let from = self.from(worker);
        self.try_on(Event::Told { from, job: job(), generation, member, told })
    }

    fn hello(&mut self, worker: &str) -> Vec<Command> {
        let generation = self.job().generation;
        self.tell(worker, Told::Hello { job: "job".into(), generation, member: 0, pid: 7 })
    }

    fn exit(&mut self, worker: &str) -> Vec<Command> {
        let (from, generation) = (self.from(worker), self.job().generation);
        self.on(Event::Exited { from, job: job(), generation, how: "signal: 9 (SIGKILL)".into() })
    }

    /// The job works on these workers, which are all that it is on.
    fn run(&mut self, workers: &[&str]) {
        for (at, worker) in workers.iter().enumerate() {
            if self.step(worker) == "reserving" {
                self.reserve(worker, 1000 + at as u16);
            }
        }
        for worker in workers {
            self.hello(worker);
        }
        let first = self.job().members[0].worker.to_string();
        self.tell(&first, Told::Running { attempt: 1, restored: None });
        assert_eq!(self.job().status, JobStatus::Running);
    }

    fn step(&self, worker: &str) -> String {
        let members = self.job().members;
        members.into_iter().find(|one| one.worker == name(worker)).unwrap().step
    }

    fn restart_coordinator(&mut self) {
        let records = self.stored.values().cloned().collect();
        self.cluster = Cluster::recover(ClusterSettings::default(), 1 << 32, records, self.now);
    }

    fn comes_back(&mut self, worker: &str, generation: u64, member: usize) -> Vec<Command> {
        let process = RunningProcess {
            job: job(),
            generation,
            member,
            slots: 2,
            pid: 7,
            running: member == 0,
        };
        let processes = vec![process];
        self.on(Event::Register(Registration { processes, ..registration(worker, 4) }))
    }
}

fn job() -> JobId {
    JobId::new("job").unwrap()
}

fn places(view: &JobView) -> Vec<(String, u32)> {
    view.members.iter().map(|one| (one.worker.to_string(), one.slots)).collect()
}

fn on(worker: &str, slots: u32) -> (String, u32) {
    (worker.to_owned(), slots)
}

#[test]
fn a_job_is_placed_reserved_deployed_and_runs_to_its_end() {
    let mut stage = Stage::new(&["a", "b"], 4);
    assert_eq!(stage.job().status, JobStatus::Scheduled);
    assert_eq!(places(&stage.job()), [on("a", 2), on("b", 2)]);
    assert_eq!(stage.reserve("b", 2000), []);
    let commands = stage.reserve("a", 1000);
    assert!(matches!(commands[0], Command::Persist(_)), "before anybody is told");
    let [Command::Start { deployment, .. }, Command::Start { deployment: of_b, .. }] =
        &commands[1..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!(deployment.members[1].address, "127.0.0.1:2000");
    assert_eq!((deployment.member, of_b.member), (0, 1));
    assert_eq!(deployment.validate(), Ok(()));
    assert_eq!(stage.job().status, JobStatus::Deploying);
    stage.hello("a");
    assert_eq!(stage.job().status, JobStatus::Deploying);
    stage.hello("b");
    assert_eq!(stage.job().status, JobStatus::Initializing);
    stage.tell("a", Told::Running { attempt: 1, restored: Some(3) });
    assert_eq!(stage.job().status, JobStatus::Running);
    assert_eq!(stage.job().progress.restored, Some(3));
    // The others end by themselves.
    stage.tell("b", Told::Ended { status: EndStatus::Finished, error: None });
    stage.exit("b");
    assert_eq!(stage.job().status, JobStatus::Running, "the first member has the last word");
    stage.tell("a", Told::Ended { status: EndStatus::Finished, error: None });
    assert_eq!(stage.job().status, JobStatus::Finished);
    stage.exit("a");
    assert_eq!(stage.cluster.overview("").slots_used, 0);
}

#[test]
fn a_job_without_slots_waits_and_says_for_what_and_goes_on_when_a_worker_comes() {
    let mut stage = Stage::new(&["a"], 6);
    assert_eq!(stage.job().status, JobStatus::Created);
    let waits = stage.job().waits_for.unwrap();
    assert!(waits.starts_with("2 more slots: it wants 6 in all, and 4 are free"), "{waits}");
    stage.on(Event::Register(registration("b", 4)));
    assert_eq!(stage.job().status, JobStatus::Scheduled);
    assert_eq!(stage.job().waits_for, None);
}

#[test]
fn a_job_that_waits_too_long_fails_in_words() {
    let mut stage = Stage::new(&[], 1);
    stage.pass(SECOND * 299);
    assert_eq!(stage.job().status, JobStatus::Created);
    stage.pass(SECOND * 2);
    assert_eq!(stage.job().status, JobStatus::Failed);
    assert!(stage.job().error.unwrap().starts_with("it has waited 300s for 1 more slots"));
}

#[test]
fn a_lost_worker_is_replaced_and_the_survivor_keeps_its_place() {
    let mut stage = Stage::new(&["a", "b", "c"], 3);
    assert_eq!(places(&stage.job()), [on("a", 1), on("b", 1), on("c", 1)]);
    stage.run(&["a", "b", "c"]);
    stage.on(Event::Register(registration("d", 4)));
    let from = stage.from("b");
    stage.on(Event::Disconnected(from));
    assert_eq!(places(&stage.job()), [on("a", 1), on("d", 1), on("c", 1)]);
    assert_eq!((stage.job().status, stage.job().generation), (JobStatus::Scheduled, 2));
    let commands = stage.reserve("d", 4000);
    let kinds = commands[1..].iter().map(|command| match command {
        Command::Order { to, order: Order::Deploy(deployment), .. } => {
            (to.worker.to_string(), "deploy", deployment.member)
        }
        Command::Start { to, deployment, .. } => {
            (to.worker.to_string(), "start", deployment.member)
        }
        other => panic!("{other:?}"),
    });
    let kinds: Vec<_> = kinds.collect();
    let expected = [("a", "deploy", 0), ("d", "start", 1), ("c", "deploy", 2)];
    assert_eq!(kinds, expected.map(|(worker, what, at)| (worker.to_owned(), what, at)));
    stage.run(&["a", "c", "d"]);
}

#[test]
fn the_last_worker_takes_all_slots_that_it_has_room_for() {
    let mut stage = Stage::new(&["a", "b"], 4);
    stage.run(&["a", "b"]);
    let from = stage.from("a");
    let commands = stage.on(Event::Disconnected(from));
    assert_eq!(places(&stage.job()), [on("b", 4)]);
    assert!(matches!(commands.last(), Some(Command::Order { order: Order::Deploy(_), .. })));
}

#[test]
fn a_silent_worker_is_lost_after_the_heartbeat_timeout_and_fenced() {
    let mut stage = Stage::new(&["a", "b"], 1);
    stage.run(&["a"]);
    let (a, b) = (stage.from("a"), stage.from("b"));
    stage.on(Event::Tick);
    for _ in 0..2 {
        stage.now += SECOND;
        stage.on(Event::Heartbeat(b.clone()));
        assert_eq!(stage.on(Event::Tick), []);
    }
    stage.now += SECOND;
    let commands = stage.on(Event::Tick);
    assert_eq!(commands[0], Command::Disconnect(a.clone()));
    assert_eq!(places(&stage.job()), [on("b", 1)]);
    let refused = stage.try_on(Event::Heartbeat(a.clone())).unwrap_err();
    assert_eq!(refused, Refusal::Outdated { who: "worker a".into(), generation: a.generation });
    // It comes back with its process, which was replaced.
    let commands = stage.comes_back("a", 1, 0);
    assert!(matches!(&commands[..], [Command::Kill { generation: 1, .. }]), "{commands:?}");
    assert!(stage.try_on(Event::Heartbeat(a)).is_err(), "its older connection");
}

#[test]
fn a_coordinator_that_stood_still_has_lost_nobody() {
    let mut stage = Stage::new(&["a", "b"], 2);
    stage.run(&["a", "b"]);
    assert_eq!(stage.on(Event::Tick), []);
    stage.now += SECOND * 60;
    assert_eq!(stage.on(Event::Tick), [], "their heartbeats are still to be read");
    assert_eq!(stage.pass(SECOND * 10), []);
    assert_eq!(stage.job().status, JobStatus::Running);
}

#[test]
fn workers_that_are_lost_together_are_one_failure() {
    let names: Vec<String> = (0..12).map(|n| format!("w{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut stage = Stage::new(&names, 48);
    stage.run(&names);
    let first = stage.job().members[0].worker.to_string();
    for worker in names.iter().filter(|name| **name != first) {
        let from = stage.from(worker);
        stage.on(Event::Disconnected(from));
    }
    // It may fail ten times in ten minutes.
    let view = stage.job();
    assert_eq!(view.status, JobStatus::Restarting);
    assert!(view.waits_for.unwrap().contains("44 more slots"));
}

#[test]
fn jobs_that_ended_first_are_forgotten_first() {
    let settings = ClusterSettings { ended_jobs_max: 1, ..ClusterSettings::default() };
    let cluster = Cluster::recover(settings, 0, Vec::new(), Duration::ZERO);
    let mut stage = Stage { cluster, now: SECOND, stored: BTreeMap::new() };
    for (submitted_at_ms, id) in (0..).zip(["long", "short"]) {
        stage.on(Event::Submit(JobSpec { submitted_at_ms, ..spec(id, 1) }));
    }
    let id = |text| JobId::new(text).unwrap();
    stage.on(Event::Cancel(id("short")));
    stage.now += SECOND;
    assert_eq!(stage.on(Event::Cancel(id("long"))).last(), Some(&Command::Forget(id("short"))));
    assert!(stage.cluster.job(&id("long")).is_some());
}

#[test]
fn a_process_that_dies_is_started_again_where_its_state_lies() {
    let mut stage = Stage::new(&["a", "b"], 2);
    stage.run(&["a", "b"]);
    stage.on(Event::Register(registration("c", 4)));
    stage.exit("b");
    assert_eq!(places(&stage.job()), [on("a", 1), on("b", 1)]);
    assert_eq!(stage.job().status, JobStatus::Scheduled);
    assert!(stage.job().error.unwrap().contains("SIGKILL"));
    stage.run(&["b", "a"]);
}

#[test]
fn a_worker_on_which_a_job_fails_again_and_again_gets_none_of_it_for_a_while() {
    let mut stage = Stage::new(&["a"], 1);
    for _ in 0..3 {
        stage.run(&["a"]);
        stage.exit("a");
    }
    assert_eq!(stage.job().status, JobStatus::Restarting);
    assert!(stage.job().waits_for.unwrap().contains("it failed there"));
    stage.pass(SECOND * 61);
    assert_eq!(stage.job().status, JobStatus::Scheduled);
}

#[test]
fn a_job_whose_budget_is_spent_fails() {
    let mut stage = Stage::new(&["a", "b", "c", "d", "e"], 1);
    for _ in 0..10 {
        let worker = stage.job().members[0].worker.to_string();
        stage.run(&[&worker]);
        stage.exit(&worker);
    }
    let worker = stage.job().members[0].worker.to_string();
    stage.run(&[&worker]);
    stage.exit(&worker);
    assert_eq!(stage.job().status, JobStatus::Failed);
    let error = stage.job().error.unwrap();
    assert!(error.ends_with("it failed 11 times within 600s"), "{error}");
}

#[test]
fn a_member_that_others_cannot_reach_is_killed_and_replaced() {
    let mut stage = Stage::new(&["a", "b", "c"], 3);
    stage.run(&["a", "b", "c"]);
    stage.on(Event::Register(registration("d", 4)));
    let report = Told::Unreachable { member: 1, error: "timed out".into() };
    assert_eq!(stage.tell("a", report.clone()), []);
    let commands = stage.tell("c", report);
    let kill = |one: &Command| matches!(one, Command::Kill { to, .. } if to.worker == name("b"));
    assert!(commands.iter().any(kill), "{commands:?}");
    assert_eq!(stage.job().status, JobStatus::Restarting, "until it is gone");
    stage.exit("b");
    assert_eq!(
        places(&stage.job()),
        [on("a", 1), on("b", 1), on("c", 1)]
            .map(|one| { if one.0 == "b" { places(&stage.job())[1].clone() } else { one } })
    );
    assert_eq!(stage.job().status, JobStatus::Scheduled);
}

#[test]
fn a_job_is_cancelled_by_its_first_member_or_killed() {
    let mut stage = Stage::new(&["a", "b"], 2);
    stage.run(&["a", "b"]);
    let commands = stage.on(Event::Cancel(job()));
    assert!(matches!(&commands[0], Command::Order { to, order: Order::Cancel, .. }
        if to.worker == name("a")));
    assert_eq!(stage.job().status, JobStatus::Canceling);
    let commands = stage.pass(SECOND * 30);
    let kills = commands.iter().filter(|one| matches!(one, Command::Kill { .. })).count();
    assert_eq!(kills, 2);
    stage.exit("a");
    stage.exit("b");
    assert_eq!(stage.job().status, JobStatus::Canceled);
    let refused = stage.try_on(Event::Cancel(job())).unwrap_err();
    assert_eq!(refused, Refusal::Ended { id: job(), status: JobStatus::Canceled });
}

#[test]
fn what_is_to_stop_is_told_again_after_a_restart() {
    let mut stage = Stage::new(&["a"], 1);
    stage.run(&["a"]);
    let stops = |commands: &[Command]| {
        commands.iter().any(|one| matches!(one, Command::Order { order: Order::Stop, .. }))
    };
    assert!(stops(&stage.on(Event::Stop(job()))));
    stage.exit("a");
    stage.reserve("a", 1000);
    stage.hello("a");
    assert!(stops(&stage.tell("a", Told::Running { attempt: 1, restored: Some(1) })));
    assert!(stops(&stage.comes_back("a", stage.job().generation, 0)), "the order may be lost");
    stage.tell("a", Told::Ended { status: EndStatus::Stopped, error: None });
    assert_eq!(stage.job().status, JobStatus::Finished);
    assert_eq!(stage.job().end, Some(EndStatus::Stopped));
}

#[test]
fn a_job_that_restarts_by_itself_is_not_placed_anew() {
    let mut stage = Stage::new(&["a"], 1);
    stage.run(&["a"]);
    stage.tell("a", Told::Restarting { error: "boom".into() });
    assert_eq!((stage.job().status, stage.job().generation), (JobStatus::Restarting, 1));
    stage.tell("a", Told::Running { attempt: 2, restored: Some(1) });
    assert_eq!((stage.job().status, stage.job().generation), (JobStatus::Running, 1));
}

#[test]
fn a_coordinator_that_starts_again_adopts_what_runs() {
    let mut stage = Stage::new(&["a", "b"], 4);
    stage.run(&["a", "b"]);
    stage.restart_coordinator();
    assert_eq!(stage.job().status, JobStatus::Suspended);
    stage.comes_back("b", 1, 1);
    assert_eq!(stage.job().status, JobStatus::Suspended);
    stage.comes_back("a", 1, 0);
    assert_eq!((stage.job().status, stage.job().generation), (JobStatus::Running, 1));
    assert_eq!(stage.cluster.overview("").slots_used, 4);
}

#[test]
fn who_does_not_come_back_in_time_is_replaced() {
    let mut stage = Stage::new(&["a", "b"], 4);
    stage.run(&["a", "b"]);
    stage.restart_coordinator();
    stage.comes_back("a", 1, 0);
    stage.on(Event::Register(registration("c", 4)));
    stage.pass(SECOND * 15);
    assert_eq!(places(&stage.job()), [on("a", 2), on("c", 2)]);
    assert!(stage.job().error.unwrap().contains("no word of workers b"));
}

#[test]
fn two_workers_of_one_name_do_not_drive_each_other_out() {
    let mut stage = Stage::new(&["a"], 1);
    let other = Registration { incarnation: 2, ..registration("a", 4) };
    let refused = stage.try_on(Event::Register(other)).unwrap_err();
    assert_eq!(refused, Refusal::NameTaken(name("a")));
    // The same one may connect again before its old connection is known to be lost.
    let old = stage.from("a");
    stage.on(Event::Register(registration("a", 4)));
    assert!(stage.try_on(Event::Disconnected(old)).is_err());
    assert!(stage.cluster.session(&name("a")).is_some());
}

#[test]
fn labels_say_where_a_job_may_run() {
    let mut stage = Stage::new(&["a"], 1);
    let labels = BTreeMap::from([("zone".to_owned(), "north".to_owned())]);
    let id = JobId::new("picky").unwrap();
    stage.on(Event::Submit(JobSpec { labels: labels.clone(), ..spec("picky", 1) }));
    let waits = stage.cluster.job(&id).unwrap().waits_for.unwrap();
    assert!(waits.ends_with("a worker must have zone=north"), "{waits}");
    stage.on(Event::Register(Registration { labels, ..registration("b", 4) }));
    assert_eq!(places(&stage.cluster.job(&id).unwrap()), [on("b", 1)]);
}

#[test]
fn members_are_told_who_may_fail_together() {
    // All slots of one worker are another job's.
    let mut stage = Stage::new(&["taken"], 4);
    stage.on(Event::Register(registration("a", 1)));
    for (worker, rack) in [("b", "1"), ("c", "1"), ("d", "2")] {
        let labels = BTreeMap::from([("rack".to_owned(), rack.to_owned())]);
        stage.on(Event::Register(Registration { labels, ..registration(worker, 1) }));
    }
    stage.on(Event::Submit(spec("wide", 4)));
    let id = JobId::new("wide").unwrap();
    let mut reserve = |worker: &str| {
        let (from, job) = (stage.from(worker), id.clone());
        stage.on(Event::Reserved { from, job, generation: 1, port: 1000 })
    };
    let commands = ["a", "b", "c", "d"].map(&mut reserve).concat();
    let Some(Command::Start { deployment, .. }) = commands.last() else { panic!("{commands:?}") };
    let racks: Vec<_> = deployment.members.iter().map(|one| one.rack.as_deref()).collect();
    assert_eq!(racks, [None, Some("1"), Some("1"), Some("2")]);
    assert_eq!(deployment.replicas_of(1)[0], 3);
}

#[test]
fn members_are_told_what_the_job_goes_on_from() {
    let mut stage = Stage::new(&["a"], 1);
    let (parallelism, from_checkpoint) = (Some(3), Some(PathBuf::from("/checkpoints")));
    stage.on(Event::Submit(JobSpec { parallelism, from_checkpoint, ..spec("more", 2) }));
    let (from, job) = (stage.from("a"), JobId::new("more").unwrap());
    let commands = stage.on(Event::Reserved { from, job, generation: 1, port: 1000 });
    let Some(Command::Start { deployment, .. }) = commands.last() else { panic!("{commands:?}") };
    assert_eq!(deployment.parallelism, Some(3));
    assert_eq!(deployment.from_checkpoint.as_deref(), Some(Path::new("/checkpoints")));
}

#[test]
fn jobs_that_cannot_be_are_refused() {
    let mut stage = Stage::new(&[], 1);
    let mut refuse = |spec: JobSpec| stage.try_on(Event::Submit(spec)).unwrap_err().to_string();
    assert!(refuse(spec("job", 1)).contains("already"));
    assert!(refuse(spec("x", 0)).contains("ask for 1 to"));
    assert!(refuse(JobSpec { parallelism: Some(0), ..spec("x", 1) }).contains("one subtask"));
    assert!(refuse(JobSpec { name: "a\nb".into(), ..spec("x", 1) }).contains("control"));
    assert!(refuse(JobSpec { restart: "often".into(), ..spec("x", 1) }).contains("no restart"));
    assert!(refuse(JobSpec { args: vec!["a".repeat(70_000)], ..spec("x", 1) }).contains("bytes"));
}
