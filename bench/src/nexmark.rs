//! The Nexmark queries over full, string-carrying events, timed.

use crate::report::millions;
use crate::{BenchError, Destination, Format, Session, destination, generate};
use millstream::connector::Sink;
use millstream::{Config, Environment, JobStatus};
use millstream_connectors::{FileSink, FileSource, JsonLines, TextEncoder};
use millstream_ops::{Summary, Usage, count, mebibytes, reset_peak_resident};
use millstream_workloads::nexmark::{self, Event, Outcome, Query, RowsTo, Settings};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Events that are made if no number and no file is given.
pub const EVENTS_DEFAULT: u64 = 1_000_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The query.
    pub query: Query,
    /// Events to read: the first so many of the file; or to make.
    pub events: Option<u64>,
    /// JSON lines to read instead of events that are made.
    pub input: Option<PathBuf>,
    /// Where to write the rows of the last run. A file is written through the exactly-once file sink: a
    /// job with checkpoints that is killed and resumed ends with the same rows.
    pub output: Option<Destination>,
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
    query: &'static str,
    events: u64,
    slots: u32,
    seconds: f64,
    events_per_second: f64,
    cpu_seconds: f64,
    rows_out: u64,
    peak_rss_bytes: u64,
    /// The checkpoint that the run began with.
    restored_checkpoint: Option<u64>,
}

/// Runs a query and reports each run.
///
/// # Errors
/// If the input cannot be had, a run fails, or the output cannot be written.
pub fn run(options: &Options, session: &Session) -> Result<(), BenchError> {
    session.check_runs(options.runs + options.warm_ups)?;
    if session.config.checkpoint_dir().is_some() {
        check_durable(options)?;
    }
    // Before any work, so that an output that cannot be written is known at once.
    let mut output = options.output.as_ref().map(Output::open).transpose()?;
    let events: Arc<[Event]> = load(options, session)?.into();
    for _ in 0..options.warm_ups {
        once(options.query, &events, session, None)?;
    }
    for run in 1..=options.runs {
        let output = output.take_if(|_| run == options.runs);
        reset_peak_resident();
        let Outcome { result, rows_out, events: read, .. } =
            once(options.query, &events, session, output)?;
        let seconds = result.elapsed.as_secs_f64();
        let figures = Figures {
            benchmark: "nexmark",
            query: options.query.name(),
            events: read,
            slots: session.config.slots(),
            seconds,
            events_per_second: read as f64 / seconds,
            cpu_seconds: result.cpu.as_secs_f64(),
            rows_out,
            peak_rss_bytes: Usage::now().resident_bytes_peak,
            restored_checkpoint: result.restored_checkpoint.map(|checkpoint| checkpoint.0),
        };
        options.format.write(&figures, || figures.text())?;
        if result.status == JobStatus::Stopped {
            eprintln!("stopped before the end, with a checkpoint; go on with --resume");
        }
        eprint!("{}", Summary::new(options.query.name(), &result));
    }
    Ok(())
}

/// Rows that are written again after a restart must go where they can.
fn check_durable(options: &Options) -> Result<(), BenchError> {
    match options.output.as_ref().map(Destination::is_file) {
        Some(false) => Err(BenchError::Usage(
            "--output: with --checkpoint-dir the rows must go to a file, which alone can be resumed"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Where rows go.
enum Output {
    File(FileSink<TextEncoder>),
    /// Standard output, a device or a pipe: takes them when the job has ended.
    Stream(Box<destination::Output>),
}

impl Output {
    fn open(destination: &Destination) -> Result<Self, BenchError> {
        Ok(match destination {
            Destination::File(path) if destination.is_file() => {
                let sink = FileSink::new(path, TextEncoder);
                Sink::<String>::validate(&sink).map_err(BenchError::Output)?;
                Self::File(sink)
            }
            _ => Self::Stream(Box::new(destination.create()?)),
        })
    }
}

fn once(
    query: Query,
    events: &Arc<[Event]>,
    session: &Session,
    output: Option<Output>,
) -> Result<Outcome, BenchError> {
    session.check()?;
    let config = session.config.clone();
    let mut outcome = match output {
        None => nexmark::run(query, Arc::clone(events), config, RowsTo::Discard)?,
        Some(Output::File(sink)) => nexmark::write(query, events, config, sink)?,
        Some(Output::Stream(mut stream)) => {
            let mut outcome = nexmark::run(query, Arc::clone(events), config, RowsTo::Collect)?;
            outcome.result = session.accept(query.name(), outcome.result)?;
            for row in std::mem::take(&mut outcome.rows) {
                stream.write(row.as_bytes())?;
                stream.write(b"\n")?;
            }
            stream.commit()?;
            return Ok(outcome);
        }
    };
    outcome.result = session.accept(query.name(), outcome.result)?;
    Ok(outcome)
}

fn load(options: &Options, session: &Session) -> Result<Vec<Event>, BenchError> {
    let Some(path) = &options.input else {
        let wanted = options.events.unwrap_or(EVENTS_DEFAULT);
        return generate::to_memory(Settings::default(), wanted, &session.interrupt);
    };
    let events = read(path, options.events, session)?;
    let present = events.len() as u64;
    if present == 0 {
        return Err(BenchError::Usage(format!(
            "{}: holds no events; `millstream generate nexmark` writes some",
            path.display()
        )));
    }
    if let Some(wanted) = options.events.filter(|wanted| *wanted > present) {
        eprintln!(
            "warning: {} holds {} events, not {}",
            path.display(),
            count(present),
            count(wanted)
        );
    }
    Ok(events)
}

/// Reads a file's first events, with a job of its own.
fn read(path: &Path, limit: Option<u64>, session: &Session) -> Result<Vec<Event>, BenchError> {
    let mut source = FileSource::new(path, JsonLines::<Event>::new()).in_order();
    if let Some(limit) = limit {
        source = source.limit(limit);
    }
    // Neither paced nor durable: it is not what is measured.
    let env = Environment::new(Config::default().with_slots(session.config.slots()));
    let events = env.from_source("events", source).collect();
    session.execute(env, "read events")?;
    Ok(events.take())
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{:<13} {} slots  {} events in {:.4} s = {} M/s, CPU {:.4} s, {} rows, {} at most{}",
            self.query,
            self.slots,
            count(self.events),
            self.seconds,
            millions(self.events_per_second),
            self.cpu_seconds,
            count(self.rows_out),
            mebibytes(self.peak_rss_bytes),
            self.restored_checkpoint
                .map_or_else(String::new, |checkpoint| format!(", from checkpoint {checkpoint}")),
        )
    }
}
