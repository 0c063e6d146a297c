//! Runs the demo.

use crate::DemoError;
use crate::board::Board;
use crate::event::Row;
use crate::input::{EventSource, FileFormat};
use crate::job::{self, Results};
use crate::options::{DemoOptions, Plan};
use crate::service::ServiceSource;
use crate::view::{self, Ended, Live, Plain, Watched};
use millstream::{Config, Environment, JobResult};
use millstream_connectors::{CsvEncoder, FileSink, JsonEncoder, StdoutSink};
use millstream_ops::{Exit, Interrupt, MetricsServer, Summary};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "music service";

/// Runs the demo as its options say, to its end or until it is cancelled: shows what it finds on
/// standard output, and a summary on standard error.
///
/// # Errors
/// If the options contradict each other, the job cannot start or fails, or standard output cannot be
/// written; [`DemoError::exit`] says what that means for the program.
pub fn run(
    options: &DemoOptions,
    config: Config,
    metrics: Option<&MetricsServer>,
    interrupt: &Interrupt,
) -> Result<Exit, DemoError> {
    match options.plan()? {
        Plan::Run { source, out_of_order, live } => {
            show(source, out_of_order, live, config, metrics, interrupt)
        }
        Plan::Write { source, file, format } => {
            write(source, file, format, config, metrics, interrupt)
        }
    }
}

/// Describes the job over a source, with all results put on a board.
pub fn describe(env: &Environment, source: EventSource, out_of_order: Duration) -> Board {
    let board = Board::default();
    let events = env
        .from_source("events", source)
        .assign_timestamps(board.timestamps(out_of_order))
        .name("timestamps");
    let Results { top_lists, favourites, alarms, sessions } = job::describe(events);
    top_lists.sink_to("top lists", board.sink());
    favourites.sink_to("favourites", board.sink());
    alarms.sink_to("alarms", board.sink());
    sessions.sink_to("sessions", board.sink());
    board
}

fn show(
    source: EventSource,
    out_of_order: Duration,
    live: bool,
    config: Config,
    metrics: Option<&MetricsServer>,
    interrupt: &Interrupt,
) -> Result<Exit, DemoError> {
    let slots = config.slots();
    let pace = source.pace();
    let env = Environment::new(config);
    let board = describe(&env, source, out_of_order);
    let job = env.start(NAME)?;
    interrupt.cancel(job.canceller());
    if let Some(server) = metrics {
        server.watch(NAME, job.metrics());
    }
    let watched = Watched {
        metrics: job.metrics().clone(),
        board: board.clone(),
        pace,
        slots,
        started: Instant::now() - job.elapsed(),
        job: job.canceller(),
        interrupt: interrupt.clone(),
    };
    let live = live && is_interactive();
    let (result, ended) = thread::scope(|scope| {
        // Dropped when the job has ended, however it did: that is the news for the view.
        let (job_ends, job_ended) = channel();
        let watched = &watched;
        let view = scope.spawn(move || match live {
            true => Live::new(watched).run(&job_ended),
            false => Plain::new(watched).run(&job_ended),
        });
        let result = job.wait();
        drop(job_ends);
        let ended = view.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (result, ended)
    });
    // A job's failure tells more than what the view made of it.
    let result = result?;
    let ended = ended?;
    let lists = view::final_lists(&board.findings());
    if !lists.is_empty() {
        view::print(lists.trim_end())?;
    }
    summarise(&result);
    Ok(match ended {
        Ended::Quit => Exit::Success,
        Ended::Interrupted => Exit::Cancelled,
        Ended::WithTheJob => Exit::of_status(result.status),
    })
}

fn write(
    source: ServiceSource,
    file: Option<PathBuf>,
    format: FileFormat,
    config: Config,
    metrics: Option<&MetricsServer>,
    interrupt: &Interrupt,
) -> Result<Exit, DemoError> {
    let env = Environment::new(config);
    // One subtask writes one file, in the order in which the events arrive.
    let events = env.from_source("events", source).set_parallelism(1);
    let sink = match (file, format) {
        (Some(file), FileFormat::Json) => events.sink_to("file", FileSink::new(file, JsonEncoder)),
        (Some(file), FileFormat::Csv) => {
            events.map(Row::from).sink_to("file", FileSink::new(file, CsvEncoder::new()))
        }
        (None, FileFormat::Json) => events.sink_to("stdout", StdoutSink::json()),
        (None, FileFormat::Csv) => events.map(Row::from).sink_to("stdout", StdoutSink::csv()),
    };
    sink.uid("output");
    let result = millstream_ops::execute(env, "events", metrics, interrupt)?;
    eprint!("{}", Summary::new("events", &result));
    Ok(Exit::of_status(result.status))
}

fn summarise(result: &JobResult) {
    eprint!("{}", Summary::new(NAME, result));
}

/// Whether there is somebody to look and to press keys, on a terminal that can be drawn on.
fn is_interactive() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb
}
