//! Checkpoints of every format version that was released are resumed, and damaged ones are told apart.
//!
//! `tests/fixtures/v1/heap` and `tests/fixtures/v1/segments` are the checkpoint directories that
//! [`job`] left when it was cancelled, with two checkpoints each, by a program of those format
//! versions. They are never rewritten (`docs/formats/README.md`). So the job here does not change
//! either: a new one gets a file of its own. For a new folder of fixtures, set
//! `MILLSTREAM_WRITE_FIXTURES`: what exists is not touched.

use millstream::connector::{Sink, SinkContext, SinkWriter};
use millstream::prelude::*;
use millstream::{Chain, Generator, JobStatus};
use millstream_protocol::Manifest;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const VERSION: &str = "v1";
const BACKENDS: [&str; 2] = ["heap", "segments"];
const RECORDS: u64 = 300;
/// Nothing fires before the end of input, so all that was computed is in the last outputs.
const OUT_OF_ORDERNESS: Duration = Duration::from_secs(3600);

#[millstream::record]
#[derive(Clone, Debug, PartialEq)]
struct Event {
    id: u64,
    key: String,
    time: i64,
}

/// All that the job emitted, and how many events its sources did.
#[derive(Clone, Default)]
struct Outcome {
    lines: Arc<Mutex<Vec<String>>>,
    events: Arc<AtomicU64>,
}

impl Outcome {
    fn sorted(&self) -> Vec<String> {
        let mut lines = std::mem::take(&mut *self.lines.lock().unwrap());
        lines.sort_unstable();
        lines
    }
}

struct Lines(Outcome);

impl Sink<String> for Outcome {
    type Writer = Lines;

    fn open(self, _: &SinkContext) -> Result<Lines, BoxError> {
        Ok(Lines(self))
    }
}

impl SinkWriter<String> for Lines {
    fn write(&mut self, line: String, _: Timestamp) -> Result<(), BoxError> {
        self.0.lines.lock().unwrap().push(line);
        Ok(())
    }
}

/// State of each kind that a function can keep, told when the timers fire.
struct Everything {
    count: ValueState<String, u64>,
    ids: ListState<String, u64>,
    by_residue: MapState<String, u64, String>,
}

impl Everything {
    fn open(state: &mut KeyedState<'_, String>) -> Self {
        Self {
            count: state.value("count"),
            ids: state.list("ids"),
            by_residue: state.map("by residue"),
        }
    }
}

impl KeyedProcessFunction<String, Event> for Everything {
    type Out = String;

    fn process(
        &mut self,
        event: Event,
        cx: &mut KeyedContext<'_, String>,
        _: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        self.count.modify(cx, || 0, |n| *n += 1);
        self.ids.push(cx, event.id);
        let text = format!("{:03} of {}", event.id, event.key);
        // The greatest, since the order depends on the number of slots.
        self.by_residue.modify(cx, &(event.id % 3), String::new, |greatest| {
            if text > *greatest {
                *greatest = text;
            }
        });
        let timer = 1_000 + 500 * (event.id % 2) as i64;
        cx.register_event_timer(Timestamp::from_millis(1_000 * timer));
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, String>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        let mut ids = self.ids.get(cx);
        ids.sort_unstable();
        let mut residues = Vec::new();
        self.by_residue.for_each(cx, |residue, last| residues.push((*residue, last.clone())));
        residues.sort_unstable();
        let key = cx.key();
        out.collect(format!("{key} at {time:?}: {:?} {ids:?} {residues:?}", self.count.get(cx)));
        Ok(())
    }
}

fn events(
    env: &Environment,
    name: &str,
    rate: f64,
    outcome: &Outcome,
) -> DataStream<impl Chain<Out = Event>> {
    let emitted = Arc::clone(&outcome.events);
    let make = |id: u64, _| Event { id, key: format!("key {}", id % 7), time: 1_000 * id as i64 };
    env.generate(name, Generator::new(make).rate(rate).count(RECORDS))
        .uid(name)
        .map(move |event| {
            emitted.fetch_add(1, Ordering::Relaxed);
            event
        })
        .assign_timestamps(WatermarkStrategy::bounded_out_of_orderness(
            OUT_OF_ORDERNESS,
            |event: &Event| Timestamp::from_millis(event.time),
        ))
}

