//! A source that is killed and restored, with other parallelisms.

use super::{Output, Random, Slot};
use millstream::connector::{JobCounters, Source, SourceContext, SourceReader, SourceStatus};
use std::fmt::Debug;
use std::sync::Arc;

/// Readers of a source at the most.
const READERS_MAX: u64 = 4;
/// Records that a reader is let emit at once, at the most.
const ROOM_MAX: u64 = 40;
/// Times that a job is killed, at the most.
const KILLS_MAX: u64 = 12;

/// Runs a bounded source through a script: readers are polled in any order, asked for their positions,
/// dropped, and restored with another parallelism where the source allows it. All together must emit
/// `expected`, in any order, each record once.
///
/// # Panics
/// If they do not, or if an error is returned.
pub fn exercise_source<S: Source>(seed: u64, make: impl Fn() -> S, expected: &[S::Out])
where
    S::Out: Ord + Clone + Debug,
{
    let mut random = Random::new(seed);
    let mut committed: Vec<S::Out> = Vec::new();
    let mut restored = None;
    let mut kills = random.below(KILLS_MAX + 1);
    // Killed after so many records at the latest: far into the input, and soon after a restore.
    let pace = expected.len() as u64 / (kills + 1) + 1;
    loop {
        let readers = open(&make(), restored.clone(), &mut random, seed);
        let kill_after = (kills > 0).then(|| random.below(2 * pace));
        let done = run(readers, kill_after, &mut random, &mut committed, &mut restored, seed);
        if done {
            break;
        }
        kills = kills.saturating_sub(1);
    }
    let mut expected = expected.to_vec();
    expected.sort();
    committed.sort();
    assert!(committed == expected, "seed {seed}: {}", difference(&committed, &expected));
}

/// In which records two sorted lists differ, in words.
pub(super) fn difference<T: Ord + Debug>(found: &[T], expected: &[T]) -> String {
    let at = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = at.unwrap_or(found.len().min(expected.len()));
    format!(
        "{} records in place of {}; the first that differs: {:?} in place of {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at)
    )
}

struct Reading<R: SourceReader> {
    slot: Slot,
    reader: R,
    context: SourceContext,
    out: Output<R::Out>,
    has_finished: bool,
}

fn open<S: Source>(
    source: &S,
    restored: Option<Arc<[Vec<u8>]>>,
    random: &mut Random,
    seed: u64,
) -> Vec<Reading<S::Reader>> {
    let fail = |error| panic!("seed {seed}: {error}");
    source.validate().unwrap_or_else(fail);
    assert!(source.is_replayable(), "what cannot be read again cannot be restored");
    let any = 1 + random.below(READERS_MAX) as u32;
    let parallelism = source.parallelism().unwrap_or(any);
    let counters = Arc::new(JobCounters::default());
    let open_one = |subtask| {
        let slot = Slot::default();
        let context = SourceContext {
            restored: restored.clone(),
            ..slot.source_context(subtask, parallelism, &counters)
        };
        let reader = source.clone().open(&context).unwrap_or_else(|error| {
            panic!("seed {seed}: reader {subtask} of {parallelism}: {error}")
        });
        Reading { slot, reader, context, out: Output::default(), has_finished: false }
    };
    (0..parallelism).map(open_one).collect()
}

/// Runs until all readers are at their end (true) or until they are killed. `committed` and `restored`
/// become what they were at the last checkpoint, or at the end.
fn run<R: SourceReader>(
    mut readers: Vec<Reading<R>>,
    kill_after: Option<u64>,
    random: &mut Random,
    committed: &mut Vec<R::Out>,
    restored: &mut Option<Arc<[Vec<u8>]>>,
    seed: u64,
) -> bool {
    let mut emitted = 0;
    loop {
        if kill_after.is_some_and(|records| emitted >= records) {
            return false;
        }
        let index = random.below(readers.len() as u64) as usize;
        emitted += readers[index].poll(random, seed);
        let has_finished = readers.iter().all(|reader| reader.has_finished);
        if has_finished || random.one_in(20) {
            let mut items = Vec::new();
            for reader in &mut readers {
                let position = reader.reader.snapshot();
                items.extend(position.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
                committed.append(&mut reader.out.values);
            }
            *restored = Some(items.into());
        }
        if has_finished {
            // One that is restored at its end has nothing left; sometimes it is asked.
            return kill_after.is_none() || random.one_in(2);
        }
    }
}

impl<R: SourceReader> Reading<R> {
    /// Polls once, and waits if there is nothing yet; returns how many records came.
    fn poll(&mut self, random: &mut Random, seed: u64) -> u64 {
        if self.has_finished {
            return 0;
        }
        let before = self.out.values.len();
        self.out.room = random.below(ROOM_MAX);
        match self.reader.poll(&mut self.out) {
            Ok(SourceStatus::More) => {}
            Ok(SourceStatus::Finished) => self.has_finished = true,
            Ok(SourceStatus::Pending { until }) => {
                self.slot.sleep_until(self.context.clock.now(), until);
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
        (self.out.values.len() - before) as u64
    }
}
