//! Latency under a steady rate, in an open loop.
//!
//! # How it is measured
//! - Record `n` is due at `start + n / rate`, whatever the job does (no coordinated omission). What
//!   counts is the time from there to the sink, so that a source which falls behind shows.
//! - The first [`WARM_UP`] is not recorded.
//! - For the windowed workloads, event time advances by a second per 10,000 events, as in the input
//!   of the throughput workloads; a result's latency is from when the first event behind its
//!   window was due, which is what lets the window complete.

mod clock;
mod hiccups;
mod histogram;
mod plot;
mod sink;
mod workload;

use crate::{BenchError, Destination, Format, Session, host};
use clock::JobClock;
use hdrhistogram::Histogram;
pub(crate) use hiccups::{Ticks, measure as measure_hiccups};
pub(crate) use histogram::Percentiles;
use millstream_ops::{Summary, count};
use serde::Serialize;
use sink::Recording;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use workload::{UnknownWorkload, Workload};

/// The beginning that is not recorded.
pub const WARM_UP: Duration = Duration::from_secs(2);

/// How much longer than planned a run that kept up may have taken: results are on their way for a
/// while, and the machine has pauses.
const DELAY_MAX: Duration = Duration::from_millis(100);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The workload.
    pub workload: Workload,
    /// Events per second, over all subtasks.
    pub rate: u64,
    /// How long events are emitted, the warm-up included.
    pub duration: Duration,
    /// Whether the machine's own pauses are measured afterwards, for as long.
    pub hiccups: bool,
    /// The folder to write the distribution and a plot to.
    pub out: Option<PathBuf>,
    /// How figures are written.
    pub format: Format,
}

/// One run, as others script against it.
#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    workload: &'static str,
    rate: u64,
    duration_seconds: f64,
    slots: u32,
    samples: u64,
    #[serde(flatten)]
    latency: Percentiles,
    sustained: bool,
    seconds: f64,
    cpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hiccups: Option<Percentiles>,
}

/// Measures, and reports one run.
///
/// # Errors
/// If the options make no sense, the job fails, or files cannot be written.
pub fn run(options: &Options, session: &Session) -> Result<(), BenchError> {
    if options.duration <= WARM_UP {
        return Err(BenchError::Usage(format!(
            "--duration: the first {WARM_UP:?} are not recorded; measure for longer, for example 20s"
        )));
    }
    if let Some(folder) = &options.out {
        std::fs::create_dir_all(folder).map_err(|source| {
            BenchError::write(&folder.display().to_string(), "make the folder", source)
        })?;
    }
    host::warn_if_busy();
    let events = (options.rate as f64 * options.duration.as_secs_f64()) as u64;
    let recording = Recording::new(JobClock::default(), options.rate, events);
    let env = session.environment();
    workload::describe(&env, options.workload, options.rate, events, &recording);
    let result = session.execute(env, options.workload.name())?;
    let latency = recording.into_histogram();
    if latency.is_empty() {
        return Err(BenchError::Usage(format!(
            "no result came after the warm-up of {WARM_UP:?}; raise --duration or --rate ({} gives \
             one result per window)",
            options.workload
        )));
    }
    let hiccups = match options.hiccups {
        true => Some(measure_hiccups(
            Ticks {
                rate: options.rate,
                slots: session.config.slots(),
                duration: options.duration - WARM_UP,
            },
            &session.interrupt,
        )?),
        false => None,
    };

    let late = result.elapsed.saturating_sub(options.duration);
    let figures = Figures {
        benchmark: "latency",
        workload: options.workload.name(),
        rate: options.rate,
        duration_seconds: options.duration.as_secs_f64(),
        slots: session.config.slots(),
        samples: latency.len(),
        latency: Percentiles::of(&latency),
        sustained: late <= DELAY_MAX.max(options.duration / 100),
        seconds: result.elapsed.as_secs_f64(),
        cpu_seconds: result.cpu.as_secs_f64(),
        hiccups: hiccups.as_ref().map(Percentiles::of),
    };
    if let Some(folder) = &options.out {
        write_files(folder, options, session.config.slots(), &latency, hiccups.as_ref())?;
    }
    options.format.write(&figures, || figures.text())?;
    eprint!("{}", Summary::new(options.workload.name(), &result));
    Ok(())
}

fn write_files(
    folder: &Path,
    options: &Options,
    slots: u32,
    latency: &Histogram<u64>,
    hiccups: Option<&Histogram<u64>>,
) -> Result<(), BenchError> {
    let name = format!("latency-{}-{}-{slots}slots", options.workload, options.rate);
    let write = |name: String, text: String| {
        let mut output = Destination::File(folder.join(name)).create()?;
        output.write(text.as_bytes())?;
        output.commit()
    };
    write(format!("{name}.hgrm"), histogram::distribution(latency))?;
    let mut curves = vec![(options.workload.name(), latency)];
    if let Some(hiccups) = hiccups {
        write(format!("{name}-hiccups.hgrm"), histogram::distribution(hiccups))?;
        curves.push(("the machine alone", hiccups));
    }
    let rate = count(options.rate);
    let title = format!("{} at {rate}/s, {slots} slots: latency", options.workload);
    write(format!("{name}.svg"), plot::svg(&title, &curves))
}

impl Figures {
    fn text(&self) -> String {
        let mut text = format!(
            "{} {} slots, {}/s for {} s{}, {} samples\n{}",
            self.workload,
            self.slots,
            count(self.rate),
            self.duration_seconds,
            if self.sustained { "" } else { ": NOT SUSTAINED" },
            count(self.samples),
            self.latency,
        );
        if let Some(hiccups) = &self.hiccups {
            text.push_str(&format!("\nthe machine alone\n{hiccups}"));
        }
        text
    }
}
