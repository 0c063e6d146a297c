//! The binary `millstream`.
//!
//! Exit codes: 0 if all went well, 1 if a job failed, 2 if what was asked for cannot be done, 130 if
//! Ctrl-C or SIGTERM cancelled it, 141 if whoever read standard output has gone.
#![forbid(unsafe_code)]

mod bench;
mod checkpoints;
mod client;
mod coordinator;
mod demo;
mod generate;
mod new;
mod settings_file;
mod worker;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use millstream_ops::{Exit, Interrupt, LogArgs};
use std::error::Error;
use std::process::ExitCode;

// What the peers that we compare with use, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Millstream, a stream processor.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
Begin with:
  millstream demo                              an online music service, live
  millstream new my-job                        a project of your own, with a word count in it
  millstream bench throughput --workload q5    how fast this machine counts auctions
  millstream COMMAND --help                    more about a command, with examples

Exit codes: 0 all went well, 1 a job failed, 2 what was asked for cannot be done,
130 cancelled by a signal, 141 the reader of standard output has gone."
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the main job: an online music service, live
    Demo(demo::DemoArgs),
    /// Make a project with a job in it
    New(new::NewArgs),
    /// Write made-up events to a file
    Generate {
        #[command(subcommand)]
        what: generate::Generate,
    },
    /// Measure: throughput, Nexmark, latency, comparison with other programs
    #[command(arg_required_else_help = true)]
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// Look after a job's checkpoints: list, verify, delete
    #[command(arg_required_else_help = true)]
    Checkpoints {
        #[command(subcommand)]
        what: checkpoints::Checkpoints,
    },
    /// Run the coordinator of a cluster
    Coordinator(coordinator::CoordinatorArgs),
    /// Run a worker: offer this host's slots to a coordinator
    Worker(worker::WorkerArgs),
    /// Run a job on a cluster
    Submit(client::SubmitArgs),
    /// List the jobs of a cluster
    List(client::ListArgs),
    /// Show a job of a cluster
    Status(client::JobArgs),
    /// End a job of a cluster at once
    Cancel(client::JobArgs),
    /// End a job of a cluster with a last checkpoint
    Stop(client::JobArgs),
    /// List the workers of a cluster
    Workers(client::WorkersArgs),
    /// Print the header by which clients of a cluster's REST interface show that they know its secret
    Token(client::TokenArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  millstream completions bash > ~/.local/share/bash-completion/completions/millstream
  millstream completions fish > ~/.config/fish/completions/millstream.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// What ends a command early: an error with what it means for the program.
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// What was asked for cannot be done.
    fn usage(error: &dyn Error) -> Self {
        Self { exit: Exit::Usage, message: with_causes(error) }
    }
}

impl From<millstream_bench::BenchError> for Failure {
    fn from(error: millstream_bench::BenchError) -> Self {
        Self { exit: error.exit(), message: with_causes(&error) }
    }
}

fn main() -> ExitCode {
    let Cli { log, command } = Cli::parse();
    log.init();
    let interrupt = Interrupt::install();
    let done = match command {
        Command::Demo(args) => match args.run(&interrupt) {
            Ok(exit) => return exit.into(),
            Err(failure) => Err(failure),
        },
        Command::New(args) => args.run(),
        Command::Generate { what } => what.run(&interrupt),
        Command::Bench { what } => what.run(interrupt),
        Command::Checkpoints { what } => what.run(),
        Command::Coordinator(args) => args.run(&interrupt),
        Command::Worker(args) => args.run(&interrupt),
        Command::Submit(args) => match args.run(&interrupt) {
            Ok(exit) => return exit.into(),
            Err(failure) => Err(failure),
        },
        Command::List(args) => args.run(),
        Command::Status(args) => args.status(),
        Command::Cancel(args) => args.cancel(),
        Command::Stop(args) => args.stop(),
        Command::Workers(args) => args.run(),
        Command::Token(args) => args.run(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "millstream", &mut script);
            write_to_stdout(&script)
        }
    };
    match done {
        Ok(()) => Exit::Success.into(),
        Err(Failure { exit: Exit::OutputClosed, .. }) => Exit::OutputClosed.into(),
        Err(Failure { exit, message }) => {
            eprintln!("error: {message}");
            exit.into()
        }
    }
}

fn write_to_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = millstream_bench::Destination::Stdout.create()?;
    output.write(bytes)?;
    Ok(output.commit()?)
}

/// An error and what caused it, as far as it does not say so itself.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
