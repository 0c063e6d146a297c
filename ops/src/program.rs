//! A program of one job.

use crate::{Exit, Interrupt, JobArgs, LogArgs, MetricsServer, Summary};
use clap::{CommandFactory, FromArgMatches, Parser};
use millstream::{BoxError, Environment, JobError, JobResult};
use std::process::ExitCode;

/// A Millstream job.
#[derive(Parser)]
#[command(
    about = None,
    after_help = "Settings are taken from defaults, then the file of --config, then MILLSTREAM_* \
                  variables (MILLSTREAM_SLOTS=2), then flags; the last wins."
)]
struct Program {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// The whole `main` of a program of one job: reads flags, executes what `describe` adds to the
/// environment, and prints a summary to standard error.
///
/// Exit codes: 0 if all went well, 1 if the job failed, 2 if what was asked for cannot be done, 130
/// if Ctrl-C or SIGTERM cancelled it, 141 if whoever read the output has gone.
pub fn run(name: &str, describe: impl FnOnce(&Environment)) -> ExitCode {
    let matches = Program::command().about(format!("The job \"{name}\"")).get_matches();
    let program = Program::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    program.log.init();
    let exit = program.execute(name, describe).unwrap_or_else(|error| {
        let exit = Exit::of_error(&error);
        if exit != Exit::OutputClosed {
            eprintln!("error: {error}");
        }
        exit
    });
    exit.into()
}

impl Program {
    fn execute(self, name: &str, describe: impl FnOnce(&Environment)) -> Result<Exit, BoxError> {
        let env = Environment::new(self.job.config()?);
        let metrics = self.job.serve_metrics()?;
        let interrupt = Interrupt::install();
        describe(&env);
        let result = execute(env, name, metrics.as_ref(), &interrupt)?;
        eprint!("{}", Summary::new(name, &result));
        Ok(Exit::of_status(result.status))
    }
}

/// Runs a job to its end, with its counters at `metrics` if given; signals cancel it.
///
/// # Errors
/// As [`Environment::execute`].
pub fn execute(
    env: Environment,
    name: &str,
    metrics: Option<&MetricsServer>,
    interrupt: &Interrupt,
) -> Result<JobResult, JobError> {
    let job = env.start(name)?;
    interrupt.cancel(job.canceller());
    if let Some(server) = metrics {
        server.watch(name, job.metrics());
    }
    job.wait()
}
