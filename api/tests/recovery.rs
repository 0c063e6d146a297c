//! Jobs that fail and go on from their checkpoints end with what they would have ended with.
//!
//! The conformance of operators: each pipeline here is run once undisturbed, and then with panics of
//! user code at random records, at several numbers of slots. Whatever an operator remembers must be
//! in its checkpoints, or the outputs differ.

use millstream::connector::{JobCounters, PreCommit, Prepared, Sink, SinkContext, SinkWriter};
use millstream::prelude::*;
use millstream::{Chain, Generator, JobStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const RECORDS: u64 = 30_000;
/// Records come so fast, so that there is time for some checkpoints.
const RATE: f64 = 40_000.0;

#[millstream::record]
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: u64,
    key: u64,
    time: i64,
}

/// Panics now and then: whenever so many more records have passed.
#[derive(Clone)]
struct Faults {
    after: Arc<Vec<AtomicI64>>,
    /// Where checkpoints are, and the newest one that was there at the last fault.
    checkpoints: Arc<Mutex<(PathBuf, String)>>,
    /// Where the job's results go, in all its lives.
    lines: Lines,
    /// What reads the events is slower than they come.
    slow: bool,
    /// How many records have passed that waited for a checkpoint.
    waited: Arc<AtomicU64>,
}

impl Faults {
    /// After these numbers of records, one after the other.
    fn after(records: impl IntoIterator<Item = i64>) -> Self {
        let after = Arc::new(records.into_iter().map(AtomicI64::new).collect());
        Self {
            after,
            checkpoints: Arc::default(),
            lines: Lines::default(),
            slow: false,
            waited: Arc::default(),
        }
    }

    fn with_backpressure(mut self, slow: bool) -> Self {
        self.slow = slow;
        self
    }

    /// Each fault waits until there is a checkpoint in this directory that was not there at the one
    /// before.
    fn each_after_a_checkpoint_in(self, directory: &Path) -> Self {
        self.checkpoints.lock().unwrap().0 = directory.to_owned();
        self
    }

    /// True if there is a new checkpoint.
    fn may_strike(&self) -> bool {
        let (directory, last) = &mut *self.checkpoints.lock().unwrap();
        let Ok(entries) = std::fs::read_dir(directory) else { return false };
        let complete = entries.flatten().filter(|entry| entry.path().join("MANIFEST").exists());
        let newest = complete.map(|entry| entry.file_name().to_string_lossy().into_owned()).max();
        match newest {
            Some(newest) if newest > *last => {
                *last = newest;
                true
            }
            _ => false,
        }
    }

    fn pass(&self) {
        if self.strikes() {
            panic!("an injected fault");
        }
    }

    /// A record passes; true if it is to fail.
    fn strikes(&self) -> bool {
        let next = self.after.iter().find(|left| left.load(Ordering::Relaxed) > 0);
        if let Some(left) = next
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            if self.may_strike() {
                return true;
            }
            // Until there is a checkpoint, be the disk as slow as it may, records go on ever more
            // slowly: else the input could end before.
            left.fetch_add(1, Ordering::Relaxed);
            let waited = self.waited.fetch_add(1, Ordering::Relaxed);
            spin(Duration::from_micros(100 << (waited / 1_000).min(6)));
        }
        false
    }

    fn left(&self) -> usize {
        self.after.iter().filter(|left| left.load(Ordering::Relaxed) > 0).count()
    }
}

/// Keeps the slot from all else.
fn spin(duration: Duration) {
    let since = Instant::now();
    while since.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// Events whose timestamps go back by up to 20 ms, of a few keys more and many less.
fn events(env: &Environment, name: &str, faults: &Faults) -> DataStream<impl Chain<Out = Event>> {
    let faults = faults.clone();
    let slow = faults.slow;
    let make = |n: u64, _| {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let key = if mixed.is_multiple_of(3) { mixed % 5 } else { mixed % 997 };
        Event { id: n, key, time: n as i64 - (mixed % 20) as i64 }
    };
    env.generate(name, Generator::new(make).rate(RATE).count(RECORDS))
        .map(move |event| {
            faults.pass();
            event
        })
        .assign_timestamps(WatermarkStrategy::bounded_out_of_orderness(
            Duration::from_millis(40),
            |event: &Event| Timestamp::from_millis(event.time),
        ))
        .rebalance()
        .map(move |event| {
            if slow {
                spin(Duration::from_micros(40));
            }
            event
        })
}

/// A sink in two phases whose transactions are the records themselves.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Committed>>);

#[derive(Default)]
struct Committed {
    transactions: BTreeSet<u64>,
    lines: Vec<String>,
    /// How often what had not been committed was given up.
    aborts: usize,
}

struct LinesWriter(Vec<String>);

/// No two transactions have the same number.
static TRANSACTION: AtomicU64 = AtomicU64::new(0);

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().lines)
    }
}

