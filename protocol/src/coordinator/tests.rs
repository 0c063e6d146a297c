use super::*;
use millstream_types::{SubtaskIndex, VertexId};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(checkpoint: u64) -> CheckpointId {
    CheckpointId(checkpoint)
}

fn subtask(index: u32) -> SubtaskId {
    SubtaskId { vertex: VertexId(0), subtask: SubtaskIndex(index) }
}

/// A coordinator at a certain time.
struct Job {
    coordinator: CheckpointCoordinator,
    now: Duration,
}

impl Job {
    fn new(settings: CheckpointSettings, subtasks: u32) -> Self {
        let subtasks = (0..subtasks).map(subtask);
        let coordinator = CheckpointCoordinator::new(settings, subtasks, id(0), [], Duration::ZERO);
        Self { coordinator, now: Duration::ZERO }
    }

    fn on(&mut self, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        self.coordinator.on_event(self.now, event, &mut commands);
        commands
    }

    fn at(&mut self, now: Duration) -> Vec<Command> {
        self.now = now;
        self.on(Event::Tick)
    }

    fn trigger(&mut self, kind: CheckpointKind) -> Vec<Command> {
        self.on(Event::Trigger(kind))
    }

    fn acknowledge(&mut self, index: u32, checkpoint: u64) -> Vec<Command> {
        self.on(Event::Acknowledge { subtask: subtask(index), checkpoint: id(checkpoint) })
    }

    fn decline(&mut self, index: u32, checkpoint: u64) -> Vec<Command> {
        let reason = "its disk is full".to_owned();
        self.on(Event::Decline { subtask: subtask(index), checkpoint: id(checkpoint), reason })
    }

    fn finish(&mut self, index: u32) -> Vec<Command> {
        self.on(Event::SubtaskFinished { subtask: subtask(index) })
    }

    fn stored(&mut self, checkpoint: u64) -> Vec<Command> {
        self.on(Event::ManifestStored { checkpoint: id(checkpoint) })
    }

    fn not_stored(&mut self, checkpoint: u64) -> Vec<Command> {
        let reason = "no space".to_owned();
        self.on(Event::ManifestFailed { checkpoint: id(checkpoint), reason })
    }

    fn committed(&mut self, index: u32, checkpoint: u64) -> Vec<Command> {
        self.on(Event::Committed { subtask: subtask(index), checkpoint: id(checkpoint) })
    }
}

fn every_second() -> CheckpointSettings {
    CheckpointSettings {
        interval: Some(SECOND),
        timeout: SECOND * 10,
        tolerable_failures: 2,
        ..CheckpointSettings::default()
    }
}

fn announce(checkpoint: u64) -> Command {
    Command::Announce { checkpoint: id(checkpoint), kind: CheckpointKind::Checkpoint }
}

fn store(checkpoint: u64) -> Command {
    Command::StoreManifest { checkpoint: id(checkpoint), finished: Vec::new() }
}

fn complete(checkpoint: u64) -> Command {
    Command::Complete { checkpoint: id(checkpoint) }
}

fn retire(checkpoint: u64) -> Command {
    Command::Retire { checkpoint: id(checkpoint) }
}

fn is_abort(command: &Command, of: u64) -> bool {
    matches!(command, Command::Abort { checkpoint, .. } if *checkpoint == id(of))
}

#[test]
fn a_checkpoint_begins_collects_is_stored_and_completes() {
    let mut job = Job::new(every_second(), 2);
    assert_eq!(job.coordinator.next_wakeup(), Some(SECOND));
    assert_eq!(job.at(SECOND), [announce(1)]);
    assert_eq!(job.acknowledge(1, 1), []);
    let waiting: Vec<_> =
        job.coordinator.pending().flat_map(PendingCheckpoint::waiting_for).collect();
    assert_eq!(waiting, [subtask(0)]);
    assert_eq!(job.acknowledge(1, 1), [], "twice is once");
    assert_eq!(job.acknowledge(0, 1), [store(1)]);
    assert_eq!(job.stored(1), [complete(1)]);
    assert_eq!(job.stored(1), [], "it is over");
    assert_eq!(job.at(SECOND * 2), [announce(2)]);
}

