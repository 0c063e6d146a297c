//! How soon a job goes on when a host of its cluster is lost.
//!
//! # How it is measured
//! - A cluster of four hosts: a coordinator, and three workers with two slots each, every one a process of
//!   this program with a disk of its own. A job on three slots fills a keyed state, a third of it on each
//!   worker, and goes on updating keys at a fixed rate, with checkpoints that one other worker has too.
//! - A worker is lost that is not the one that controls the job: it and its process of the job are
//!   killed (SIGKILL), or, silent, its host reaches no other any more. Its disk is not used again.
//! - `detected`: the coordinator's clients see that the job does not run as it did. `first result`: a
//!   key of the subtask that was lost has a new count, at a worker that has the state from a replica.
//!   Both since the fault.
//! - Each count of each key is checked: restored state that lacks an update, or has one twice, fails the
//!   job, and with it the measurement.
//! - Besides: how soon a cluster that is started gives its first result, and how much memory its
//!   idle processes have resident.

mod cluster;
mod job;

use crate::statistics::Spread;
use crate::steered::{ENTRY_BYTES, keys_of};
use crate::two_hosts::make_hosts;
use crate::{BenchError, Format, host};
use cluster::Trial;
use millstream_ops::{Interrupt, mebibytes};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;

pub use job::serve;

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// Its processes are killed.
    Kill,
    /// Its host reaches no other any more.
    Silence,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program.
    pub ours: PathBuf,
    /// Its arguments, with which it is started again as a process of the job.
    pub arguments: Vec<OsString>,
    /// Bytes of keys and values.
    pub state_bytes: u64,
    /// What happens.
    pub fault: Fault,
    /// How often, each time to a new cluster.
    pub runs: u32,
    /// Where the workers have their disks; among the system's temporary files if `None`.
    pub folder: Option<PathBuf>,
    /// How figures are written.
    pub format: Format,
}

/// What one run came to, in milliseconds and bytes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    detected_ms: f64,
    first_result_ms: f64,
    start_ms: f64,
    coordinator_resident_bytes: u64,
    worker_resident_bytes: u64,
}

#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    fault: Fault,
    hosts: usize,
    slots: u32,
    keys: u64,
    state_bytes: u64,
    #[serde(flatten)]
    medians: Sample,
    host: host::Host,
    samples: Vec<Sample>,
}

/// Measures, and reports once.
///
/// # Errors
/// If no hosts can be made, a process fails, or the job does not go on as it should.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    let keys = keys_of(options.state_bytes)?;
    host::warn_if_busy();
    let mut samples = Vec::new();
    for run in 1..=options.runs {
        let hosts = make_hosts(cluster::HOSTS)?;
        let sample = hosts
            .host(0)
            .within(|| Trial::start(options, keys, &hosts, interrupt)?.run(interrupt))
            .map_err(|error| BenchError::Different(error.to_string()))??;
        eprintln!(
            "run {run}: detected after {:.0} ms, first result after {:.0} ms",
            sample.detected_ms, sample.first_result_ms
        );
        samples.push(sample);
    }
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).median;
    let figures = Figures {
        benchmark: "failover",
        fault: options.fault,
        hosts: cluster::HOSTS,
        slots: cluster::JOB_SLOTS,
        keys,
        state_bytes: keys * ENTRY_BYTES,
        medians: Sample {
            detected_ms: median(|one| one.detected_ms),
            first_result_ms: median(|one| one.first_result_ms),
            start_ms: median(|one| one.start_ms),
            coordinator_resident_bytes: median(|one| one.coordinator_resident_bytes as f64) as u64,
            worker_resident_bytes: median(|one| one.worker_resident_bytes as f64) as u64,
        },
        host: host::Host::probe(),
        samples,
    };
    options.format.write(&figures, || figures.text())
}

impl Figures {
    fn text(&self) -> String {
        let Sample {
            detected_ms,
            first_result_ms,
            start_ms,
            coordinator_resident_bytes,
            worker_resident_bytes,
        } = self.medians;
        format!(
            "{} of state on {} slots of {} hosts, one lost: noticed after {detected_ms:.0} ms, first result \
             after {first_result_ms:.0} ms\n\
             from the start of the cluster to its first result {start_ms:.0} ms; resident without a job: \
             coordinator {}, a worker {}; the medians of {} runs",
            mebibytes(self.state_bytes),
            self.slots,
            self.hosts,
            mebibytes(coordinator_resident_bytes),
            mebibytes(worker_resident_bytes),
            self.samples.len()
        )
    }
}
