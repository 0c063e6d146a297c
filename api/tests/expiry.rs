//! State with a time to live, in whole jobs, with the clock of the host.
//!
//! `tests/fixtures/v2` are checkpoint directories of the job [`lasting`], whose state lives for 100 years:
//! see `fixtures.rs`.

use millstream::connector::{Sink, SinkContext, SinkWriter};
use millstream::prelude::*;
use millstream::{Generator, JobStatus};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const BACKENDS: [&str; 2] = ["heap", "segments"];

fn config(backend: &str, slots: u32, directory: &Path) -> Config {
    let settings = [("state", backend), ("checkpoint_dir", directory.to_str().unwrap())];
    settings
        .into_iter()
        .fold(Config::default().with_slots(slots), |c, (key, value)| c.set(key, value).unwrap())
}

const SHORT: Duration = Duration::from_millis(10);

/// Compares what it sees with what it wrote, and when. Emits whether the value was still there.
struct Checked {
    value: ValueState<u64, u64>,
    list: ListState<u64, u64>,
    map: MapState<u64, u64, u64>,
    written: HashMap<u64, (Timestamp, u64)>,
}

impl KeyedProcessFunction<u64, u64> for Checked {
    type Out = bool;

    fn process(
        &mut self,
        n: u64,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<bool>,
    ) -> Result<(), BoxError> {
        let now = cx.processing_time();
        let before = self.written.insert(*cx.key(), (now, n));
        let alive = before.filter(|(written, _)| now < *written + SHORT).map(|(_, n)| n);
        let seen = [self.value.get(cx), self.list.get(cx).last().copied(), self.map.get(cx, &7)];
        if seen != [alive; 3] {
            return Err(format!("{n}: {seen:?} instead of {alive:?}").into());
        }
        self.value.set(cx, n);
        self.list.push(cx, n);
        self.map.put(cx, &7, n);
        out.collect(alive.is_some());
        Ok(())
    }
}

#[test]
fn a_function_sees_what_has_not_expired_and_nothing_else() {
    for backend in BACKENDS {
        let directory = tempfile::tempdir().unwrap();
        let env = Environment::new(config(backend, 2, directory.path()));
        // A key whose records follow each other at once, and one whose values expire in between.
        let make = |n: u64, _| if n.is_multiple_of(20) { 1 } else { 2 };
        let seen = env
            .generate("keys", Generator::new(make).rate(1000.0).count(400))
            .key_by(|key| *key)
            .process(|state| {
                let state = &mut state.with_ttl(Ttl::new(SHORT));
                Checked {
                    value: state.value("value"),
                    list: state.list("list"),
                    map: state.map("map"),
                    written: HashMap::new(),
                }
            })
            .collect();
        env.execute("checked").unwrap();
        let seen = seen.take();
        assert_eq!(seen.len(), 400);
        assert!(seen.iter().filter(|alive| !**alive).count() > 2, "{backend}: something expires");
    }
}

const EVENTS: u64 = 300;

/// State of each kind, told when the timer fires.
struct Lasting {
    count: ValueState<String, u64>,
    ids: ListState<String, u64>,
    by_residue: MapState<String, u64, u64>,
}

impl Lasting {
    fn open(state: &mut KeyedState<'_, String>) -> Self {
        let years = Duration::from_secs(100 * 365 * 24 * 3600);
        let ttl = Ttl::new(years).update(TtlUpdate::OnReadAndWrite);
        let mut state = state.with_ttl(ttl);
        Self {
            count: state.value("count"),
            ids: state.list("ids"),
            by_residue: state.map("by residue"),
        }
    }
}

impl KeyedProcessFunction<String, (u64, String)> for Lasting {
    type Out = String;

    fn process(
        &mut self,
        (id, _): (u64, String),
        cx: &mut KeyedContext<'_, String>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.count.modify(cx, || 0, |n| *n += 1);
        self.ids.push(cx, id);
        self.by_residue.modify(cx, &(id % 5), || 0, |sum| *sum += id);
        cx.register_event_timer(Timestamp::from_millis(1_000_000));
        Ok(())
    }

    fn on_timer(
        &mut self,
        _: Timestamp,
        cx: &mut KeyedContext<'_, String>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        let mut ids = self.ids.get(cx);
        ids.sort_unstable();
        let mut residues = Vec::new();
        self.by_residue.for_each(cx, |residue, sum| residues.push((*residue, *sum)));
        residues.sort_unstable();
        out.collect(format!("{}: {:?} {ids:?} {residues:?}", cx.key(), self.count.get(cx)));
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn sorted(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.0.lock().unwrap());
        lines.sort_unstable();
        lines
    }
}

impl Sink<String> for Lines {
    type Writer = Self;

    fn open(self, _: &SinkContext) -> Result<Self, BoxError> {
        Ok(self)
    }
}

impl SinkWriter<String> for Lines {
    fn write(&mut self, line: String, _: Timestamp) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(line);
        Ok(())
    }
}

/// The job of the fixtures: it does not change.
fn lasting(env: &Environment, rate: f64) -> Lines {
    let lines = Lines::default();
    let make = |id: u64, _| (id, format!("key {}", id % 7));
    env.generate("events", Generator::new(make).rate(rate).count(EVENTS))
        .uid("events")
        .key_by(|event: &(u64, String)| event.1.clone())
        .process(Lasting::open)
        .uid("lasting")
        .sink_to("told", lines.clone());
    lines
}

fn folder(backend: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v2").join(backend)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if from.is_dir() {
            copy(&from, &to.join(name));
        } else {
            fs::copy(&from, to.join(name)).unwrap();
        }
    }
}

/// Runs the job on `directory` until it has had a few checkpoints.
fn leave_checkpoints(backend: &str, directory: &Path) {
    let config = config(backend, 2, directory).set("checkpoint_interval", "300ms").unwrap();
    let env = Environment::new(config.set("checkpoint_retained", "2").unwrap());
    lasting(&env, 100.0);
    let running = env.start("fixture").unwrap();
    let begun = Instant::now();
    while running.metrics().counters.checkpoints_completed() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoints");
        std::thread::yield_now();
    }
    running.canceller().cancel();
    assert_eq!(running.wait().unwrap().status, JobStatus::Canceled, "too late; try again");
    fs::remove_file(directory.join("LOCK")).unwrap();
}

#[test]
fn what_expires_later_is_resumed_with_any_number_of_slots() {
    let env = Environment::new(Config::default());
    let lines = lasting(&env, 1e9);
    env.execute("undisturbed").unwrap();
    let expected = lines.sorted();
    assert_eq!(expected.len(), 7);
    for backend in BACKENDS {
        let folder = folder(backend);
        if std::env::var_os("MILLSTREAM_WRITE_FIXTURES").is_some() && !folder.exists() {
            let written = tempfile::tempdir().unwrap();
            leave_checkpoints(backend, written.path());
            copy(written.path(), &folder);
        }
        for slots in [1, 2, 3] {
            let directory = tempfile::tempdir().unwrap();
            copy(&folder, directory.path());
            let config = config(backend, slots, directory.path()).set("resume", "true").unwrap();
            let env = Environment::new(config.set("resume_strict", "true").unwrap());
            let lines = lasting(&env, 1e9);
            let result = env.execute("fixture").unwrap();
            assert!(result.restored_checkpoint.is_some());
            assert_eq!(lines.sorted(), expected, "{backend}, {slots} slots");
        }
    }
}