#[test]
fn ids_start_after_every_id_that_was_used() {
    let settings = every_second();
    let kept = [(id(4), Owner::System)];
    let mut coordinator =
        CheckpointCoordinator::new(settings, [subtask(0)], id(6), kept, Duration::ZERO);
    let mut commands = Vec::new();
    coordinator.on_event(SECOND, Event::Tick, &mut commands);
    assert_eq!(commands, [announce(7)]);
}

#[test]
fn nothing_begins_before_all_that_was_in_flight_has_been_received() {
    let mut job = Job::new(every_second(), 3);
    job.coordinator.wait_for([subtask(0), subtask(1)]);
    assert_eq!(job.coordinator.next_wakeup(), None);
    assert_eq!(job.at(SECOND), []);
    assert_eq!(job.trigger(CheckpointKind::Stop), []);
    assert_eq!(job.on(Event::Recovered { subtask: subtask(1) }), []);
    assert_eq!(job.on(Event::Recovered { subtask: subtask(1) }), [], "twice is once");
    let kind = CheckpointKind::Stop;
    let begun = [Command::Announce { checkpoint: id(1), kind }];
    assert_eq!(job.on(Event::Recovered { subtask: subtask(0) }), begun);
}

#[test]
fn no_more_are_pending_than_allowed() {
    let mut job = Job::new(CheckpointSettings { max_concurrent: 2, ..every_second() }, 1);
    assert_eq!(job.at(SECOND), [announce(1)]);
    assert_eq!(job.at(SECOND * 2), [announce(2)]);
    assert_eq!(job.at(SECOND * 3), []);
    assert_eq!(job.acknowledge(0, 1), [store(1)]);
    assert_eq!(job.stored(1), [complete(1), announce(3)]);
}

#[test]
fn barriers_that_may_overtake_allow_one_at_a_time() {
    let settings =
        CheckpointSettings { max_concurrent: 2, alignment_timeout: Some(SECOND), ..every_second() };
    let mut job = Job::new(settings, 1);
    assert_eq!(job.at(SECOND), [announce(1)]);
    assert_eq!(job.at(SECOND * 2), []);
}

#[test]
fn the_pause_counts_from_the_end_of_the_last() {
    let mut job = Job::new(CheckpointSettings { min_pause: SECOND * 3, ..every_second() }, 1);
    assert_eq!(job.at(SECOND), [announce(1)]);
    job.now = SECOND * 4;
    assert_eq!(job.acknowledge(0, 1), [store(1)]);
    assert_eq!(job.stored(1), [complete(1)]);
    assert_eq!(job.coordinator.next_wakeup(), Some(SECOND * 7));
    assert_eq!(job.at(SECOND * 7 - Duration::from_nanos(1)), []);
    assert_eq!(job.at(SECOND * 7), [announce(2)]);
}

#[test]
fn missed_intervals_are_not_made_up_for() {
    let mut job = Job::new(CheckpointSettings { max_concurrent: 9, ..every_second() }, 1);
    assert_eq!(job.at(SECOND * 8), [announce(1)]);
    assert_eq!(job.coordinator.next_wakeup(), Some(SECOND * 9));
}

#[test]
fn a_checkpoint_that_takes_too_long_is_aborted_and_names_whom_it_waited_for() {
    let mut job = Job::new(every_second(), 3);
    job.at(SECOND);
    job.acknowledge(0, 1);
    assert_eq!(job.coordinator.next_wakeup(), Some(SECOND * 11));
    let commands = job.at(SECOND * 11);
    let Command::Abort { checkpoint, reason } = &commands[0] else { panic!("{commands:?}") };
    assert_eq!(*checkpoint, id(1));
    assert_eq!(
        reason.to_string(),
        "it timed out while it waited for vertex 0, subtask 1 and 1 more"
    );
    assert_eq!(commands[1..], [announce(2)]);
    assert_eq!(job.acknowledge(1, 1), [], "too late");
}