impl Sink<String> for Lines {
    type Writer = LinesWriter;

    fn open(self, _: &SinkContext) -> Result<LinesWriter, BoxError> {
        Ok(LinesWriter(Vec::new()))
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let mut committed = self.0.lock().unwrap();
        for transaction in transactions {
            let (number, text) = transaction.split_first_chunk::<8>().ok_or("cut off")?;
            if committed.transactions.insert(u64::from_le_bytes(*number)) {
                let text = std::str::from_utf8(text)?;
                committed.lines.extend(text.lines().map(str::to_owned));
            }
        }
        Ok(())
    }

    fn abort(&self, _: u32) {
        self.0.lock().unwrap().aborts += 1;
    }
}

impl SinkWriter<String> for LinesWriter {
    fn write(&mut self, line: String, _: Timestamp) -> Result<(), BoxError> {
        self.0.push(line);
        Ok(())
    }

    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        let number = TRANSACTION.fetch_add(1, Ordering::Relaxed);
        let mut transaction = number.to_le_bytes().to_vec();
        transaction.extend_from_slice(std::mem::take(&mut self.0).join("\n").as_bytes());
        // Durable in this test is what is in a checkpoint; another thread says so, a little later.
        std::thread::spawn(move || prepared.ready());
        Ok(PreCommit { state: Vec::new(), transaction: Some(transaction) })
    }
}

fn lines(stream: DataStream<impl Chain<Out = String>>, faults: &Faults) {
    stream.sink_to("lines", faults.lines.clone());
}

type Pipeline = fn(&Environment, &Faults);

fn text<T: std::fmt::Debug>(value: T) -> String {
    format!("{value:?}")
}

fn counts(env: &Environment, faults: &Faults) {
    lines(events(env, "events", faults).key_by(|e| e.key).count().map(text), faults);
}

fn tumbling(env: &Environment, faults: &Faults) {
    let windows = Tumbling::of(Duration::from_millis(500));
    lines(
        events(env, "events", faults).key_by(|e| e.key).window(windows).count().map(text),
        faults,
    );
}

fn sliding_with_lateness(env: &Environment, faults: &Faults) {
    let windows = Sliding::of(Duration::from_millis(600), Duration::from_millis(200));
    let stream = events(env, "events", faults).key_by(|e| e.key).window(windows);
    let sums = stream.allowed_lateness(Duration::from_millis(100)).reduce(|a, b| Event {
        id: a.id + b.id,
        key: a.key,
        time: a.time.max(b.time),
    });
    lines(sums.map(text), faults);
}

fn sessions(env: &Environment, faults: &Faults) {
    let gap = Session::with_gap(Duration::from_millis(300));
    lines(events(env, "events", faults).key_by(|e| e.key).sessions(gap).count().map(text), faults);
}

fn count_windows(env: &Environment, faults: &Faults) {
    let sums = events(env, "events", faults)
        .key_by(|e| e.key)
        .count_window(7)
        .reduce(|a, b| Event { id: a.id.max(b.id), key: a.key, time: a.time.max(b.time) });
    // Which records share a window depends on their order: the number of windows does not.
    lines(sums.map(|window| text(window.key)), faults);
}

fn joined(env: &Environment, faults: &Faults) {
    let left = events(env, "left", faults).filter(|e| e.id % 3 == 0).key_by(|e| e.key);
    let right = events(env, "right", faults).filter(|e| e.id % 5 == 0).key_by(|e| e.key);
    let windows = Tumbling::of(Duration::from_millis(200));
    lines(left.join(right).window(windows).apply(|l, r| text((l.id, r.id))), faults);
}

/// For each key: emits the number of its records each time event time has moved on, and what came in
/// between in order.
struct Digest {
    count: ValueState<u64, u64>,
    ids: ListState<u64, u64>,
    by_residue: MapState<u64, u64, u64>,
    /// The number of records for each timer's time.
    by_end: MapState<u64, i64, u64>,
}

const DIGEST_MILLIS: i64 = 250;

