//! The store `segments` alone: read-modify-write per second, in batches with look-ahead, against a loop
//! written by hand over the same structure and against an LSM tree; and a keyed count through the engine
//! against the store.
//!
//! # How it is measured
//! - Each side is a process of its own, which fills itself with all keys and is told when to run. They
//!   take turns (A B A B) over the same keys in the same order.
//! - An operation adds one to a counter at the beginning of a key's value. All sides but the LSM tree, which
//!   does fewer, must come to the same counts. Through the engine the counter is the value.
//! - With a limit of memory, the store and the LSM tree are run alone, each in a group of processes of
//!   its own that may use no more, page cache included; the store is given `STORE_SHARE` of it and
//!   the cache of the LSM tree `LSM_CACHE_SHARE`.
//! - The loop written by hand is the yardstick. If it is slower than on the machine on which its
//!   own figures were taken, by more than `HANDWRITTEN_SHARE_MIN`, something disturbed it, and the
//!   comparison is void.

mod by_hand;
mod engine;
#[cfg(feature = "fjall")]
mod fjall;
mod keys;
mod segments;

use crate::interactive::{self, Answer};
use crate::limit::{self, MemoryLimit};
use crate::process::Program;
use crate::report::millions;
use crate::scratch::ScratchFolder;
use crate::statistics::Spread;
use crate::{BenchError, Format, host};
use by_hand::ByHand;
use engine::Engine;
use millstream_ops::{Interrupt, count};
use millstream_runtime::job::process_cpu_time;
use segments::Segments;
use serde::Serialize;
use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

pub(crate) use keys::mix;
pub use keys::{Distribution, UnknownDistribution};

/// Keys that are handed over at once.
const BATCH: usize = 1024;
/// One operation of the LSM tree for so many of the others: it takes about so much longer.
const LSM_SHARE: u64 = 100;
/// The same where memory is limited, so that both wait for the disk.
const LSM_SHARE_LIMITED: u64 = 10;
/// What of a limit of memory is for the store. The rest is the process', its input above all.
const STORE_SHARE: f64 = 0.6;
/// What of it is for the cache of the LSM tree, which needs more beside it: with the share of the store
/// it is killed.
#[cfg(feature = "fjall")]
const LSM_CACHE_SHARE: f64 = 0.4;
/// The least share of its figure that the loop written by hand must come to.
const HANDWRITTEN_SHARE_MIN: f64 = 0.7;
/// What the loop written by hand does with values of 16 bytes, in operations per second: by number of keys,
/// with uniform and skewed draws. One core of an AMD EPYC (Zen 3), 2026.
const HANDWRITTEN_FIGURES: [(u64, [f64; 2]); 3] =
    [(1_000_000, [22e6, 47e6]), (10_000_000, [23e6, 34e6]), (50_000_000, [19e6, 24e6])];
const HANDWRITTEN_VALUE_BYTES: usize = 16;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, which is started again for each side.
    pub ours: PathBuf,
    /// Different keys, which all exist before the clock starts.
    pub keys: u64,
    /// How keys are drawn.
    pub distribution: Distribution,
    /// Bytes of a value, at least 8.
    pub value_bytes: usize,
    /// Operations of a run.
    pub operations: u64,
    /// Runs of each side.
    pub runs: u32,
    /// The most memory of a side, in bytes.
    pub memory_bytes: Option<u64>,
    /// For a side: the list of processes that it has to join.
    pub group: Option<PathBuf>,
    /// Where the LSM tree may keep its files; the system's folder for temporary files if `None`.
    pub data: Option<PathBuf>,
    /// How figures are written.
    pub format: Format,
}

/// One of the programs that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The store.
    Segments,
    /// The loop written by hand.
    Handwritten,
    /// A keyed count through the engine.
    Engine,
    /// The LSM tree.
    Fjall,
}

impl Side {
    /// All that this program was built with.
    pub const ALL: &[Self] = &[
        Self::Handwritten,
        Self::Segments,
        Self::Engine,
        #[cfg(feature = "fjall")]
        Self::Fjall,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Handwritten => "handwritten",
            Self::Engine => "engine",
            Self::Fjall => "fjall",
        }
    }

    fn operations(self, options: &Options) -> u64 {
        match self {
            Self::Segments | Self::Handwritten | Self::Engine => options.operations,
            Self::Fjall if options.memory_bytes.is_some() => {
                (options.operations / LSM_SHARE_LIMITED).max(1)
            }
            Self::Fjall => (options.operations / LSM_SHARE).max(1),
        }
    }

    /// Those that can be run under a limit of memory have files.
    fn runs_with(self, options: &Options) -> bool {
        options.memory_bytes.is_none() || matches!(self, Self::Segments | Self::Fjall)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Side {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|side| side.name() == name);
        found.ok_or_else(|| format!("there is no side \"{name}\" in this program"))
    }
}