#[test]
fn a_declined_checkpoint_is_aborted_and_too_many_in_a_row_fail_the_job() {
    let mut job = Job::new(every_second(), 1);
    for checkpoint in [1, 2] {
        assert_eq!(job.at(SECOND * checkpoint), [announce(checkpoint.into())]);
        let commands = job.decline(0, checkpoint.into());
        assert!(commands.len() == 1 && is_abort(&commands[0], checkpoint.into()), "{commands:?}");
    }
    job.at(SECOND * 3);
    let commands = job.decline(0, 3);
    let [_, Command::FailJob { reason }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(
        reason,
        "checkpoint 3 failed, the 3. in a row, and 2 are tolerated: vertex 0, subtask 0 declined \
         it: its disk is full"
    );
    assert_eq!(job.at(SECOND * 99), [], "nothing follows");
    assert_eq!(job.coordinator.next_wakeup(), None);
}

#[test]
fn failures_count_from_the_last_that_completed() {
    let mut job = Job::new(every_second(), 1);
    for checkpoint in 1..30 {
        job.now = SECOND * checkpoint;
        let checkpoint = u64::from(checkpoint);
        assert_eq!(job.on(Event::Tick), [announce(checkpoint)]);
        if checkpoint % 3 == 0 {
            job.acknowledge(0, checkpoint);
            job.stored(checkpoint);
            assert_eq!(job.coordinator.failures(), 0);
        } else {
            assert_eq!(job.decline(0, checkpoint).len(), 1);
        }
    }
}

#[test]
fn what_is_more_than_retained_is_retired_after_the_newer_is_complete() {
    let mut job = Job::new(CheckpointSettings { retained: 2, ..every_second() }, 1);
    let mut last = Vec::new();
    for checkpoint in 1..=3 {
        job.at(SECOND * checkpoint);
        job.acknowledge(0, checkpoint.into());
        last = job.stored(checkpoint.into());
    }
    assert_eq!(last, [complete(3), retire(1)]);
}

#[test]
fn a_savepoint_is_never_retired() {
    let mut job = Job::new(CheckpointSettings::default(), 1);
    for kind in [CheckpointKind::Savepoint, CheckpointKind::Checkpoint, CheckpointKind::Checkpoint]
    {
        job.trigger(kind);
        let checkpoint = job.coordinator.newest().0;
        job.acknowledge(0, checkpoint);
        job.stored(checkpoint);
    }
    let kept: Vec<_> = job.coordinator.kept().iter().collect();
    assert_eq!(kept, [id(1), id(3)]);
}

#[test]
fn a_manifest_that_may_exist_is_retired() {
    let mut job = Job::new(every_second(), 1);
    job.at(SECOND);
    job.acknowledge(0, 1);
    let commands = job.not_stored(1);
    assert!(is_abort(&commands[0], 1));
    assert_eq!(commands[1..], [retire(1)]);
}

#[test]
fn a_manifest_that_is_stored_after_its_time_is_retired() {
    let mut job = Job::new(every_second(), 1);
    job.at(SECOND);
    job.acknowledge(0, 1);
    let commands = job.at(SECOND * 11);
    assert!(is_abort(&commands[0], 1));
    assert_eq!(commands[1..], [announce(2)]);
    assert_eq!(job.stored(1), [retire(1)]);
    assert_eq!(job.stored(1), []);
}

#[test]
fn a_newer_one_that_completes_subsumes_the_older_but_no_savepoint() {
    let mut job = Job::new(CheckpointSettings { max_concurrent: 3, ..every_second() }, 1);
    job.trigger(CheckpointKind::Savepoint);
    job.trigger(CheckpointKind::Checkpoint);
    job.trigger(CheckpointKind::Checkpoint);
    job.acknowledge(0, 3);
    let commands = job.stored(3);
    assert_eq!(commands[0], complete(3));
    assert!(is_abort(&commands[1], 2), "{commands:?}");
    assert_eq!(commands.len(), 2);
    assert_eq!(job.coordinator.failures(), 0);
    assert_eq!(job.acknowledge(0, 1), [store(1)]);
}

#[test]
fn finished_subtasks_count_by_their_final_snapshots() {
    let mut job = Job::new(every_second(), 3);
    job.finish(0);
    job.at(SECOND);
    assert_eq!(job.acknowledge(1, 1), []);
    let stored =
        Command::StoreManifest { checkpoint: id(1), finished: vec![subtask(0), subtask(2)] };
    assert_eq!(job.finish(2), [stored], "it finished while the checkpoint was pending");
    assert_eq!(job.stored(1), [complete(1)]);
}

#[test]
fn after_all_have_finished_a_last_checkpoint_completes() {
    let mut job = Job::new(every_second(), 2);
    job.finish(0);
    job.finish(1);
    assert_eq!(job.at(SECOND * 5), [], "nothing changes any more");
    let kind = CheckpointKind::Final;
    let finished = vec![subtask(0), subtask(1)];
    assert_eq!(
        job.trigger(kind),
        [
            Command::Announce { checkpoint: id(1), kind },
            Command::StoreManifest { checkpoint: id(1), finished }
        ]
    );
    assert_eq!(job.stored(1), [complete(1), Command::Finish { checkpoint: id(1) }]);
}

#[test]
fn the_job_ends_when_its_last_checkpoint_is_committed_everywhere() {
    for kind in [CheckpointKind::Final, CheckpointKind::Stop] {
        let mut job = Job::new(every_second(), 3);
        job.trigger(kind);
        (0..3).for_each(|index| drop(job.acknowledge(index, 1)));
        assert_eq!(job.committed(0, 1), [], "nothing is complete yet");
        assert_eq!(job.stored(1), [complete(1)]);
        assert_eq!(job.at(SECOND * 5), [], "no checkpoint follows the last");
        assert_eq!(job.committed(0, 1), []);
        assert_eq!(job.finish(1), []);
        assert_eq!(job.committed(2, 1), [Command::Finish { checkpoint: id(1) }]);
        assert_eq!(job.at(SECOND * 9), []);
    }
}

#[test]
fn nobody_waits_for_the_commit_of_a_subtask_that_finished_after_its_acknowledgement() {
    let mut job = Job::new(every_second(), 2);
    job.trigger(CheckpointKind::Final);
    (0..2).for_each(|index| drop(job.acknowledge(index, 1)));
    assert_eq!(job.finish(0), []);
    assert_eq!(job.stored(1), [complete(1)]);
    assert_eq!(job.committed(1, 1), [Command::Finish { checkpoint: id(1) }]);
}

#[test]
fn nothing_begins_beside_the_last_checkpoint_even_if_there_is_room() {
    let mut job = Job::new(CheckpointSettings { max_concurrent: 3, ..every_second() }, 1);
    job.trigger(CheckpointKind::Stop);
    assert_eq!(job.at(SECOND * 2), []);
    assert_eq!(job.trigger(CheckpointKind::Savepoint), []);
}

#[test]
fn a_last_checkpoint_that_fails_is_repeated() {
    let mut job = Job::new(every_second(), 1);
    job.trigger(CheckpointKind::Stop);
    assert_eq!(job.decline(0, 1).len(), 1);
    assert_eq!(job.coordinator.next_wakeup(), Some(REPEAT_PAUSE));
    let kind = CheckpointKind::Stop;
    assert_eq!(job.at(REPEAT_PAUSE), [Command::Announce { checkpoint: id(2), kind }]);
}

#[test]
fn what_is_asked_for_waits_for_room_and_not_for_the_pause() {
    let mut job = Job::new(CheckpointSettings { min_pause: SECOND * 9, ..every_second() }, 1);
    job.at(SECOND);
    assert_eq!(job.trigger(CheckpointKind::Savepoint), []);
    assert_eq!(job.trigger(CheckpointKind::Savepoint), [], "one stands for both");
    job.acknowledge(0, 1);
    let kind = CheckpointKind::Savepoint;
    assert_eq!(job.stored(1), [complete(1), Command::Announce { checkpoint: id(2), kind }]);
    job.acknowledge(0, 2);
    assert_eq!(job.stored(2), [complete(2)]);
}

fn failed(job: &mut Job, index: u32) -> Vec<Command> {
    job.on(Event::Failed { subtasks: vec![subtask(index)] })
}

fn restore(checkpoint: Option<u64>, index: u32) -> Command {
    Command::Restore { checkpoint: checkpoint.map(id), subtasks: vec![subtask(index)] }
}

#[test]
fn who_has_failed_goes_back_to_the_newest_and_others_go_on() {
    let mut job = Job::new(every_second(), 2);
    assert_eq!(failed(&mut job, 0), [restore(None, 0)], "to what the run began with");
    assert_eq!(job.at(SECOND), [], "it is not there again");
    let recovered = |job: &mut Job| job.on(Event::Recovered { subtask: subtask(0) });
    assert_eq!(recovered(&mut job), [announce(1)]);
    job.acknowledge(0, 1);
    job.acknowledge(1, 1);
    job.stored(1);
    assert_eq!(job.at(SECOND * 2), [announce(2)]);
    job.acknowledge(0, 2);
    // What it has acknowledged is of a past that others will not share.
    let commands = failed(&mut job, 0);
    assert!(is_abort(&commands[0], 2), "{commands:?}");
    assert_eq!(commands[1..], [restore(Some(1), 0)]);
    assert_eq!(job.acknowledge(1, 2), []);
    assert_eq!(job.coordinator.failures(), 0, "it is no failure of the checkpoint's");
    assert_eq!(failed(&mut job, 0), [restore(Some(1), 0)], "once more");
    assert_eq!(job.at(SECOND * 3), []);
    assert_eq!(recovered(&mut job), [announce(3)]);
}

#[test]
fn who_has_failed_waits_for_what_becomes_of_a_manifest() {
    for is_late in [false, true] {
        for is_stored in [false, true] {
            let mut job = Job::new(every_second(), 2);
            job.at(SECOND);
            job.acknowledge(0, 1);
            assert_eq!(job.acknowledge(1, 1), [store(1)]);
            assert_eq!(failed(&mut job, 0), []);
            assert_eq!(failed(&mut job, 0), []);
            if is_late {
                let commands = job.at(SECOND * 12);
                assert!(is_abort(&commands[0], 1) && commands.len() == 1, "{commands:?}");
            }
            let commands = if is_stored { job.stored(1) } else { job.not_stored(1) };
            let last = commands.last();
            match (is_late, is_stored) {
                (false, true) => assert_eq!(commands, [complete(1), restore(Some(1), 0)]),
                _ => assert!(commands.contains(&retire(1)) && last == Some(&restore(None, 0))),
            }
        }
    }
}

#[test]
fn a_stop_is_repeated_when_all_are_there_again_and_the_last_is_asked_for_anew() {
    for kind in [CheckpointKind::Stop, CheckpointKind::Final] {
        let mut job = Job::new(CheckpointSettings { interval: None, ..every_second() }, 2);
        assert_eq!(job.trigger(kind).len(), 1);
        let commands = failed(&mut job, 1);
        assert!(is_abort(&commands[0], 1), "{commands:?}");
        let begun = job.on(Event::Recovered { subtask: subtask(1) });
        match kind {
            CheckpointKind::Stop => {
                assert_eq!(begun, [Command::Announce { checkpoint: id(2), kind }]);
            }
            _ => assert_eq!(begun, []),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Fail(u32),
    Recover(u32),
    Wait(u64),
    Trigger(CheckpointKind),
    /// (subtask, which of the announced)
    Acknowledge(u32, usize),
    Decline(u32, usize),
    Finish(u32),
    Stored(usize),
    NotStored(usize),
    Committed(u32, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0_usize..4;
    let one = 0_u32..4;
    prop_oneof![
        1 => one.clone().prop_map(Step::Fail),
        4 => one.clone().prop_map(Step::Recover),
        4 => (1_u64..1500).prop_map(Step::Wait),
        1 => prop_oneof![
            Just(CheckpointKind::Checkpoint), Just(CheckpointKind::Savepoint),
            Just(CheckpointKind::Final), Just(CheckpointKind::Stop),
        ].prop_map(Step::Trigger),
        16 => (one.clone(), which.clone()).prop_map(|(a, b)| Step::Acknowledge(a, b)),
        1 => (one.clone(), which.clone()).prop_map(|(a, b)| Step::Decline(a, b)),
        1 => one.clone().prop_map(Step::Finish),
        6 => which.clone().prop_map(Step::Stored),
        1 => which.clone().prop_map(Step::NotStored),
        3 => (one, which).prop_map(|(a, b)| Step::Committed(a, b)),
    ]
}

/// What the commands say, checked one by one.
#[derive(Default)]
struct Ledger {
    announced: Vec<CheckpointId>,
    acknowledged: BTreeMap<CheckpointId, BTreeSet<SubtaskId>>,
    finished: BTreeSet<SubtaskId>,
    storing: BTreeSet<CheckpointId>,
    stored: BTreeSet<CheckpointId>,
    ended: BTreeSet<CheckpointId>,
    completed: BTreeSet<CheckpointId>,
    retired: BTreeSet<CheckpointId>,
    savepoints: BTreeSet<CheckpointId>,
    ended_at: Option<Duration>,
    begun: BTreeMap<CheckpointId, Duration>,
    /// Have failed, and were not told yet what they go back to.
    failed: BTreeSet<SubtaskId>,
    /// Were told, and are not there again.
    recovering: BTreeSet<SubtaskId>,
    /// Of none of these comes anything any more, as somebody has gone back to an older one.
    past: BTreeSet<CheckpointId>,
    over: bool,
}

impl Ledger {
    fn pending(&self) -> usize {
        self.announced.iter().filter(|id| !self.ended.contains(id)).count()
    }

    fn note(&mut self, command: &Command, settings: &CheckpointSettings, now: Duration) {
        assert!(!self.over, "nothing follows the end: {command:?}");
        match command {
            Command::Announce { checkpoint, kind } => {
                assert!(self.announced.last().is_none_or(|last| last < checkpoint));
                assert!(self.failed.is_empty() && self.recovering.is_empty(), "some are not there");
                self.announced.push(*checkpoint);
                self.begun.insert(*checkpoint, now);
                assert!(self.pending() <= settings.max_concurrent as usize);
                if *kind == CheckpointKind::Savepoint {
                    self.savepoints.insert(*checkpoint);
                }
            }
            Command::StoreManifest { checkpoint, .. } => {
                let acknowledged = self.acknowledged.get(checkpoint);
                for index in 0..4 {
                    let has = acknowledged.is_some_and(|them| them.contains(&subtask(index)));
                    assert!(has || self.finished.contains(&subtask(index)), "{command:?}");
                }
                assert!(self.storing.insert(*checkpoint), "stored twice");
                assert!(!self.past.contains(checkpoint), "of a past that not all share");
            }
            Command::Complete { checkpoint } => {
                assert!(self.stored.contains(checkpoint), "complete before its manifest");
                assert!(self.ended.insert(*checkpoint), "ended twice");
                assert!(!self.past.contains(checkpoint), "of a past that not all share");
                self.completed.insert(*checkpoint);
                self.ended_at = Some(now);
            }
            Command::Abort { checkpoint, .. } => {
                assert!(self.ended.insert(*checkpoint), "ended twice");
                self.ended_at = Some(now);
            }
            Command::Retire { checkpoint } => {
                assert!(self.storing.contains(checkpoint), "there is nothing to retire");
                assert!(self.retired.insert(*checkpoint), "retired twice");
                if self.completed.contains(checkpoint) {
                    assert!(!self.savepoints.contains(checkpoint), "a savepoint is its user's");
                    let newer = self.completed.iter().filter(|id| *id > checkpoint).count();
                    assert!(newer > 0, "the newest is kept");
                }
            }
            Command::Restore { checkpoint, subtasks } => {
                assert_eq!(*checkpoint, self.completed.last().copied());
                assert_eq!(subtasks.iter().copied().collect::<BTreeSet<_>>(), self.failed);
                assert!(self.storing.is_subset(&self.stored), "a newer one may yet be there");
                self.past.extend(&self.announced);
                self.recovering.append(&mut self.failed);
            }
            Command::Finish { checkpoint } => {
                assert!(self.completed.contains(checkpoint));
                self.over = true;
            }
            Command::FailJob { .. } => self.over = true,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn commands_keep_the_invariants_whatever_happens(
        max_concurrent in 1_u32..4, retained in 1_u32..3, min_pause in 0_u64..2000,
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let settings = CheckpointSettings {
            max_concurrent, retained,
            min_pause: Duration::from_millis(min_pause),
            timeout: SECOND * 5,
            tolerable_failures: 5,
            ..every_second()
        };
        let mut job = Job::new(settings, 4);
        let mut ledger = Ledger::default();
        for step in steps {
            let nth = |which: usize, from: &mut dyn DoubleEndedIterator<Item = &CheckpointId>| {
                from.rev().nth(which).copied().unwrap_or_default()
            };
            let announced = |which| nth(which, &mut ledger.announced.iter());
            let unsettled = |which| {
                let open = |id: &&CheckpointId| !ledger.stored.contains(id);
                nth(which, &mut ledger.storing.iter().filter(open))
            };
            let event = match step {
                Step::Fail(index) => {
                    ledger.recovering.remove(&subtask(index));
                    ledger.finished.remove(&subtask(index));
                    ledger.failed.insert(subtask(index));
                    Event::Failed { subtasks: vec![subtask(index)] }
                }
                Step::Recover(index) => {
                    if !ledger.recovering.remove(&subtask(index)) {
                        continue;
                    }
                    Event::Recovered { subtask: subtask(index) }
                }
                Step::Wait(millis) => {
                    job.now += Duration::from_millis(millis);
                    Event::Tick
                }
                Step::Trigger(kind) => Event::Trigger(kind),
                Step::Acknowledge(index, which) => {
                    let (subtask, checkpoint) = (subtask(index), announced(which));
                    let is_gone = ledger.failed.contains(&subtask);
                    if is_gone || ledger.finished.contains(&subtask) {
                        continue;
                    }
                    ledger.acknowledged.entry(checkpoint).or_default().insert(subtask);
                    Event::Acknowledge { subtask, checkpoint }
                }
                Step::Decline(index, which) => {
                    let (subtask, checkpoint) = (subtask(index), announced(which));
                    Event::Decline { subtask, checkpoint, reason: String::new() }
                }
                Step::Finish(index) => {
                    if ledger.failed.contains(&subtask(index)) {
                        continue;
                    }
                    ledger.finished.insert(subtask(index));
                    ledger.recovering.remove(&subtask(index));
                    Event::SubtaskFinished { subtask: subtask(index) }
                }
                Step::Stored(which) => {
                    let checkpoint = unsettled(which);
                    ledger.stored.insert(checkpoint);
                    Event::ManifestStored { checkpoint }
                }
                Step::NotStored(which) => {
                    let checkpoint = unsettled(which);
                    ledger.stored.insert(checkpoint);
                    Event::ManifestFailed { checkpoint, reason: String::new() }
                }
                Step::Committed(index, which) => {
                    Event::Committed { subtask: subtask(index), checkpoint: announced(which) }
                }
            };
            let quiet = ledger.pending() == 0;
            let (before, rested) = (ledger.announced.len(), ledger.ended_at);
            let tick = event == Event::Tick;
            let commands = job.on(event);
            for command in &commands {
                ledger.note(command, &settings, job.now);
            }
            // With nothing pending and nothing asked for, a tick begins periodic ones only.
            if tick && quiet && ledger.announced.len() > before
                && commands.iter().all(|command| !matches!(
                    command, Command::Announce { kind, .. } if *kind != CheckpointKind::Checkpoint
                ))
                && let Some(rested) = rested
            {
                prop_assert!(job.now >= rested + settings.min_pause);
            }
            for (id, begun) in &ledger.begun {
                prop_assert!(
                    ledger.over || ledger.ended.contains(id) || job.now < *begun + settings.timeout
                );
            }
            // Whoever sleeps until the wake-up misses nothing.
            if let Some(wakeup) = job.coordinator.next_wakeup() {
                prop_assert!(wakeup > job.now, "{wakeup:?} at {:?}", job.now);
            }
        }
        if !ledger.over {
            let kept: Vec<_> = job.coordinator.kept().iter().collect();
            let expected: Vec<_> = ledger.completed.difference(&ledger.retired).copied().collect();
            prop_assert_eq!(kept, expected);
        }
    }
}
