//! What continuous integration checks beyond the compiler, as one command.
//!
//! `cargo xtask test` runs every step; `cargo xtask test --only STEP` runs one; `cargo xtask tidy`
//! checks the rules of this workspace; `cargo xtask soak` runs soaks and property tests for long, and
//! `cargo xtask fuzz` the fuzz targets.
#![forbid(unsafe_code)]

mod fuzz;
mod process;
mod readme;
mod steps;
mod summary;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Development tasks of this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the workspace's rules: dependency edges, unsafe code, file sizes, links, ...
    Tidy,
    /// Run everything that must pass, and print a summary
    #[command(visible_alias = "ci")]
    Test {
        /// Run these steps only (may be repeated)
        #[arg(long, value_name = "STEP", value_parser = steps::names())]
        only: Vec<String>,
        /// List the steps and end
        #[arg(long)]
        list: bool,
    },
    /// Run soaks for M minutes each, then the property tests with more cases
    Soak {
        /// How long each soak lasts, and the factor of the property tests' cases
        #[arg(long, value_name = "M", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
    },
    /// Run each fuzz target for M minutes
    Fuzz {
        /// How long each target runs
        #[arg(long, value_name = "M", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let steps = match Arguments::parse().task {
        Task::Test { list: true, .. } => {
            steps::list();
            return Ok(ExitCode::SUCCESS);
        }
        Task::Test { only, .. } => steps::named(&only),
        Task::Tidy => steps::named(&["tidy".to_owned()]),
        Task::Soak { minutes } => steps::soak(minutes),
        Task::Fuzz { minutes } => steps::fuzz(minutes),
    };
    let all_passed = summary::run_and_report(&workspace::Workspace::find()?, steps);
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