impl Digest {
    fn open(state: &mut KeyedState<'_, u64>) -> Self {
        Self {
            count: state.value("count"),
            ids: state.list("ids"),
            by_residue: state.map("by residue"),
            by_end: state.map("by end"),
        }
    }

    fn add(&mut self, event: &Event, cx: &mut KeyedContext<'_, u64>) {
        self.count.modify(cx, || 0, |n| *n += 1);
        self.ids.push(cx, event.id);
        self.by_residue.modify(cx, &(event.id % 4), || 0, |n| *n += event.id);
        let end = (event.time.div_euclid(DIGEST_MILLIS) + 1) * DIGEST_MILLIS;
        self.by_end.modify(cx, &end, || 0, |n| *n += 1);
        cx.register_event_timer(Timestamp::from_millis(end));
    }

    fn emit(&mut self, time: Timestamp, cx: &KeyedContext<'_, u64>) -> String {
        let mut ids = self.ids.take(cx);
        ids.sort_unstable();
        let mut residues = Vec::new();
        self.by_residue.for_each(cx, |residue, sum| residues.push((*residue, *sum)));
        residues.sort_unstable();
        // What is after the timer's time is not known to be complete, so it is left out.
        let (done, open): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| (*id as i64) < time.as_nanos() / 1_000_000 - 20);
        self.ids.extend(cx, open);
        text((cx.key(), time, done.len()))
    }
}

impl KeyedProcessFunction<u64, Event> for Digest {
    type Out = String;

    fn process(
        &mut self,
        event: Event,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.add(&event, cx);
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        let digest = self.emit(time, cx);
        out.collect(digest);
        Ok(())
    }
}

impl KeyedCoProcessFunction<u64, Event, Event> for Digest {
    type Out = String;

    fn process_left(
        &mut self,
        event: Event,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.add(&event, cx);
        Ok(())
    }

    fn process_right(
        &mut self,
        event: Event,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.add(&Event { id: event.id + 1, ..event }, cx);
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        // Records of later times may have come before, how many depends on which input was ahead.
        let end = time.as_nanos() / 1_000_000;
        out.collect(text((cx.key(), time, self.by_end.get(cx, &end))));
        self.by_end.remove(cx, &end);
        Ok(())
    }
}

fn processed(env: &Environment, faults: &Faults) {
    digested(env, faults, Digest::open);
}

/// With state that would expire in 100 years.
fn expiring(env: &Environment, faults: &Faults) {
    let ttl = Ttl::new(Ttl::DURATION_MAX).update(TtlUpdate::OnReadAndWrite);
    digested(env, faults, move |state| Digest::open(&mut state.with_ttl(ttl)));
}

fn digested(
    env: &Environment,
    faults: &Faults,
    open: impl FnOnce(&mut KeyedState<'_, u64>) -> Digest + Clone + Send + 'static,
) {
    let faults_after = faults.clone();
    let digests = events(env, "events", faults).key_by(|e| e.key).process(open);
    let digests = digests.map(move |digest| {
        faults_after.pass();
        digest
    });
    lines(digests, faults);
}

/// How often each key's timer finds something, of two streams.
fn connected(env: &Environment, faults: &Faults) {
    let left = events(env, "left", faults).key_by(|e| e.key);
    let right = events(env, "right", faults).key_by(|e| e.key);
    let counts = left.connect(right).process(Digest::open);
    // Of which timer a record close to it is found depends on the order of the streams.
    lines(counts.map(|line| line.split(',').take(2).collect()), faults);
}

/// Counts the events of a key, and fails by an error.
struct Failing {
    count: ValueState<u64, u64>,
    faults: Faults,
}

impl KeyedProcessFunction<u64, Event> for Failing {
    type Out = String;

    fn process(
        &mut self,
        _: Event,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.count.modify(cx, || 0, |n| *n += 1);
        if self.faults.strikes() {
            return Err("an injected fault".into());
        }
        out.collect(text((cx.key(), self.count.get(cx))));
        Ok(())
    }
}

fn failing(env: &Environment, faults: &Faults) {
    let (no_faults, faults_of_process) = (Faults::after([]), faults.clone());
    let open = move |state: &mut KeyedState<'_, u64>| Failing {
        count: state.value("count"),
        faults: faults_of_process.clone(),
    };
    lines(events(env, "events", &no_faults).key_by(|e| e.key).process(open), faults);
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort_unstable();
    lines
}

