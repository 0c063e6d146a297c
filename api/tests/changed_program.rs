//! A program that was changed goes on from the checkpoint of the one before, as far as what has state can
//! be found again.

use millstream::connector::BoxError;
use millstream::prelude::*;
use millstream::{Chain, Generator, JobError, JobStatus};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const LONG: Duration = Duration::from_secs(120);
const RECORDS: u64 = 20_000;
const KEYS: u64 = 7;
/// Event time goes on by so much with each record; windows are as long as a hundred of them.
const STEP: Duration = Duration::from_millis(10);

/// The results of all programs: the greatest count of each key, and every window.
#[derive(Clone, Default)]
struct Results {
    counts: Arc<Mutex<BTreeMap<u64, u64>>>,
    windows: Arc<Mutex<Vec<(Timestamp, u64)>>>,
}

/// Which of the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Before,
    /// With operators without state before and behind those that have some, and a new output.
    After {
        names_sinks: bool,
    },
}

fn with_more<C: Chain<Out = u64>>(
    stream: DataStream<C>,
    program: Program,
) -> DataStream<impl Chain<Out = u64>> {
    // Whether an operator is there must not change the type of the chain: an exchange ends it.
    match program {
        Program::Before => stream.rebalance(),
        Program::After { .. } => {
            stream.map(|n| n + 1).filter(|n| *n > 0).map(|n| n - 1).rebalance()
        }
    }
}

fn describe(env: &Environment, program: Program, results: &Results) {
    let numbers = env.generate("numbers", Generator::new(|n, _| n).rate(20_000.0).count(RECORDS));
    let numbers = with_more(numbers.uid("numbers"), program).share();
    if let Program::After { .. } = program {
        let sink = numbers.stream().map(|n| n * 2).discard();
        sink.uid("doubles");
    }
    let named = |sink: millstream::StreamSink, uid| {
        if program != (Program::After { names_sinks: false }) {
            sink.uid(uid);
        }
    };
    let counts = Arc::clone(&results.counts);
    let sink =
        numbers.stream().key_by(|n| n % KEYS).count().uid("count").for_each(move |(key, count)| {
            let mut counts = counts.lock().unwrap();
            let greatest = counts.entry(key).or_default();
            *greatest = count.max(*greatest);
        });
    named(sink, "counts");
    let windows = Arc::clone(&results.windows);
    let timed = numbers.stream().assign_timestamps(WatermarkStrategy::monotonic(|n: &u64| {
        Timestamp::from_millis((*n * STEP.as_millis() as u64) as i64)
    }));
    let sink = timed
        .uid("timed")
        .key_by(|n| n % 2)
        .window(Tumbling::of(100 * STEP))
        .count()
        .uid("windows")
        .for_each(move |window| windows.lock().unwrap().push((window.window.end, window.key)));
    named(sink, "windows out");
}

fn run(
    program: Program,
    directory: &Path,
    results: &Results,
    until_checkpoint: bool,
) -> Result<(JobStatus, bool), JobError> {
    let config = Config::default()
        .set("checkpoint_dir", directory.to_str().unwrap())
        .and_then(|config| config.set("checkpoint_interval", "20ms"))
        .and_then(|config| config.set("resume", "true"))
        .unwrap();
    let env = Environment::new(config);
    describe(&env, program, results);
    let job = env.start("changed")?;
    let begun = Instant::now();
    while until_checkpoint && job.metrics().counters.checkpoints_completed() < 5 {
        assert!(begun.elapsed() < LONG && !job.has_ended(), "there are no checkpoints");
        std::thread::yield_now();
    }
    if until_checkpoint {
        job.canceller().stop();
    }
    let result = job.wait()?;
    Ok((result.status, result.restored_checkpoint.is_some()))
}

#[test]
fn operators_without_state_may_be_put_in_anywhere() -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    let results = Results::default();
    assert_eq!(run(Program::Before, folder.path(), &results, true)?, (JobStatus::Stopped, false));
    assert!(results.counts.lock().unwrap().values().sum::<u64>() < RECORDS, "it was stopped early");
    let after = Program::After { names_sinks: true };
    assert_eq!(run(after, folder.path(), &results, false)?, (JobStatus::Finished, true));
    let counts = results.counts.lock().unwrap().clone();
    let expected = (0..KEYS).map(|key| (key, (RECORDS - key).div_ceil(KEYS))).collect();
    assert_eq!(counts, expected);
    // The watermark is found again too: no window has fired twice, and none is missing.
    let mut windows = results.windows.lock().unwrap().clone();
    windows.sort_unstable();
    let ends =
        (1..=RECORDS / 100).map(|n| Timestamp::MIN.max(Timestamp::from_millis((n * 1_000) as i64)));
    let expected: Vec<_> = ends.flat_map(|end| [(end, 0), (end, 1)]).collect();
    assert_eq!(windows, expected);
    Ok(())
}

#[test]
fn a_sink_without_an_id_is_not_found_behind_new_operators() {
    let folder = tempfile::tempdir().unwrap();
    let results = Results::default();
    run(Program::After { names_sinks: false }, folder.path(), &results, true).unwrap();
    let error = run(Program::Before, folder.path(), &results, false).unwrap_err().to_string();
    assert!(error.contains("for_each") && error.contains("uid"), "{error}");
}