fn text<T: std::fmt::Debug>(value: T) -> String {
    format!("{value:?}")
}

/// Keyed state of several kinds, timers, windows of several namespaces, sessions, positions. `rate` is
/// that of each of its sources, in events per second.
fn job(env: &Environment, rate: f64) -> Outcome {
    let outcome = Outcome::default();
    let keyed = |name| events(env, name, rate, &outcome).key_by(|event| event.key.clone());
    let told = keyed("events").process(Everything::open).uid("everything");
    told.sink_to("told", outcome.clone());
    let tumbling = Tumbling::of(Duration::from_secs(50));
    let windows = keyed("events of windows").window(tumbling).count().uid("windows").map(text);
    windows.sink_to("counted", outcome.clone());
    let gap = Session::with_gap(Duration::from_secs(30));
    let sessions = keyed("events of sessions").sessions(gap).count().uid("sessions").map(text);
    sessions.sink_to("sessions", outcome.clone());
    outcome
}

fn folder(backend: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(VERSION).join(backend)
}

fn config(backend: &str, slots: u32, directory: &Path) -> Config {
    let settings = [
        ("state", backend),
        ("checkpoint_dir", directory.to_str().unwrap()),
        ("checkpoint_retained", "2"),
        ("restart", "fixed 3 1ms"),
    ];
    settings
        .into_iter()
        .fold(Config::default().with_slots(slots), |c, (key, value)| c.set(key, value).unwrap())
}

/// The paths of all files of a folder, relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(folder.join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            match folder.join(&path) {
                all if all.is_dir() => folders.push(path),
                _ => found.push(path),
            }
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        fs::create_dir_all(to.join(&path).parent().unwrap()).unwrap();
        fs::copy(from.join(&path), to.join(&path)).unwrap();
    }
}

/// Runs the job on `directory` until it has had three checkpoints, of which two are kept.
fn leave_checkpoints(backend: &str, directory: &Path) {
    let env = Environment::new(
        config(backend, 2, directory).set("checkpoint_interval", "300ms").unwrap(),
    );
    job(&env, 100.0);
    let running = env.start("fixture").unwrap();
    let begun = Instant::now();
    while running.metrics().counters.checkpoints_completed() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoints");
        std::thread::yield_now();
    }
    running.canceller().cancel();
    let result = running.wait().unwrap();
    assert_eq!(result.status, JobStatus::Canceled, "it was too late; try again");
    fs::remove_file(directory.join("LOCK")).unwrap();
}

#[test]
fn there_are_fixtures_of_each_backend() {
    for backend in BACKENDS {
        let folder = folder(backend);
        if std::env::var_os("MILLSTREAM_WRITE_FIXTURES").is_some() && !folder.exists() {
            let written = tempfile::tempdir().unwrap();
            leave_checkpoints(backend, written.path());
            copy(written.path(), &folder);
        }
        let checkpoints = checkpoints(&folder);
        assert_eq!(checkpoints.len(), 2, "{}: {checkpoints:?}", folder.display());
    }
}

/// The ids of the checkpoints of a directory, ascending.
fn checkpoints(directory: &Path) -> Vec<u64> {
    let paths = files(directory);
    let manifests = paths.iter().filter(|path| path.ends_with("MANIFEST"));
    let id = |path: &PathBuf| {
        let folder = path.parent().and_then(Path::to_str).unwrap();
        folder.strip_prefix("chk-").unwrap().parse().unwrap()
    };
    manifests.map(id).collect()
}

/// As fast as it can.
const UNPACED: f64 = 1e9;

