//! A job to be killed: one of [`Workload`], with the flags that every job has.
#![forbid(unsafe_code)]

use clap::Parser;
use millstream::{BoxError, Environment, SegmentsBackend};
use millstream_cluster_tests::jobs::{self, Workload};
use millstream_ops::{Exit, Interrupt, JobArgs, LogArgs, execute};
use std::path::PathBuf;
use std::process::ExitCode;

/// A job to be killed.
#[derive(Parser)]
struct Victim {
    /// Which job
    #[arg(value_enum)]
    workload: Workload,

    /// The folder of the input files
    #[arg(long)]
    input: PathBuf,

    /// The folder of the output files
    #[arg(long)]
    output: PathBuf,

    /// Keep state in segments of so many bytes: small ones fill, are mapped, compacted and deleted all
    /// the time
    #[arg(long)]
    segment_bytes: Option<usize>,

    #[command(flatten)]
    job: JobArgs,

    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    let victim = Victim::parse();
    victim.log.init();
    let exit = victim.run().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        Exit::of_error(&error)
    });
    exit.into()
}

impl Victim {
    fn run(self) -> Result<Exit, BoxError> {
        let mut env = Environment::new(self.job.config()?);
        if let Some(bytes) = self.segment_bytes {
            let backend = SegmentsBackend::new().with_segment_bytes(bytes);
            env = env.with_backend(backend.with_mutable_bytes(2 * bytes as u64));
        }
        let interrupt = Interrupt::install();
        jobs::describe(&env, self.workload, &self.input, &self.output);
        let result = execute(env, "victim", None, &interrupt)?;
        Ok(Exit::of_status(result.status))
    }
}