/// The first lines that one of the two has more often than the other.
fn difference(expected: &[String], found: &[String]) -> String {
    let mut counts = BTreeMap::<&str, i64>::new();
    found.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    expected.iter().for_each(|line| *counts.entry(line).or_default() -= 1);
    let odd: Vec<_> = counts.into_iter().filter(|(_, count)| *count != 0).collect();
    format!("{} lines differ, such as {:?}", odd.len(), &odd[..odd.len().min(12)])
}

fn config(slots: u32) -> Config {
    let settings = [
        ("checkpoint_interval", "15ms"),
        ("checkpoint_retained", "1"),
        ("restart", "fixed 100 1ms"),
    ];
    settings
        .into_iter()
        .fold(Config::default().with_slots(slots), |c, (key, value)| c.set(key, value).unwrap())
}

/// What a pipeline comes to if nothing happens.
///
/// The same whatever the order of records is that come from different subtasks.
fn undisturbed(name: &str, pipeline: Pipeline, slots: u32) -> Vec<String> {
    let env = Environment::new(Config::default().with_slots(slots));
    let no_faults = Faults::after([]);
    pipeline(&env, &no_faults);
    env.execute(name).unwrap();
    sorted(no_faults.lines.take())
}

/// Returns the counters of the last run.
fn check(
    name: &str,
    pipeline: Pipeline,
    slots: &[u32],
    settings: &[(&str, &str)],
    slow: bool,
) -> Arc<JobCounters> {
    let mut last = None;
    for slots in slots {
        let expected = undisturbed(name, pipeline, *slots);
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("checkpoints");
        let mut config = config(*slots).set("checkpoint_dir", directory.to_str().unwrap()).unwrap();
        for (key, value) in settings {
            config = config.set(key, value).unwrap();
        }
        let env = Environment::new(config);
        let faults =
            Faults::after([5_000, 2_000, 4_000, 3_000].map(|n| n + 13 * i64::from(*slots)))
                .each_after_a_checkpoint_in(&directory)
                .with_backpressure(slow);
        pipeline(&env, &faults);
        let result = env.execute(name).unwrap();
        assert_eq!(result.status, JobStatus::Finished);
        let counters = &result.metrics.counters;
        assert_eq!(faults.left(), 0, "{name}: all faults happened");
        // Several may strike in one attempt, on different slots.
        assert!((1..=4).contains(&counters.restarts()), "{name}: {}", counters.restarts());
        let found = sorted(faults.lines.take());
        assert!(expected == found, "{name}, {slots} slots: {}", difference(&expected, &found));
        last = Some(Arc::clone(counters));
    }
    last.unwrap()
}

/// Runs a pipeline that fails again and again, and is begun anew each time, with these numbers of
/// slots. `between` is called with the directory of the checkpoints before each further life.
fn live_on(
    pipeline: Pipeline,
    slots: &[u32],
    settings: &[(&str, &str)],
    slow: bool,
    between: impl Fn(&Path),
) {
    let expected = undisturbed("live on", pipeline, 1);
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("checkpoints");
    let replica = folder.path().join("replica");
    let lives = slots.len() as i64;
    let faults = Faults::after((1..lives).map(|life| RECORDS as i64 / lives / 2 + 100 * life))
        .each_after_a_checkpoint_in(&directory)
        .with_backpressure(slow);
    for (life, slots) in slots.iter().enumerate() {
        if life > 0 {
            between(&directory);
        }
        let mut config = config(*slots).set("checkpoint_dir", directory.to_str().unwrap()).unwrap();
        for (key, value) in settings {
            let value = if *value == "REPLICA" { replica.to_str().unwrap() } else { value };
            config = config.set(key, value).unwrap();
        }
        config = config.set("restart", "none").unwrap().set("resume", "true").unwrap();
        let env = Environment::new(config);
        pipeline(&env, &faults);
        match env.execute("live on") {
            Ok(result) => {
                // Two faults may strike in one life, on different slots: then there are fewer lives.
                assert_eq!(faults.left(), 0, "it finished in life {life} of {lives}");
                assert!(result.restored_checkpoint.is_some());
                break;
            }
            Err(error) => assert!(error.to_string().contains("an injected fault"), "{error}"),
        }
    }
    let found = sorted(faults.lines.take());
    assert!(expected == found, "{}", difference(&expected, &found));
}