/// What a comparison came to, as others script against it.
#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    keys: u64,
    distribution: &'static str,
    value_bytes: usize,
    ops: u64,
    memory_bytes: Option<u64>,
    ops_per_second: f64,
    handwritten_ops_per_second: Option<f64>,
    fjall_ops_per_second: Option<f64>,
    engine_ops_per_second: Option<f64>,
    /// Of pairs of runs: ours through the other.
    handwritten_ratio: Option<Spread>,
    fjall_ratio: Option<Spread>,
    /// The engine through the store.
    engine_ratio: Option<Spread>,
    /// How often the store's thread has waited for the disk, in each run.
    major_faults: Vec<u64>,
    /// What the loop written by hand does elsewhere, if it is known for such keys and values.
    handwritten_expected: Option<f64>,
    void: bool,
    host: host::Host,
    samples: Samples,
}

/// Operations per second of each run.
#[derive(Default, Serialize)]
struct Samples {
    segments: Vec<f64>,
    handwritten: Vec<f64>,
    engine: Vec<f64>,
    fjall: Vec<f64>,
}

impl Samples {
    fn of(&mut self, side: Side) -> &mut Vec<f64> {
        match side {
            Side::Segments => &mut self.segments,
            Side::Handwritten => &mut self.handwritten,
            Side::Engine => &mut self.engine,
            Side::Fjall => &mut self.fjall,
        }
    }
}

/// Compares, and reports once.
///
/// # Errors
/// If a side fails, or two come to different counts (after the report).
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    host::warn_if_busy();
    let scratch = ScratchFolder::create(options.data.as_deref(), "state")?;
    eprintln!("filling each side with {} keys", count(options.keys));
    // Dropped after the programs that are in them.
    let mut groups = Vec::new();
    let mut programs = Vec::new();
    for side in Side::ALL.iter().copied().filter(|side| side.runs_with(options)) {
        let mut command = command(options, side, scratch.path());
        if let Some(bytes) = options.memory_bytes {
            let group = MemoryLimit::new(side.name(), bytes)?;
            command.arg("--memory").arg(format!("{bytes}")).arg("--group").arg(group.processes());
            groups.push(group);
        }
        programs.push((side, Program::start(command, side.name())?));
    }
    // The first pass answers when its side is filled, and is not counted.
    for (_, program) in &mut programs {
        program.pass(interrupt)?;
    }
    let mut samples = Samples::default();
    let mut major_faults = Vec::new();
    let mut different = None;
    for run in 1..=options.runs {
        let mut sums = Vec::new();
        for (side, program) in &mut programs {
            let answer = program.pass(interrupt)?;
            samples.of(*side).push(answer.events as f64 / answer.seconds);
            major_faults.extend(answer.major_faults);
            if *side != Side::Fjall {
                sums.push(answer.checksum);
            }
        }
        if sums.windows(2).any(|pair| pair[0] != pair[1]) {
            different.get_or_insert_with(|| {
                format!("in run {run} not all came to the same counts: {sums:?}")
            });
        }
    }
    drop(programs);
    let figures = Figures::new(options, samples, major_faults);
    options.format.write(&figures, || figures.text())?;
    different.map_or(Ok(()), |text| Err(BenchError::Different(text)))
}

fn command(options: &Options, side: Side, scratch: &Path) -> Command {
    let mut command = Command::new(&options.ours);
    command
        .args(["bench", "state", "--side", side.name()])
        .args(["--keys", &options.keys.to_string()])
        .args(["--distribution", options.distribution.name()])
        .args(["--value-size", &options.value_bytes.to_string()])
        .args(["--ops", &options.operations.to_string()])
        .arg("--data")
        .arg(scratch);
    command
}

