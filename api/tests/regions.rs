//! When a part of a job fails that has no channel to the rest, that part starts again and the rest goes on.

use millstream::connector::{
    PreCommit, Prepared, ProcessingClock, Sink, SinkContext, SinkWriter, Source, SourceContext,
    SourceOutput, SourceReader, SourceStatus, decode_item, encode_item,
};
use millstream::prelude::*;
use millstream::{Chain, JobResult, JobStatus};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const SLOTS: u32 = 4;
/// Of each subtask of the source.
const RECORDS: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Error,
    Panic,
}

/// What is to go wrong, one after the other.
#[derive(Clone)]
struct Troubles {
    left: Arc<Mutex<Vec<Trouble>>>,
    checkpoints: PathBuf,
    /// How often the reader of each subtask was opened.
    opened: Arc<[AtomicU32]>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    subtask: u32,
    fault: Fault,
    /// It waits for a checkpoint that was not there at the one before it.
    waits: bool,
}

impl Troubles {
    fn new(checkpoints: &Path, troubles: impl IntoIterator<Item = Trouble>) -> Self {
        let mut left: Vec<_> = troubles.into_iter().collect();
        left.reverse();
        Self {
            left: Arc::new(Mutex::new(left)),
            checkpoints: checkpoints.to_owned(),
            opened: (0..SLOTS).map(|_| AtomicU32::default()).collect(),
        }
    }

    fn newest(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.checkpoints) else { return 0 };
        let complete = entries.flatten().filter(|entry| entry.path().join("MANIFEST").exists());
        let number = |name: &str| name.rsplit('-').next().and_then(|number| number.parse().ok());
        complete.filter_map(|entry| number(&entry.file_name().to_string_lossy())).max().unwrap_or(0)
    }

    fn are_over(&self) -> bool {
        self.left.lock().unwrap().is_empty()
    }

    /// What goes wrong now in this subtask, for which this has been the next since checkpoint `since`.
    fn strike(&self, subtask: u32, since: &mut Option<u64>) -> Option<Fault> {
        let mut left = self.left.lock().unwrap();
        let Some(next) = left.last().filter(|next| next.subtask == subtask).copied() else {
            *since = None;
            return None;
        };
        if next.waits {
            // Of the first, which can be seen, the job may not know yet; of those before the newest it does.
            let newest = self.newest();
            if newest <= *since.get_or_insert(newest.max(1)) {
                return None;
            }
        }
        left.pop();
        Some(next.fault)
    }

    fn opened(&self) -> Vec<u32> {
        self.opened.iter().map(|opened| opened.load(Ordering::SeqCst)).collect()
    }
}

/// So many numbers of each subtask, slowly, and the end when nothing more is to go wrong.
#[derive(Clone)]
struct Ids(Troubles);

struct IdsReader {
    troubles: Troubles,
    subtask: u32,
    next: u64,
    clock: ProcessingClock,
    since: Option<u64>,
}

impl Source for Ids {
    type Out = (u32, u64);
    type Reader = IdsReader;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, context: &SourceContext) -> Result<IdsReader, BoxError> {
        let subtask = context.subtask.0;
        self.0.opened[subtask as usize].fetch_add(1, Ordering::SeqCst);
        let mut next = 0;
        for item in context.restored.iter().flat_map(|items| items.iter()) {
            let (of, position) = decode_item::<(u32, u64)>(item)?;
            if of == subtask {
                next = position;
            }
        }
        Ok(IdsReader { troubles: self.0, subtask, next, clock: context.clock, since: None })
    }
}

impl SourceReader for IdsReader {
    type Out = (u32, u64);

    fn poll(&mut self, out: &mut impl SourceOutput<Self::Out>) -> Result<SourceStatus, BoxError> {
        match self.troubles.strike(self.subtask, &mut self.since) {
            Some(Fault::Error) => return Err("an injected fault".into()),
            Some(Fault::Panic) => panic!("an injected fault"),
            None => {}
        }
        let end = self.next.saturating_add(out.room().min(20)).min(RECORDS);
        (self.next..end).for_each(|number| out.collect((self.subtask, number)));
        self.next = end;
        if end == RECORDS && self.troubles.are_over() {
            return Ok(SourceStatus::Finished);
        }
        Ok(SourceStatus::Pending { until: self.clock.now() + Duration::from_micros(300) })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(vec![encode_item(&(self.subtask, self.next))?])
    }
}

