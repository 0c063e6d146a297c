//! The throughput workloads by ours and by other programs, in turns, on the same files.
//!
//! # How it is measured
//! - Each program loads its input once, runs twice without being counted, then takes turns with
//!   ours: A B A B. Between its turns it sleeps.
//! - A timed run is as many passes over the input as it takes to last `RUN_SECONDS_MIN`, the same
//!   number for all programs of a workload.
//! - What counts is the median of the ratios of pairs that ran one after the other, so that what
//!   slows the machine for seconds slows both. The spread is reported beside it.
//! - Every run's check-sum must be that of ours.

pub mod latency;
mod peers;
mod report;

use crate::interactive::Answer;
use crate::process::Program;
use crate::{BenchError, Format, host, throughput};
use millstream_ops::{Interrupt, count};
use millstream_workloads::throughput::Workload;
use peers::Peer;
use report::{Comparison, Report};
use std::path::PathBuf;

/// How long a timed run lasts at the least: shorter ones measure the clock and the scheduler.
const RUN_SECONDS_MIN: f64 = 0.5;
/// Passes before those that are timed: the first touches fresh memory, the second tells how many
/// passes a timed run needs.
const WARM_UP_PASSES: u32 = 2;

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that is this one: run as `OURS bench throughput --interactive`.
    pub ours: PathBuf,
    /// The folder of the programs, or the workspace `bench/peers` in which they were built.
    pub peers: PathBuf,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// Numbers of slots, and of the others' workers.
    pub workers: Vec<u32>,
    /// Pairs of runs.
    pub pairs: u32,
    /// Events to read; the text is read whole.
    pub events: usize,
    /// The folder of the input files, which are written if they are not there.
    pub data: PathBuf,
    /// Whether the others' best settings are run beside their defaults.
    pub best_settings: bool,
    /// How the comparison is written.
    pub format: Format,
}

/// Compares, and reports a table or one JSON object.
///
/// # Errors
/// If there is nothing to compare with, a program fails, or results differ (after the report).
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    let peers = peers::built(&options.peers, options.best_settings);
    if peers.is_empty() {
        return Err(BenchError::Usage(format!(
            "{} holds none of the programs to compare with; build them with `cargo build --release` \
             in bench/peers, and give that folder with --peers",
            options.peers.display()
        )));
    }
    host::warn_if_busy();
    let mut comparisons = Vec::new();
    for &workload in &options.workloads {
        throughput::ensure(workload, Some(options.events), &options.data, interrupt)?;
        for &workers in &options.workers {
            comparisons.extend(compare(options, &peers, workload, workers, interrupt)?);
        }
    }
    let report = Report::new(options, comparisons);
    options.format.write(&report, || report.table())?;
    let different = report.different();
    if different.is_empty() { Ok(()) } else { Err(BenchError::Different(different)) }
}

/// One workload with one number of workers: ours with each of the others in turn.
fn compare(
    options: &Options,
    peers: &[Peer],
    workload: Workload,
    workers: u32,
    interrupt: &Interrupt,
) -> Result<Vec<Comparison>, BenchError> {
    let able: Vec<_> =
        peers.iter().filter_map(|peer| Some((peer, peer.query(workload, workers)?))).collect();
    let mut ours = Program::start(peers::ours(options, workload, workers), "millstream")?;
    let mut others = able
        .iter()
        .map(|(peer, query)| Program::start(peer.command(query, workers, options), peer.name))
        .collect::<Result<Vec<_>, _>>()?;

    let mut fastest = f64::INFINITY;
    for program in std::iter::once(&mut ours).chain(&mut others) {
        for _ in 0..WARM_UP_PASSES {
            fastest = fastest.min(program.pass(interrupt)?.seconds);
        }
    }
    let passes = passes_for(fastest);

    let mut comparisons = Vec::new();
    for ((peer, _), program) in able.iter().zip(&mut others) {
        let mut pairs = Vec::new();
        for _ in 0..options.pairs {
            let a = timed(&mut ours, passes, interrupt)?;
            let b = timed(program, passes, interrupt)?;
            pairs.push((a, b));
        }
        let comparison = Comparison::new(workload, workers, peer, passes, pairs);
        eprintln!("{}", comparison.line());
        comparisons.push(comparison);
    }
    if others.is_empty() {
        eprintln!("{workload} with {workers} workers: no program here does it");
    }
    Ok(comparisons)
}

/// Passes that make a timed run, if the fastest program takes so long for one.
fn passes_for(seconds: f64) -> u32 {
    // A tenth to spare: the warm-up may have been slower than what follows.
    let passes = RUN_SECONDS_MIN / (seconds * 0.9).max(1e-6);
    passes.ceil().max(1.0) as u32
}

/// One timed run: several passes, as one.
fn timed(program: &mut Program, passes: u32, interrupt: &Interrupt) -> Result<Answer, BenchError> {
    let mut total = program.pass(interrupt)?;
    for _ in 1..passes {
        let Answer { seconds, cpu_seconds, events, rows_out, checksum, .. } =
            program.pass(interrupt)?;
        if (&checksum, rows_out) != (&total.checksum, total.rows_out) {
            return Err(BenchError::Different(format!(
                "{} came to check-sum {checksum} over {} rows, and before to {} over {}",
                program.name(),
                count(rows_out),
                total.checksum,
                count(total.rows_out),
            )));
        }
        total.seconds += seconds;
        total.cpu_seconds += cpu_seconds;
        total.events += events;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timed_run_is_long_enough() {
        for seconds in [1e-9, 0.001, 0.03, 0.2, 0.5, 3.0] {
            let passes = f64::from(passes_for(seconds));
            assert!(passes * seconds.max(1e-6) >= RUN_SECONDS_MIN, "{seconds} s, {passes} passes");
        }
        assert_eq!(passes_for(3.0), 1);
    }
}
