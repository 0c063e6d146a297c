//! Runs simulations, seed by seed, until one fails.
#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use clap::Parser;
use millstream_sim::{Bug, Setup, Watch, run, run_traced};
use std::io::Write;
use std::process::ExitCode;

/// Deterministic simulation of checkpoints and recovery.
///
/// A seed decides the job, the schedule and the faults. A seed that fails is printed with the command
/// that replays it. Exit codes: 0 every seed went well, 1 one failed.
#[derive(Parser)]
#[command(name = "millstream-sim", version)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    from: u64,
    /// Plant a bug, which must be found: the run fails if it is not
    #[arg(long, value_name = "NAME", value_parser = bug)]
    bug: Option<Bug>,
    /// Look only at what a user would see, not inside at every tick
    #[arg(long)]
    outcome: bool,
    /// Print what happens in each run
    #[arg(long)]
    trace: bool,
}

fn bug(name: &str) -> Result<Bug, String> {
    let names = || Bug::ALL.map(Bug::name).join(", ");
    Bug::named(name).ok_or_else(|| format!("there are: {}", names()))
}

fn main() -> Result<ExitCode> {
    let Arguments { seeds, from, bug, outcome, trace } = Arguments::parse();
    let setup = Setup { bug, watch: if outcome { Watch::Outcome } else { Watch::EveryTick } };
    let mut out = std::io::stdout().lock();
    let (mut crashes, mut checkpoints, mut ticks) = (0, 0, 0);
    for seed in from..from.saturating_add(seeds) {
        let result = if trace {
            let (result, lines) = run_traced(seed, setup);
            for line in lines {
                writeln!(out, "{line}")?;
            }
            result
        } else {
            run(seed, setup)
        };
        match result {
            Ok(report) => {
                crashes += report.crashes + report.failovers;
                checkpoints += report.checkpoints;
                ticks += report.ticks;
            }
            Err(failure) => {
                writeln!(out, "{failure}")?;
                return Ok(ExitCode::from(u8::from(bug.is_none())));
            }
        }
    }
    if let Some(bug) = bug {
        bail!("{} was not found with {seeds} seeds from {from}", bug.name());
    }
    writeln!(
        out,
        "{seeds} seeds from {from}: {ticks} ticks, {checkpoints} checkpoints, {crashes} crashes and \
         restarts; every promise was kept"
    )?;
    Ok(ExitCode::SUCCESS)
}
