//! How soon a job goes on in whose process an operator has failed: in place, beside from files.
//!
//! # How it is measured
//! - A keyed job is filled with state and checkpointed once. Then it updates keys at random for a while,
//!   and its source fails. The clock runs from the order to fail to the first new result of a key that was
//!   drawn at random, which must be its checkpointed count plus one.
//! - The source fails by an error, after which all slots go back to the checkpoint in place; or it panics, after
//!   which its own slot trusts nothing in memory and reads the checkpoint's files, from the page cache. Both take
//!   turns, in one process and from the same checkpoint.

use crate::statistics::Spread;
use crate::steered::{self, Fault, Order, SteeredJob, check_continued, durable, keys_of, random};
use crate::{BenchError, Format, Session, host};
use millstream_ops::{count, mebibytes};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of keys and values.
    pub state_bytes: u64,
    /// How long keys are updated between the checkpoint and the failure.
    pub run_on: Duration,
    /// Failures of each kind.
    pub pairs: u32,
    /// How figures are written.
    pub format: Format,
}

/// What it came to, as others script against it.
#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    slots: u32,
    keys: u64,
    state_bytes: u64,
    run_on_ms: f64,
    /// Medians: from the failure to the first new result.
    in_place_ms: f64,
    from_files_ms: f64,
    /// Updates that were taken back, of all slots.
    updates: f64,
    host: host::Host,
    samples: Vec<Sample>,
}

#[derive(Serialize)]
struct Sample {
    in_place: Failure,
    from_files: Failure,
}

#[derive(Clone, Copy, Serialize)]
struct Failure {
    first_result_ms: f64,
    updates: u64,
}

/// Measures, and reports once.
///
/// # Errors
/// If the options make no sense, the job fails otherwise than it was told to, or its first result does not
/// continue the checkpoint.
pub fn run(options: &Options, session: &Session) -> Result<(), BenchError> {
    let (keys, slots) = (keys_of(options.state_bytes)?, session.config.slots());
    host::warn_if_busy();
    let (config, _scratch) = durable(session, "rollback")?;
    let config = config.set("state", "segments")?.set("restart", "fixed 1000000 1ms")?;
    let job = SteeredJob::start(session, config, "rollback", keys)?;
    eprintln!(
        "filling {} keys, {}, and taking a checkpoint",
        count(keys),
        mebibytes(keys * steered::ENTRY_BYTES)
    );
    job.fill(session)?;
    job.checkpoint(session)?;
    let measure = |how| fail(&job, session, options, keys, how);
    // So that memory is there.
    measure(Fault::Panic)?;
    measure(Fault::Error)?;
    let samples = (0..options.pairs).map(|pair| {
        eprintln!("pair {} of {}: an error, then a panic", pair + 1, options.pairs);
        Ok(Sample { in_place: measure(Fault::Error)?, from_files: measure(Fault::Panic)? })
    });
    let samples: Vec<_> = samples.collect::<Result<_, BenchError>>()?;
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).median;
    let figures = Figures {
        benchmark: "rollback",
        slots,
        keys,
        state_bytes: keys * steered::ENTRY_BYTES,
        run_on_ms: options.run_on.as_secs_f64() * 1e3,
        in_place_ms: median(|sample| sample.in_place.first_result_ms),
        from_files_ms: median(|sample| sample.from_files.first_result_ms),
        updates: median(|sample| sample.in_place.updates as f64),
        host: host::Host::probe(),
        samples,
    };
    options.format.write(&figures, || figures.text())
}

/// Lets the job run on, and fail once.
fn fail(
    job: &SteeredJob,
    session: &Session,
    options: &Options,
    keys: u64,
    how: Fault,
) -> Result<Failure, BenchError> {
    let results = job.results();
    job.order(Order::Probe { key: random() % keys });
    job.sleep(session, options.run_on)?;
    let (rollbacks, updates) = (job.rollbacks(), job.results() - results);
    let key = random() % keys;
    let first = job.watch_after_failure(key);
    let begun = Instant::now();
    job.order(Order::Fail { how, then: key });
    let counted = job.first_result(session, &first)?;
    let first_result_ms = begun.elapsed().as_secs_f64() * 1e3;
    check_continued(key, counted.count)?;
    let slots = u64::from(session.config.slots());
    let in_place = match how {
        Fault::Error => slots,
        Fault::Panic => slots - 1,
    };
    if job.rollbacks() != rollbacks + in_place {
        return Err(BenchError::Different(format!(
            "after {how:?} {} slots went back in place, and not {in_place}; RUST_LOG=millstream_runtime=debug says why",
            job.rollbacks() - rollbacks
        )));
    }
    Ok(Failure { first_result_ms, updates })
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{} of state, {} slots, {} updates since the checkpoint\n\
             first result {:.1} ms after an error (in place), {:.1} ms after a panic (from files): medians of {}",
            mebibytes(self.state_bytes),
            self.slots,
            count(self.updates as u64),
            self.in_place_ms,
            self.from_files_ms,
            self.samples.len(),
        )
    }
}