/// What the job emits if nothing happens to it.
fn undisturbed() -> Vec<String> {
    let env = Environment::new(Config::default());
    let outcome = job(&env, UNPACED);
    env.execute("fixture").unwrap();
    assert_eq!(outcome.events.load(Ordering::Relaxed), 3 * RECORDS);
    outcome.sorted()
}

/// Goes on from the newest checkpoint in `directory` that can be used: which one that was, and what
/// the job emitted.
fn resume(
    backend: &str,
    slots: u32,
    directory: &Path,
    strict: bool,
) -> Result<(u64, Vec<String>), String> {
    let config = config(backend, slots, directory).set("resume", "true").unwrap();
    let config = config.set("resume_strict", if strict { "true" } else { "false" }).unwrap();
    let env = Environment::new(config);
    let outcome = job(&env, UNPACED);
    let result = env.execute("fixture").map_err(|error| error.to_string())?;
    assert_eq!(result.status, JobStatus::Finished);
    let events = outcome.events.load(Ordering::Relaxed);
    assert!((1..3 * RECORDS).contains(&events), "{events} events: the sources went on");
    let checkpoint = result.restored_checkpoint.expect("a checkpoint to go on from");
    Ok((checkpoint.0, outcome.sorted()))
}

/// That the job went on from this checkpoint and emitted these lines.
fn assert_same(resumed: &(u64, Vec<String>), checkpoint: u64, expected: &[String], what: &str) {
    assert_eq!(resumed.0, checkpoint, "{what}");
    let first = resumed.1.iter().zip(expected).find(|(found, expected)| found != expected);
    assert_eq!(first, None, "{what}: the first line that differs");
    assert_eq!(resumed.1.len(), expected.len(), "{what}");
}

#[test]
fn fixtures_are_resumed_with_any_number_of_slots() {
    let expected = undisturbed();
    for backend in BACKENDS {
        let [_, newest] = checkpoints(&folder(backend))[..] else { panic!("two checkpoints") };
        for slots in [1, 2, 3] {
            let directory = tempfile::tempdir().unwrap();
            copy(&folder(backend), directory.path());
            let resumed = resume(backend, slots, directory.path(), true).unwrap();
            assert_same(&resumed, newest, &expected, &format!("{backend}, {slots} slots"));
        }
    }
}

/// A copy of a fixture that something happens to.
struct Damaged {
    directory: tempfile::TempDir,
    /// Its checkpoints: the newest and the one before.
    newest: u64,
    before: u64,
}

impl Damaged {
    fn copy_of(backend: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        copy(&folder(backend), directory.path());
        let [before, newest] = checkpoints(directory.path())[..] else { panic!("two checkpoints") };
        Self { directory, newest, before }
    }

    fn path(&self, checkpoint: u64, file: &str) -> PathBuf {
        self.directory.path().join(format!("chk-{checkpoint:08}")).join(file)
    }

    fn manifest(&self) -> PathBuf {
        self.path(self.newest, "MANIFEST")
    }

    fn snapshot(&self) -> PathBuf {
        self.path(self.newest, "slot-0.snapshot")
    }

    /// A state file that both checkpoints need, and how much of it each: first the one before.
    fn segment(&self) -> (PathBuf, usize, usize) {
        let files = |checkpoint| {
            let manifest = fs::read(self.path(checkpoint, "MANIFEST")).unwrap();
            let slots = Manifest::decode(&manifest).unwrap().slots;
            slots.into_iter().flat_map(|slot| slot.state_files)
        };
        let newest = files(self.newest).next().expect("a state file");
        let before = files(self.before).find(|file| file.name == newest.name).expect("in both");
        let path = self.directory.path().join("state").join(newest.name);
        (path, before.len as usize, newest.len as usize)
    }
}

