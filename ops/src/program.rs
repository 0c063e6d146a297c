//! A program of one job.

use crate::{Exit, Interrupt, JobArgs, LogArgs, MetricsServer, Summary};
use clap::{Args, CommandFactory, FromArgMatches, Parser};
use millstream::{BoxError, Environment, JobError, JobResult};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    about = None,
    after_help = "Settings are taken from defaults, then the file of --config, then MILLSTREAM_* \
                  variables (MILLSTREAM_SLOTS=2), then flags; the last wins.\n\n\
                  Exit codes: 0 all went well, 1 the job failed, 2 what was asked for cannot be \
                  done, 130 cancelled by a signal, 141 the reader of standard output has gone."
)]
struct Program<A: Args> {
    #[command(flatten)]
    own: A,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args)]
struct NoFlags {}

/// The whole `main` of a program of one job: reads flags, executes what `describe` adds to the
/// environment, and prints a summary to standard error.
///
/// Exit codes: 0 if all went well, 1 if the job failed, 2 if what was asked for cannot be done, 130
/// if Ctrl-C or SIGTERM cancelled it, 141 if whoever read the output has gone.
pub fn run(name: &str, describe: impl FnOnce(&Environment)) -> ExitCode {
    run_with(name, &format!("The job \"{name}\""), |env, NoFlags {}| describe(env))
}

/// As [`run`], for a program with flags `A` of its own beside those that every job has. `about` is
/// what `--help` says of it.
pub fn run_with<A: Args>(
    name: &str,
    about: &str,
    describe: impl FnOnce(&Environment, A),
) -> ExitCode {
    let matches = Program::<A>::command().about(about.to_owned()).get_matches();
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

impl<A: Args> Program<A> {
    fn execute(self, name: &str, describe: impl FnOnce(&Environment, A)) -> Result<Exit, BoxError> {
        let env = Environment::new(self.job.config()?);
        let metrics = self.job.serve_metrics()?;
        let interrupt = Interrupt::install();
        describe(&env, self.own);
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