/// What was committed, each transaction once.
#[derive(Clone, Default)]
struct Committed {
    known: Arc<Mutex<BTreeSet<u64>>>,
    results: Arc<Mutex<Vec<(u32, u64)>>>,
    /// What is not to be restored alone.
    together: bool,
}

struct Writer(Vec<(u32, u64)>);

static TRANSACTION: AtomicU64 = AtomicU64::new(0);

impl Sink<(u32, u64)> for Committed {
    type Writer = Writer;

    fn restores_alone(&self) -> bool {
        !self.together
    }

    fn open(self, _: &SinkContext) -> Result<Writer, BoxError> {
        Ok(Writer(Vec::new()))
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let (mut known, mut results) = (self.known.lock().unwrap(), self.results.lock().unwrap());
        for transaction in transactions {
            let (number, written) = decode_item::<(u64, Vec<(u32, u64)>)>(transaction)?;
            if known.insert(number) {
                results.extend(written);
            }
        }
        Ok(())
    }
}

impl SinkWriter<(u32, u64)> for Writer {
    fn write(&mut self, result: (u32, u64), _: Timestamp) -> Result<(), BoxError> {
        self.0.push(result);
        Ok(())
    }

    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        let number = TRANSACTION.fetch_add(1, Ordering::Relaxed);
        let transaction = Some(encode_item(&(number, std::mem::take(&mut self.0)))?);
        std::thread::spawn(move || prepared.ready());
        Ok(PreCommit { state: Vec::new(), transaction })
    }
}

fn config(directory: &Path, settings: &[(&str, &str)]) -> Config {
    let fixed = [
        ("checkpoint_dir", directory.to_str().unwrap()),
        ("checkpoint_interval", "10ms"),
        ("restart", "fixed 100 1ms"),
    ];
    let set = |config: Config, (key, value): (&str, &str)| config.set(key, value).unwrap();
    let all = fixed.into_iter().chain(settings.iter().copied());
    all.fold(Config::default().with_slots(SLOTS), set)
}

fn triples(stream: DataStream<impl Chain<Out = (u32, u64)>>, committed: &Committed) {
    stream.map(|(subtask, number)| (subtask, 3 * number)).sink_to("results", committed.clone());
}

type Pipeline = fn(&Environment, Troubles, &Committed);

/// One chain in each slot.
fn chained(env: &Environment, troubles: Troubles, committed: &Committed) {
    triples(env.from_source("ids", Ids(troubles)), committed);
}

/// With channels in each slot.
fn forwarded(env: &Environment, troubles: Troubles, committed: &Committed) {
    triples(env.from_source("ids", Ids(troubles)).start_new_chain(), committed);
}

fn run(
    pipeline: Pipeline,
    settings: &[(&str, &str)],
    troubles: impl IntoIterator<Item = Trouble>,
    committed: &Committed,
) -> (Result<JobResult, millstream::JobError>, Vec<u32>) {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("checkpoints");
    let troubles = Troubles::new(&directory, troubles);
    let env = Environment::new(config(&directory, settings));
    pipeline(&env, troubles.clone(), committed);
    let result = env.execute("regions");
    assert!(result.is_err() || troubles.are_over());
    (result, troubles.opened())
}

/// The result is whole, and it was started again so often, in part or whole.
fn check(result: &JobResult, committed: &Committed, [parts, wholes]: [u64; 2]) {
    assert_eq!(result.status, JobStatus::Finished);
    let counters = &result.metrics.counters;
    let restarts = (counters.region_restarts(), counters.restarts());
    assert_eq!(restarts, (parts, parts + wholes));
    let mut results = committed.results.lock().unwrap().clone();
    results.sort_unstable();
    let expected: Vec<_> =
        (0..SLOTS).flat_map(|of| (0..RECORDS).map(move |number| (of, 3 * number))).collect();
    assert_eq!(results.len(), expected.len());
    assert!(results == expected);
}

