//! How soon a job that was killed gives results again.
//!
//! # How it is measured
//! - A process fills a keyed job with state, takes a checkpoint, and goes on updating keys at random
//!   until it is killed (SIGKILL) at a random moment.
//! - Warm: before the kill, all of the job's files have been read into the page cache. Cold: the
//!   system's caches are dropped after it.
//! - A key is drawn at random, and a new process is started that resumes from the checkpoint. The clock
//!   runs from there, so that it includes the start of the process, to the first new result of that key,
//!   which must be its checkpointed count plus one; and on to the full rate of updates of keys at random.
//!
//! Both processes are this program; they tell how far they are by lines on standard output.

mod child;

use crate::process::Teller;
use crate::scratch::ScratchFolder;
use crate::steered::{check_continued, keys_of, random};
use crate::{BenchError, Format, files, host, steered};
use child::Told;
use millstream_ops::{Interrupt, count, mebibytes};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub use child::{Role, serve};

/// What counts as full speed, as a part of the rate at the end.
const FULL_RATE_SHARE: f64 = 0.9;
/// The killed process has run on for up to so long after its checkpoint.
const RUN_ON_MAX_MILLIS: u64 = 1_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program.
    pub ours: PathBuf,
    /// Its arguments, with which it is started again in other roles.
    pub arguments: Vec<OsString>,
    /// Bytes of keys and values.
    pub state_bytes: u64,
    /// Whether caches are dropped before the restart.
    pub cold: bool,
    /// How long the restarted job is watched.
    pub watch: Duration,
    /// Where the job keeps its checkpoints, which must be empty; a folder that is removed if `None`.
    pub checkpoint_dir: Option<PathBuf>,
    /// Slots of the job.
    pub slots: u32,
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
    file_bytes: u64,
    first_result_ms: f64,
    full_rate_ms: f64,
    /// Events per second at the end.
    full_rate: f64,
    cold: bool,
    host: host::Host,
    /// Since the start of the process in milliseconds, and events until then.
    samples: Vec<(f64, u64)>,
}

/// Measures, and reports once.
///
/// # Errors
/// If a process fails, the first result is not the one that continues the checkpoint, or caches
/// cannot be dropped.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    let keys = keys_of(options.state_bytes)?;
    if options.cold {
        files::check_that_caches_can_be_dropped()?;
    }
    host::warn_if_busy();
    let scratch = match &options.checkpoint_dir {
        Some(_) => None,
        None => Some(ScratchFolder::create(None, "recovery")?),
    };
    let folder = match (&options.checkpoint_dir, &scratch) {
        (Some(folder), _) => folder.as_path(),
        (None, Some(scratch)) => scratch.path(),
        (None, None) => unreachable!("one of them was made"),
    };
    let mut arguments = options.arguments.clone();
    if scratch.is_some() {
        arguments.extend(["--checkpoint-dir".into(), folder.into()]);
    }

    eprintln!("a first process fills {} keys and takes a checkpoint", count(keys));
    let mut first = start(options, &arguments, &["--role", "build"])?;
    first.expect(interrupt, |told, _| (told == Told::Checkpointed).then_some(()))?;
    let file_bytes = match options.cold {
        false => files::read_all(folder)?,
        true => files::total_bytes(folder)?,
    };
    let run_on = Duration::from_millis(random() % RUN_ON_MAX_MILLIS);
    #[expect(clippy::disallowed_methods, reason = "it is to be killed at no moment in particular")]
    std::thread::sleep(run_on);
    drop(first);
    if options.cold {
        files::drop_caches()?;
    }
    let key = random() % keys;
    eprintln!(
        "it was killed {} ms later; a second one resumes from {}, {}",
        run_on.as_millis(),
        mebibytes(file_bytes),
        if options.cold { "caches dropped" } else { "read into the page cache" }
    );

    let begun = Instant::now();
    let probe = key.to_string();
    let arguments_of_second = ["--resume", "--role", "resume", "--probe", &probe];
    let mut second = start(options, &arguments, &arguments_of_second)?;
    let millis = |at: Instant| at.saturating_duration_since(begun).as_secs_f64() * 1e3;
    let mut samples = Vec::new();
    let (first_result, counted) = second.expect(interrupt, |told, at| match told {
        Told::Result { count } => Some((millis(at), count)),
        _ => None,
    })?;
    check_continued(key, counted)?;
    second.expect(interrupt, |told, at| match told {
        Told::Events { events } => {
            samples.push((millis(at), events));
            None
        }
        Told::Done => Some(()),
        _ => None,
    })?;
    drop(second);

    let Some((full_rate_ms, full_rate)) = full_rate(first_result, &samples) else {
        return Err(BenchError::Usage(
            "--watch: too short to see how fast the restarted job is; watch it for a second or more"
                .to_owned(),
        ));
    };
    let figures = Figures {
        benchmark: "recovery",
        slots: options.slots,
        keys,
        state_bytes: keys * steered::ENTRY_BYTES,
        file_bytes,
        first_result_ms: first_result,
        full_rate_ms,
        full_rate,
        cold: options.cold,
        host: host::Host::probe(),
        samples,
    };
    options.format.write(&figures, || figures.text())
}

/// When the job first was at full rate, in milliseconds, and that rate per second: the median of the
/// last third.
fn full_rate(first_result: f64, samples: &[(f64, u64)]) -> Option<(f64, f64)> {
    let mut before = (first_result, 0);
    let mut rates = Vec::new();
    for &(at, events) in samples {
        let (millis, new) = (at - before.0, events.saturating_sub(before.1));
        if millis > 0.0 {
            rates.push((at, new as f64 / millis * 1e3));
            before = (at, events);
        }
    }
    let mut last: Vec<f64> = rates[rates.len() * 2 / 3..].iter().map(|(_, rate)| *rate).collect();
    last.sort_by(f64::total_cmp);
    let full = *last.get(last.len() / 2)?;
    let (at, _) = rates.iter().find(|(_, rate)| *rate >= FULL_RATE_SHARE * full)?;
    Some((*at, full))
}

/// Starts one of the processes.
fn start(
    options: &Options,
    arguments: &[OsString],
    more: &[&str],
) -> Result<Teller<Told>, BenchError> {
    let mut command = Command::new(&options.ours);
    command.args(arguments).args(more);
    Teller::start(command, "the job's process")
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{} of state ({} in files), {} slots, {}\n\
             first result {:.0} ms after the start of the process, full rate ({} M/s) after {:.0} ms",
            mebibytes(self.state_bytes),
            mebibytes(self.file_bytes),
            self.slots,
            if self.cold {
                "cold: caches dropped"
            } else {
                "warm: its files had been read into the page cache"
            },
            self.first_result_ms,
            crate::report::millions(self.full_rate),
            self.full_rate_ms,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_rate_is_that_of_the_end() {
        // 10, 50, then 100 events per millisecond.
        let samples = [
            (120.0, 200),
            (140.0, 1_200),
            (160.0, 3_200),
            (180.0, 5_200),
            (200.0, 7_200),
            (220.0, 9_200),
        ];
        assert_eq!(full_rate(100.0, &samples), Some((160.0, 100_000.0)));
        assert_eq!(full_rate(100.0, &[]), None);
    }
}