/// Is one side: fills itself, then runs once for each line on standard input; see [`interactive`].
///
/// # Errors
/// If the store fails, or requests or answers cannot pass.
pub fn serve(side: Side, options: &Options) -> Result<(), BenchError> {
    let Options { keys, value_bytes, memory_bytes, .. } = *options;
    if let Some(group) = &options.group {
        limit::join(group)?;
    }
    let folder = options.data.as_deref().unwrap_or(Path::new("."));
    let share = |of: f64| memory_bytes.map(|bytes| (bytes as f64 * of) as u64);
    match side {
        Side::Handwritten => {
            let mut by_hand = ByHand::new(keys, value_bytes);
            serve_batches(side, options, |keys| Ok(by_hand.batch(keys)), || None)
        }
        Side::Segments => {
            let folder = folder.join("segments");
            let limit = share(STORE_SHARE).map(|bytes| (folder.as_path(), bytes));
            let segments = RefCell::new(Segments::new(value_bytes, limit)?);
            let faults = || limit.map(|_| segments.borrow().major_faults());
            serve_batches(side, options, |keys| Ok(segments.borrow_mut().batch(keys)?), faults)
        }
        Side::Engine => {
            let mut engine = Engine::new()?;
            engine.pass(keys::all(keys).collect())?;
            let draws = keys::draw(keys, options.distribution, side.operations(options));
            serve_passes(options, || {
                // The copy is not part of what is timed.
                let pass = draws.clone();
                let start = Instant::now();
                let sum = engine.pass(pass)?;
                let took = start.elapsed();
                Ok(Pass { sum, operations: draws.len(), took, faults: None })
            })
        }
        #[cfg(feature = "fjall")]
        Side::Fjall => {
            // Room for all: blocks hold more than keys and values, by about a half.
            let limit = share(LSM_CACHE_SHARE);
            let cache = limit.unwrap_or(keys * (value_bytes as u64 + 32) * 3 / 2);
            let folder = folder.join("fjall");
            let mut fjall = fjall::Fjall::new(&folder, cache, limit.is_some(), value_bytes)?;
            serve_batches(side, options, |keys| fjall.batch(keys), || None)
        }
        #[cfg(not(feature = "fjall"))]
        Side::Fjall => Err(BenchError::Usage("this program was built without fjall".to_owned())),
    }
}

/// `batch` adds one to the counters of some keys and returns the sum of the new ones; `faults` counts how
/// often it has waited for the disk.
fn serve_batches(
    side: Side,
    options: &Options,
    mut batch: impl FnMut(&[u64]) -> Result<u64, BenchError>,
    faults: impl Fn() -> Option<u64>,
) -> Result<(), BenchError> {
    let draws = keys::draw(options.keys, options.distribution, side.operations(options));
    let mut all = keys::all(options.keys).peekable();
    while all.peek().is_some() {
        let keys: Vec<u64> = all.by_ref().take(BATCH).collect();
        batch(&keys)?;
    }
    serve_passes(options, || {
        let (start, before) = (Instant::now(), faults());
        let mut sum = 0_u64;
        for keys in draws.chunks(BATCH) {
            sum = sum.wrapping_add(batch(keys)?);
        }
        let faults = faults().zip(before).map(|(now, before)| now - before);
        Ok(Pass { sum, operations: draws.len(), took: start.elapsed(), faults })
    })
}

/// What a pass over the draws came to.
struct Pass {
    sum: u64,
    operations: usize,
    took: Duration,
    faults: Option<u64>,
}

fn serve_passes(
    options: &Options,
    mut pass: impl FnMut() -> Result<Pass, BenchError>,
) -> Result<(), BenchError> {
    interactive::serve(|| {
        let cpu = process_cpu_time();
        let Pass { sum, operations, took, faults } = pass()?;
        Ok(Answer {
            seconds: took.as_secs_f64(),
            cpu_seconds: process_cpu_time().saturating_sub(cpu).as_secs_f64(),
            events: operations as u64,
            rows_out: options.keys,
            checksum: format!("{sum:016x}"),
            major_faults: faults,
        })
    })
}

/// What the loop written by hand should come to: its figure for the number of keys next to this one, if
/// that is not more than twice away.
fn expected(options: &Options) -> Option<f64> {
    let distance = |keys: u64| (keys as f64 / options.keys as f64).log2().abs();
    let (_, figures) = HANDWRITTEN_FIGURES
        .iter()
        .filter(|(keys, _)| distance(*keys) <= 1.0)
        .min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)))?;
    (options.value_bytes == HANDWRITTEN_VALUE_BYTES).then(|| match options.distribution {
        Distribution::Uniform => figures[0],
        Distribution::Zipf => figures[1],
    })
}

