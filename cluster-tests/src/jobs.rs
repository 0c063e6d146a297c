//! The jobs that are killed.
//!
//! # Invariants
//! - What a job writes is a multiset of lines that follows from its input alone: not from the order in
//!   which subtasks run, nor from their number.
//! - Every source can be divided anew, so that a job can go on with another number of slots.

mod auctions;
mod copies;
mod flood;
mod telemetry;
mod visits;
mod words;

pub(crate) use copies::TRIP;
pub use telemetry::write_input as write_telemetry;
pub use words::write_input as write_words;

use clap::ValueEnum;
use millstream::prelude::*;
use millstream::{Chain, Environment};
use millstream_connectors::{FileSink, TextEncoder};
use std::fmt;
use std::io;
use std::path::Path;

/// A job that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Workload {
    /// Words of files: how often each has occurred so far, and in the end. Two sinks.
    Words,
    /// Nexmark q5: the auctions with the most bids, in sliding windows.
    Q5,
    /// Nexmark q8: who registered and sold in one window, a join.
    Q8,
    /// Nexmark q11: bids per bidder and session.
    Q11,
    /// Values that are far from those before them, as in the example `telemetry_anomalies`.
    Telemetry,
    /// A keyed process function with values, lists, maps and event-time timers.
    Visits,
    /// Lines of files copied twice, each slot on its own.
    Copies,
    /// Counts of numbers without end, to be stopped.
    Flood,
}

impl Workload {
    /// All that end.
    pub const ALL: [Self; 7] =
        [Self::Words, Self::Q5, Self::Q8, Self::Q11, Self::Telemetry, Self::Visits, Self::Copies];

    /// Records that its source emits.
    pub fn records(self) -> u64 {
        match self {
            Self::Words | Self::Copies => words::LINES,
            Self::Q5 | Self::Q8 | Self::Q11 => auctions::EVENTS,
            Self::Telemetry => telemetry::SAMPLES,
            Self::Visits => visits::VISITS,
            Self::Flood => u64::MAX,
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Writes the files that workloads read.
///
/// # Errors
/// If they cannot be written.
pub fn write_input(input: &Path) -> io::Result<()> {
    words::write_input(input)?;
    telemetry::write_input(input)
}

/// Adds a workload to an environment. It reads from and writes to files in folders that exist.
pub fn describe(env: &Environment, workload: Workload, input: &Path, output: &Path) {
    match workload {
        Workload::Words => words::describe(env, input, output),
        Workload::Q5 => write(auctions::q5(env), output, "most bids"),
        Workload::Q8 => write(auctions::q8(env), output, "new sellers"),
        Workload::Q11 => write(auctions::q11(env), output, "sessions"),
        Workload::Telemetry => write(telemetry::anomalies(env, input), output, "anomalies"),
        Workload::Visits => write(visits::digests(env), output, "digests"),
        Workload::Copies => copies::describe(env, input, output),
        Workload::Flood => write(flood::counts(env), output, "counts"),
    }
}

/// Ends a job with a file of lines.
fn write(lines: DataStream<impl Chain<Out = String>>, output: &Path, name: &str) {
    lines.sink_to(name, FileSink::new(output.join(name), TextEncoder));
}
