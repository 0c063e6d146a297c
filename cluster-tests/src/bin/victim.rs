//! A job to be killed: one of [`Workload`], with the flags that every job has.
#![forbid(unsafe_code)]

use clap::Args;
use millstream_cluster_tests::jobs::{self, Workload};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
struct Flags {
    /// Which job
    #[arg(value_enum)]
    workload: Workload,

    /// The folder of the input files
    #[arg(long)]
    input: PathBuf,

    /// The folder of the output files
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    millstream_ops::run_with("victim", "A job to be killed", |env, flags: Flags| {
        jobs::describe(env, flags.workload, &flags.input, &flags.output);
    })
}