#[test]
fn the_number_of_slots_may_differ_in_each_life() {
    for state in ["heap", "segments"] {
        for pipeline in [counts as Pipeline, sliding_with_lateness, sessions, processed, joined] {
            live_on(pipeline, &[1, 2, 3, 1], &[("state", state)], false, |_| ());
        }
    }
}

#[test]
fn the_number_of_slots_may_differ_where_records_are_in_flight() {
    let settings = [("checkpoint_mode", "unaligned")];
    for pipeline in [counts as Pipeline, tumbling, joined] {
        live_on(pipeline, &[1, 2, 3, 1], &settings, true, |_| ());
    }
}

/// Aligned checkpoints that go on as unaligned ones, and unaligned ones, of jobs in which records
/// queue up.
#[test]
fn records_in_flight_are_part_of_checkpoints() {
    let timeout = [("checkpoint_alignment_timeout", "1ms")];
    for settings in [&[("checkpoint_mode", "unaligned")], &timeout] {
        for pipeline in [counts as Pipeline, sliding_with_lateness, joined] {
            let counters = check("backpressure", pipeline, &[2], settings, true);
            assert!(counters.in_flight_bytes() > 0, "{settings:?}: barriers have overtaken");
        }
    }
}

/// Also windows, of which some fire and are gone between a checkpoint and the failure.
#[test]
fn slots_that_survive_go_back_in_place() {
    let settings = [("state", "segments")];
    for pipeline in [counts as Pipeline, tumbling, sliding_with_lateness] {
        assert!(check("survivors", pipeline, &[3], &settings, false).rollbacks() > 0);
    }
}

#[test]
fn a_slot_whose_operator_has_returned_an_error_goes_back_in_place() {
    let counters = check("an error", failing, &[1], &[("state", "segments")], false);
    assert_eq!((counters.restarts(), counters.rollbacks()), (4, 4));
}

#[test]
fn what_a_checkpoint_counts_on_is_given_up_with_it_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("checkpoints");
    let settings = [
        ("checkpoint_dir", directory.to_str().unwrap()),
        ("checkpoint_retain_on_cancel", "false"),
        ("restart", "none"),
    ];
    let set = |config: Config, (key, value): (&str, &str)| config.set(key, value).unwrap();
    let config = settings.into_iter().fold(config(1), set);
    let aborts = |faults: &Faults| faults.lines.0.lock().unwrap().aborts;
    // It fails for good.
    let faults = Faults::after([5_000]).each_after_a_checkpoint_in(&directory);
    let env = Environment::new(config.clone());
    counts(&env, &faults);
    env.execute("counts").unwrap_err();
    assert_eq!((faults.left(), aborts(&faults)), (0, 0));
    // Somebody forgets to say that it is to go on.
    let faults = Faults::after([]);
    let env = Environment::new(config.clone());
    counts(&env, &faults);
    let error = env.execute("counts").unwrap_err().to_string();
    assert!(error.contains("--resume") && aborts(&faults) == 0, "{error}");
    // It is not wanted any more.
    let env = Environment::new(set(config, ("resume", "true")));
    counts(&env, &faults);
    let job = env.start("counts").unwrap();
    job.canceller().cancel();
    assert_eq!(job.wait().unwrap().status, JobStatus::Canceled);
    assert_eq!(aborts(&faults), 1);
}

#[test]
fn what_the_directory_has_lost_comes_from_the_replica() {
    let lose_all = |directory: &Path| std::fs::remove_dir_all(directory).unwrap();
    for state in ["heap", "segments"] {
        let settings = [("state", state), ("checkpoint_replica", "REPLICA")];
        live_on(sliding_with_lateness, &[2, 2, 1], &settings, false, lose_all);
    }
}

macro_rules! recovers {
    ($($pipeline:ident),*) => { $(
        mod $pipeline {
            const NAME: &str = stringify!($pipeline);

            #[test]
            fn recovers_from_heap() {
                super::check(NAME, super::$pipeline, &[1, 2, 3], &[("state", "heap")], false);
            }

            #[test]
            fn recovers_from_segments() {
                super::check(NAME, super::$pipeline, &[1, 2, 3], &[("state", "segments")], false);
            }

            #[test]
            fn recovers_from_unaligned_checkpoints() {
                let settings = [("checkpoint_mode", "unaligned")];
                super::check(NAME, super::$pipeline, &[1, 2, 3], &settings, false);
            }
        }
    )* };
}

recovers!(
    counts,
    tumbling,
    sliding_with_lateness,
    sessions,
    count_windows,
    joined,
    processed,
    expiring,
    connected,
    failing
);