impl Figures {
    fn new(options: &Options, samples: Samples, major_faults: Vec<u64>) -> Self {
        let median = |samples: &[f64]| {
            (!samples.is_empty()).then(|| Spread::of(samples.iter().copied()).median)
        };
        let ratio = |of: &[f64], to: &[f64]| {
            let pairs = of.iter().zip(to);
            (!of.is_empty() && !to.is_empty()).then(|| Spread::of(pairs.map(|(a, b)| a / b)))
        };
        let handwritten = median(&samples.handwritten);
        let handwritten_expected = expected(options);
        Self {
            benchmark: "state",
            keys: options.keys,
            distribution: options.distribution.name(),
            value_bytes: options.value_bytes,
            ops: options.operations,
            memory_bytes: options.memory_bytes,
            ops_per_second: median(&samples.segments).unwrap_or(f64::NAN),
            handwritten_ops_per_second: handwritten,
            fjall_ops_per_second: median(&samples.fjall),
            engine_ops_per_second: median(&samples.engine),
            handwritten_ratio: ratio(&samples.segments, &samples.handwritten),
            fjall_ratio: ratio(&samples.segments, &samples.fjall),
            engine_ratio: ratio(&samples.engine, &samples.segments),
            major_faults,
            handwritten_expected,
            void: handwritten
                .zip(handwritten_expected)
                .is_some_and(|(rate, expected)| rate < HANDWRITTEN_SHARE_MIN * expected),
            host: host::Host::probe(),
            samples,
        }
    }

    fn text(&self) -> String {
        let Self { keys, distribution, value_bytes, ops, .. } = self;
        let mut text = format!(
            "{} keys {distribution}, values of {value_bytes} bytes, {} operations a run, {} runs",
            count(*keys),
            count(*ops),
            self.samples.segments.len(),
        );
        if let Some(bytes) = self.memory_bytes {
            text.push_str(&format!(", {} MiB of memory", bytes >> 20));
        }
        text.push_str(&format!("\nsegments         {} M/s", millions(self.ops_per_second)));
        if !self.major_faults.is_empty() {
            text.push_str(&format!(", waits for the disk in each run: {:?}", self.major_faults));
        }
        let mut line = |name: &str, rate: Option<f64>, of: &str, ratio: Option<Spread>| {
            if let (Some(rate), Some(Spread { median, min, max })) = (rate, ratio) {
                text.push_str(&format!(
                    "\n{name:<16} {} M/s, {of} {median:.2} ({min:.2} to {max:.2})",
                    millions(rate)
                ));
            }
        };
        let (by_hand, fjall) = (self.handwritten_ops_per_second, self.fjall_ops_per_second);
        line("written by hand", by_hand, "segments through it", self.handwritten_ratio);
        line("fjall", fjall, "segments through it", self.fjall_ratio);
        line("engine", self.engine_ops_per_second, "it through segments", self.engine_ratio);
        match self.handwritten_expected {
            Some(expected) if self.void => text.push_str(&format!(
                "\nVOID: the loop written by hand does {} M/s on an idle machine; here it came to less \
                 than {:.0} % of that",
                millions(expected),
                HANDWRITTEN_SHARE_MIN * 100.0
            )),
            Some(_) => {}
            None if by_hand.is_none() => {}
            None => text.push_str(
                "\nwhat the loop written by hand should come to is not known for such keys and values",
            ),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keys: u64, value_bytes: usize) -> Options {
        Options {
            ours: PathBuf::new(),
            keys,
            distribution: Distribution::Zipf,
            value_bytes,
            operations: 10,
            runs: 1,
            memory_bytes: None,
            group: None,
            data: None,
            format: Format::Json,
        }
    }

    fn figures(rate: f64) -> Figures {
        let (segments, handwritten) = (vec![20e6, 10e6], vec![rate, rate]);
        let samples = Samples { segments, handwritten, ..Samples::default() };
        Figures::new(&options(9_000_000, 16), samples, Vec::new())
    }

    #[test]
    fn the_yardstick_is_known_for_some_keys_and_values() {
        assert_eq!(expected(&options(9_000_000, 16)), Some(34e6));
        assert_eq!(expected(&options(2_000_000, 16)), Some(47e6));
        assert_eq!(expected(&options(1_000, 16)), None);
        assert_eq!(expected(&options(9_000_000, 24)), None);
    }

    #[test]
    fn a_slow_yardstick_makes_the_comparison_void() {
        assert!(figures(23e6).void && figures(23e6).text().contains("VOID"));
        assert!(!figures(25e6).void);
        let ratio = figures(40e6).handwritten_ratio.unwrap();
        assert_eq!(ratio, Spread { median: 0.375, min: 0.25, max: 0.5 });
        assert!(figures(40e6).fjall_ratio.is_none());
    }
}
