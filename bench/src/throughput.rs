//! The throughput workloads, timed.

use crate::report::millions;
use crate::{BenchError, Format, Session, interactive};
use millstream_ops::{Interrupt, Summary, Usage, count, mebibytes, reset_peak_resident};
use millstream_workloads::throughput::data::{self, EVENTS_DEFAULT};
use millstream_workloads::throughput::{Input, Outcome, Workload, run as run_workload};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The workload.
    pub workload: Workload,
    /// Events to read; a default number if `None`. Without meaning for a workload that reads text.
    pub events: Option<usize>,
    /// The folder of the input files, which are written if they are not there.
    pub data: PathBuf,
    /// Runs before those that count.
    pub warm_ups: u32,
    /// Runs that count.
    pub runs: u32,
    /// How figures are written.
    pub format: Format,
}

/// One run, as others script against it.
#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    workload: &'static str,
    events: u64,
    slots: u32,
    seconds: f64,
    events_per_second: f64,
    cpu_seconds: f64,
    rows_out: u64,
    checksum: String,
    peak_rss_bytes: u64,
}

/// Runs a workload and reports each run.
///
/// # Errors
/// If the input cannot be had or a run fails.
pub fn run(options: &Options, session: &Session) -> Result<(), BenchError> {
    session.check_runs(options.runs + options.warm_ups)?;
    let input = load(options.workload, options.events, &options.data, &session.interrupt)?;
    let events = input.events();
    for _ in 0..options.warm_ups {
        once(options.workload, input, session)?;
    }
    for _ in 0..options.runs {
        reset_peak_resident();
        let Outcome { result, checksum } = once(options.workload, input, session)?;
        let seconds = result.elapsed.as_secs_f64();
        let figures = Figures {
            benchmark: "throughput",
            workload: options.workload.name(),
            events,
            slots: session.config.slots(),
            seconds,
            events_per_second: events as f64 / seconds,
            cpu_seconds: result.cpu.as_secs_f64(),
            rows_out: checksum.results(),
            checksum: checksum.to_string(),
            peak_rss_bytes: Usage::now().resident_bytes_peak,
        };
        options.format.write(&figures, || figures.text())?;
        eprint!("{}", Summary::new(options.workload.name(), &result));
    }
    Ok(())
}

/// Loads the input of a workload, then runs it once for each line on standard input; see
/// [`interactive`].
///
/// # Errors
/// If the input cannot be had or a run fails.
pub fn serve(options: &Options, session: &Session) -> Result<(), BenchError> {
    let input = load(options.workload, options.events, &options.data, &session.interrupt)?;
    let events = input.events();
    interactive::serve(|| {
        let Outcome { result, checksum } = once(options.workload, input, session)?;
        Ok(interactive::Answer {
            seconds: result.elapsed.as_secs_f64(),
            cpu_seconds: result.cpu.as_secs_f64(),
            events,
            rows_out: checksum.results(),
            checksum: checksum.to_string(),
            major_faults: None,
        })
    })
}

fn once(workload: Workload, input: Input, session: &Session) -> Result<Outcome, BenchError> {
    session.check()?;
    let Outcome { result, checksum } = run_workload(workload, input, session.config.clone())?;
    Ok(Outcome { result: session.accept(workload.name(), result)?, checksum })
}

/// Puts a workload's input into memory, for as long as the process lives.
pub(crate) fn load(
    workload: Workload,
    events: Option<usize>,
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<Input, BenchError> {
    ensure(workload, events, folder, interrupt)?;
    if workload.reads_text() {
        Ok(Input::Text(data::load_text(folder)?.leak()))
    } else {
        Ok(Input::Events(data::load_events(folder, events.unwrap_or(EVENTS_DEFAULT))?.leak()))
    }
}

/// Writes a workload's input file unless it is there, or a signal comes.
pub(crate) fn ensure(
    workload: Workload,
    events: Option<usize>,
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<(), BenchError> {
    let is_cancelled = || interrupt.is_raised();
    if workload.reads_text() {
        data::ensure_text(folder, &is_cancelled)?;
    } else {
        data::ensure_events(folder, events.unwrap_or(EVENTS_DEFAULT), &is_cancelled)?;
    }
    Ok(())
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{:<6} {} slots  {} events in {:.4} s = {} M/s, CPU {:.4} s, {} rows, check-sum {}, {} at most",
            self.workload,
            self.slots,
            count(self.events),
            self.seconds,
            millions(self.events_per_second),
            self.cpu_seconds,
            count(self.rows_out),
            self.checksum,
            mebibytes(self.peak_rss_bytes),
        )
    }
}
