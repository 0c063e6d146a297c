//! A program of one job that has flags of its own.

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use millstream::{BoxError, Environment};
use millstream_ops::{Exit, Interrupt, JobArgs, LogArgs, Summary};
use std::path::PathBuf;
use std::process::ExitCode;

/// What a program reads, for those that can read anything: `[PATH]`.
#[derive(Args, Clone, Debug)]
pub struct Input {
    /// A file, a folder or a quoted pattern; .gz and .zst are unpacked [default: standard input]
    #[arg(default_value = "/dev/stdin", hide_default_value = true)]
    pub path: PathBuf,
}

#[derive(Parser)]
#[command(
    about = None,
    after_help = "Exit codes: 0 all went well, 1 the job failed, 2 what was asked for cannot be \
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

/// As [`millstream_ops::run`], with flags `A` beside those that every job has: the whole `main`.
///
/// Executes what `describe` makes of the environment and the flags, prints a summary to standard
/// error, and returns the exit code.
pub fn run<A: Args>(name: &str, about: &str, describe: impl FnOnce(&Environment, A)) -> ExitCode {
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
        let result = millstream_ops::execute(env, name, metrics.as_ref(), &interrupt)?;
        eprint!("{}", Summary::new(name, &result));
        Ok(Exit::of_status(result.status))
    }
}