/// Rewrites a file.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// What a job makes of a damaged directory.
enum Made {
    /// It goes on from the checkpoint before; if it is to be strict, it fails with these words.
    GoesBack(&'static str),
    /// It fails with these words, strict or not.
    Fails(&'static str),
}

type Damage = fn(&Damaged);

const DAMAGES: &[(&str, Damage, Made)] = &[
    (
        "a truncated manifest",
        |copy| change(&copy.manifest(), |bytes| bytes.truncate(bytes.len() - 7)),
        Made::GoesBack("it is truncated"),
    ),
    (
        "a flipped bit in the manifest",
        |copy| change(&copy.manifest(), |bytes| bytes[60] ^= 4),
        Made::GoesBack("it has been damaged"),
    ),
    (
        "a manifest of a newer format",
        |copy| {
            change(&copy.manifest(), |bytes| {
                bytes[8] += 1;
                let end = bytes.len() - 4;
                let checksum = crc_fast::crc32_iscsi(&bytes[..end]);
                bytes[end..].copy_from_slice(&checksum.to_le_bytes());
            });
        },
        Made::Fails("newer than this program's"),
    ),
    (
        "a truncated snapshot",
        |copy| change(&copy.snapshot(), |bytes| bytes.truncate(bytes.len() / 2)),
        Made::GoesBack("it has been damaged"),
    ),
    (
        "a flipped bit in a snapshot",
        |copy| {
            change(&copy.snapshot(), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            });
        },
        Made::GoesBack("it has been damaged"),
    ),
    (
        "a missing snapshot",
        |copy| fs::remove_file(copy.snapshot()).unwrap(),
        Made::GoesBack("slot-0.snapshot"),
    ),
];

const DAMAGES_OF_SEGMENTS: &[(&str, Damage, Made)] = &[
    (
        "a flipped bit in what only the newest checkpoint needs of a segment",
        |copy| {
            let (path, before, newest) = copy.segment();
            assert!(before < newest, "the fixture has a segment that grew");
            change(&path, |bytes| bytes[newest - 50] ^= 1);
        },
        Made::GoesBack("an extent's description has another checksum"),
    ),
    (
        "a flipped bit in what both checkpoints need of a segment",
        |copy| change(&copy.segment().0, |bytes| bytes[4096 + 40] ^= 1),
        Made::Fails("a block's checksum does not match"),
    ),
    (
        "a segment of a newer format",
        |copy| change(&copy.segment().0, |bytes| bytes[8] = 99),
        Made::Fails("has format version 99"),
    ),
    (
        "a segment that is cut off",
        |copy| change(&copy.segment().0, |bytes| bytes.truncate(5000)),
        Made::Fails("5000"),
    ),
    (
        "a missing segment",
        |copy| fs::remove_file(copy.segment().0).unwrap(),
        Made::Fails("it does not exist"),
    ),
];

#[test]
fn damage_is_named_or_passed_over() {
    let expected = undisturbed();
    for backend in BACKENDS {
        let of_segments = if backend == "segments" { DAMAGES_OF_SEGMENTS } else { &[] };
        for (what, damage, made) in DAMAGES.iter().chain(of_segments) {
            let damaged = || {
                let copy = Damaged::copy_of(backend);
                damage(&copy);
                copy
            };
            let fails = |strict: bool, words: &str| {
                let copy = damaged();
                let files_before = files(copy.directory.path());
                let error = resume(backend, 2, copy.directory.path(), strict).expect_err(what);
                assert!(error.contains(words), "{backend}, {what}, strict {strict}: {error}");
                let mut left = files(copy.directory.path());
                left.retain(|path| path != Path::new("LOCK"));
                assert_eq!(left, files_before, "{backend}, {what}: nothing is lost");
            };
            match made {
                Made::GoesBack(words) => {
                    fails(true, words);
                    let copy = damaged();
                    let resumed = resume(backend, 2, copy.directory.path(), false).expect(what);
                    assert_same(&resumed, copy.before, &expected, &format!("{backend}, {what}"));
                }
                Made::Fails(words) => {
                    fails(true, words);
                    fails(false, words);
                }
            }
        }
    }
}