fn after_checkpoints(subtasks: &[u32]) -> Vec<Trouble> {
    let faults = [Fault::Error, Fault::Panic].into_iter().cycle();
    let trouble = |(subtask, fault): (&u32, _)| Trouble { subtask: *subtask, fault, waits: true };
    subtasks.iter().zip(faults).map(trouble).collect()
}

#[test]
fn a_slot_that_fails_starts_again_alone() {
    for pipeline in [chained as Pipeline, forwarded] {
        for state in ["heap", "segments"] {
            for mode in ["exactly-once", "unaligned", "at-least-once"] {
                let settings = [("state", state), ("checkpoint_mode", mode)];
                let committed = Committed::default();
                let troubles = after_checkpoints(&[2, 0, 2, 3, 3]);
                let (result, opened) = run(pipeline, &settings, troubles, &committed);
                check(&result.unwrap(), &committed, [5, 0]);
                assert_eq!(opened, [2, 1, 3, 3], "{settings:?}");
            }
        }
    }
}

/// Also when the second fails while the first is away.
#[test]
fn slots_that_fail_together_start_again_together_and_alone() {
    let committed = Committed::default();
    let mut troubles = after_checkpoints(&[0, 1, 3, 2, 0, 2]);
    troubles.iter_mut().skip(1).step_by(2).for_each(|trouble| trouble.waits = false);
    let (result, opened) = run(forwarded, &[("restart", "fixed 100 50ms")], troubles, &committed);
    check(&result.unwrap(), &committed, [6, 0]);
    assert_eq!(opened, [3, 2, 3, 2]);
}

#[test]
fn without_a_checkpoint_to_go_back_to_all_start_again() {
    let committed = Committed::default();
    let trouble = Trouble { subtask: 1, fault: Fault::Error, waits: false };
    let settings = [("checkpoint_interval", "off")];
    let (result, opened) = run(chained, &settings, [trouble], &committed);
    check(&result.unwrap(), &committed, [0, 1]);
    assert_eq!(opened, [2; 4]);
}

#[test]
fn what_cannot_be_restored_alone_starts_again_as_a_whole() {
    let committed = Committed { together: true, ..Committed::default() };
    let (result, opened) = run(chained, &[], after_checkpoints(&[1]), &committed);
    check(&result.unwrap(), &committed, [0, 1]);
    assert_eq!(opened, [2; 4]);
}

#[test]
fn slots_that_are_connected_start_again_together() {
    let connected: Pipeline = |env, troubles, committed| {
        let source = env.from_source("ids", Ids(troubles));
        let ids = env.from_blocks("others", 1_000, |block| block..block + 1).set_parallelism(2);
        ids.key_by(|id| *id).count().set_parallelism(2).discard();
        triples(source, committed);
    };
    let committed = Committed::default();
    let (result, opened) = run(connected, &[], after_checkpoints(&[1, 3, 0]), &committed);
    check(&result.unwrap(), &committed, [3, 0]);
    assert_eq!(opened, [3, 3, 1, 2]);
}

#[test]
fn the_restart_strategy_counts_parts_too() {
    let committed = Committed::default();
    let settings = [("restart", "fixed 2 1ms")];
    let (result, opened) = run(chained, &settings, after_checkpoints(&[1, 2, 3]), &committed);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("an injected fault"), "{error}");
    assert_eq!(opened, [1, 2, 2, 1]);
}

#[test]
fn slots_end_one_after_the_other_where_there_are_no_checkpoints() {
    let env = Environment::new(Config::default().with_slots(SLOTS));
    let committed = Committed::default();
    let ids =
        env.from_blocks("ids", 100, |block| (0..block * block).map(move |n| (block as u32, n)));
    ids.sink_to("results", committed.clone());
    let result = env.execute("uneven").unwrap();
    assert_eq!(result.status, JobStatus::Finished);
    let records: u64 = (0..100).map(|block| block * block).sum();
    assert_eq!(committed.results.lock().unwrap().len() as u64, records);
}
