//! The comparison as a table and as JSON.

use super::Options;
use super::peers::Peer;
use crate::host::Host;
use crate::interactive::Answer;
use crate::report::millions;
use crate::statistics::Spread;
use millstream_ops::count;
use millstream_workloads::throughput::Workload;
use serde::Serialize;
use std::fmt::Write;

/// All comparisons of one command.
#[derive(Serialize)]
pub(super) struct Report {
    benchmark: &'static str,
    host: Host,
    events: usize,
    pairs: u32,
    results: Vec<Comparison>,
}

/// Ours and one other program, on one workload with one number of workers.
#[derive(Serialize)]
pub(super) struct Comparison {
    workload: &'static str,
    workers: u32,
    peer: &'static str,
    passes: u32,
    /// Ours by theirs, of pairs: above 1, ours is the faster one.
    ratio: Spread,
    /// The same, per second of processor time.
    cpu_ratio: Spread,
    ours_events_per_second: Spread,
    peer_events_per_second: Spread,
    checksum: String,
    peer_checksum: String,
    rows_out: u64,
    peer_rows_out: u64,
    samples: Vec<Sample>,
}

/// A pair of runs.
#[derive(Serialize)]
struct Sample {
    ours_seconds: f64,
    peer_seconds: f64,
    ours_cpu_seconds: f64,
    peer_cpu_seconds: f64,
}

impl Comparison {
    /// # Panics
    /// If there is no pair.
    pub(super) fn new(
        workload: Workload,
        workers: u32,
        peer: &Peer,
        passes: u32,
        pairs: Vec<(Answer, Answer)>,
    ) -> Self {
        let spread = |figure: fn(&Answer, &Answer) -> f64| {
            Spread::of(pairs.iter().map(|(ours, peer)| figure(ours, peer)))
        };
        let (ours, theirs) = &pairs[0];
        Self {
            workload: workload.name(),
            workers,
            peer: peer.name,
            passes,
            ratio: spread(|ours, peer| peer.seconds / ours.seconds),
            cpu_ratio: spread(|ours, peer| peer.cpu_seconds / ours.cpu_seconds),
            ours_events_per_second: spread(|ours, _| ours.events as f64 / ours.seconds),
            peer_events_per_second: spread(|_, peer| peer.events as f64 / peer.seconds),
            checksum: ours.checksum.clone(),
            peer_checksum: theirs.checksum.clone(),
            rows_out: ours.rows_out,
            peer_rows_out: theirs.rows_out,
            samples: pairs
                .iter()
                .map(|(ours, peer)| Sample {
                    ours_seconds: ours.seconds,
                    peer_seconds: peer.seconds,
                    ours_cpu_seconds: ours.cpu_seconds,
                    peer_cpu_seconds: peer.cpu_seconds,
                })
                .collect(),
        }
    }

    fn is_equal(&self) -> bool {
        (&self.checksum, self.rows_out) == (&self.peer_checksum, self.peer_rows_out)
    }

    /// The comparison in a line.
    pub(super) fn line(&self) -> String {
        let Spread { median, min, max } = self.ratio;
        format!(
            "{:<7} {:>7}  {:<13} {:>8} {:>8}   {median:>6.2}  ({min:.2} to {max:.2})   {:>6.2}{}",
            self.workload,
            self.workers,
            self.peer,
            millions(self.ours_events_per_second.median),
            millions(self.peer_events_per_second.median),
            self.cpu_ratio.median,
            if self.is_equal() { "" } else { "  DIFFERENT RESULTS" },
        )
    }
}

impl Report {
    pub(super) fn new(options: &Options, results: Vec<Comparison>) -> Self {
        Self {
            benchmark: "compare",
            host: Host::probe(),
            events: options.events,
            pairs: options.pairs,
            results,
        }
    }

    pub(super) fn table(&self) -> String {
        let mut table = format!(
            "{}\n{} events (wc: all words of the text), {} pairs A B A B after two passes that do \
             not count\n\n{:<7} {:>7}  {:<13} {:>8} {:>8}   {:>6}  {:<15}  {:>7}\n",
            self.host,
            count(self.events as u64),
            self.pairs,
            "",
            "workers",
            "against",
            "ours M/s",
            "its M/s",
            "ratio",
            "",
            "per CPU",
        );
        for comparison in &self.results {
            // Writing to a string does not fail.
            let _ = writeln!(table, "{}", comparison.line());
        }
        table.push_str(match self.different().is_empty() {
            true => "all check-sums are equal",
            false => "CHECK-SUMS DIFFER",
        });
        table
    }

    /// Which results differ, in words; empty if none does.
    pub(super) fn different(&self) -> String {
        let different: Vec<String> = self
            .results
            .iter()
            .filter(|comparison| !comparison.is_equal())
            .map(|c| {
                format!(
                    "{} with {} workers: {} over {} rows, {} has {} over {}",
                    c.workload,
                    c.workers,
                    c.checksum,
                    count(c.rows_out),
                    c.peer,
                    c.peer_checksum,
                    count(c.peer_rows_out),
                )
            })
            .collect();
        match different.is_empty() {
            true => String::new(),
            false => format!("results differ: {}", different.join("; ")),
        }
    }
}
