//! What checkpoints cost a job while it runs.
//!
//! # How it is measured
//! - A keyed job is filled with state and checkpointed once. Then phases with checkpoints and without
//!   take turns in this one process. In every phase the updates fall on other keys: a part of all, which
//!   goes round.
//! - A phase with checkpoints begins with one, has more at the interval, and lasts until the last
//!   has completed, so that no phase without them pays for it. Its throughput is events per second of
//!   processor time, of all threads, at full speed; what counts is the median of the ratios of
//!   neighbouring phases.
//! - Either all keys come in turn, so that what a phase has written is dead after a round. Or each
//!   phase takes keys from everywhere: then all files die piecemeal, and compaction has work.
//! - Latency is measured in phases of their own, in an open loop at half of the full speed, from when a
//!   record was due to its result.
//! - What a phase without checkpoints changes is part of the next one's checkpoint, and of what is
//!   counted as changed and as written.
//!
//! A record that a checkpoint has sealed is copied when it is next updated, also in a phase without
//! checkpoints. That part of the cost is in both sides of the ratios.

mod phases;

use crate::statistics::{Spread, median_interval};
use crate::steered::{SteeredJob, durable, keys_of, stored_entry_bytes};
use crate::{BenchError, Format, Session, host, steered};
use hdrhistogram::Histogram;
use millstream_ops::{count, mebibytes};
use phases::{Phases, Side};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// The rate of the open loop, as a part of full speed.
const OPEN_LOOP_SHARE: f64 = 0.5;
/// Pairs of phases before those that count, at full speed and in the open loop.
const WARM_UP_PAIRS: u32 = 1;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of keys and values.
    pub state_bytes: u64,
    /// The part of the keys that a phase changes.
    pub change_rate: f64,
    /// Each phase changes keys from everywhere, not those whose turn it is.
    pub shuffle: bool,
    /// Events per second in the open loop; half of full speed if `None`.
    pub rate: Option<u64>,
    /// From the begin of one checkpoint to the begin of the next, in phases with them.
    pub interval: Duration,
    /// Pairs of phases, of each kind.
    pub pairs: u32,
    /// How long a phase lasts at least.
    pub phase: Duration,
    /// How figures are written.
    pub format: Format,
}

/// What it came to, as others script against it.
#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    slots: u32,
    keys: u64,
    state_bytes: u64,
    change_rate: f64,
    shuffle: bool,
    interval_seconds: f64,
    pairs: u32,
    /// Events per second of processor time, without checkpoints.
    events_per_cpu_second: f64,
    throughput_ratio: f64,
    throughput_ratio_interval: [f64; 2],
    /// Events per second of the open loop.
    rate: u64,
    p999_us_on: f64,
    p999_us_off: f64,
    p999_ratio: f64,
    sync_pause_us_p50: f64,
    sync_pause_us_p99: f64,
    sync_pause_us_max: f64,
    /// What all entries take as the backend `segments` stores them.
    live_bytes: u64,
    /// The size of the files in the checkpoint directory, at the most, as it was at the ends of phases.
    disk_bytes_max: u64,
    bytes_changed: u64,
    /// `None` if the system does not say.
    bytes_written: Option<u64>,
    checkpoints_completed: u64,
    checkpoints_failed: u64,
    durability: &'static str,
    host: host::Host,
    samples: Samples,
}

/// The figures of each phase that counts, in turns: the first of one list goes with the first of the
/// other.
#[derive(Serialize)]
struct Samples {
    events_per_cpu_second_on: Vec<f64>,
    events_per_cpu_second_off: Vec<f64>,
    p999_us_on: Vec<f64>,
    p999_us_off: Vec<f64>,
}

/// Measures, and reports once.
///
/// # Errors
/// If the options make no sense, the job fails, or files cannot be written.
pub fn run(options: &Options, session: &Session) -> Result<(), BenchError> {
    let keys = keys_of(options.state_bytes)?;
    let window = (keys as f64 * options.change_rate) as u64;
    if window == 0 {
        return Err(BenchError::Usage(
            "--change-rate: not one key of --state-size is changed; raise one of them".to_owned(),
        ));
    }
    host::warn_if_busy();
    let (config, _scratch) = durable(session, "checkpoint")?;
    let folder = config.checkpoint_dir().map(Path::to_path_buf).unwrap_or_default();
    let job = SteeredJob::start(session, config, "checkpoint", keys)?;
    eprintln!(
        "filling {} keys, {}, and taking a first checkpoint",
        count(keys),
        mebibytes(keys * steered::ENTRY_BYTES)
    );
    job.fill(session)?;
    job.checkpoint(session)?;

    let pauses_before = job.snapshot_nanos();
    let (completed_before, written_before) = (job.completed(), written_bytes());
    let mut phases = Phases::new(&job, session, options, &folder, window);
    for _ in 0..WARM_UP_PAIRS {
        phases.pair(None)?;
    }
    eprintln!("{} pairs of phases at full speed", options.pairs);
    let full_speed: Vec<_> =
        (0..options.pairs).map(|_| phases.pair(None)).collect::<Result<_, _>>()?;
    let rate = options.rate.map_or_else(
        || {
            let rates = full_speed.iter().map(|pair| pair.off.events_per_second());
            (Spread::of(rates).median * OPEN_LOOP_SHARE).max(1.0)
        },
        |rate| rate as f64,
    );
    for _ in 0..WARM_UP_PAIRS {
        phases.pair(Some(rate))?;
    }
    eprintln!("{} pairs of phases at {}/s", options.pairs, count(rate as u64));
    let open_loop: Vec<_> =
        (0..options.pairs).map(|_| phases.pair(Some(rate))).collect::<Result<_, _>>()?;
    let (entries_changed, disk_bytes_max) = (phases.entries_changed(), phases.disk_bytes_max());
    // So that what the last phases have changed is written, too.
    job.checkpoint(session)?;

    let mut pauses = job.snapshot_nanos();
    // What was recorded before is still there.
    let _ = pauses.subtract(&pauses_before);
    let (completed, failed) = (job.completed() - completed_before, job.failed());
    let bytes_written = written_bytes().zip(written_before).map(|(now, before)| now - before);
    // A file system in memory writes to no disk.
    let bytes_written = bytes_written.filter(|bytes| *bytes > 0);
    let latencies = job.end()?;

    let of_side = |side: Side| -> (Histogram<u64>, Vec<f64>) {
        let mut all = Histogram::new(3).expect("three digits are within the bounds");
        let mut each = Vec::new();
        for pair in &open_loop {
            let phase = pair.of(side).number;
            let mut one = Histogram::<u64>::new(3).expect("three digits are within the bounds");
            for (_, latencies) in latencies.iter().filter(|(number, _)| *number == phase) {
                // They grow by need, so the addition cannot fail.
                let _ = one.add(latencies);
            }
            let _ = all.add(&one);
            each.push(p999_us(&one));
        }
        (all, each)
    };
    let ((on, p999_us_on), (off, p999_us_off)) = (of_side(Side::On), of_side(Side::Off));
    if on.is_empty() || off.is_empty() {
        return Err(BenchError::Usage(
            "the open loop gave no results; raise --rate or leave it out".to_owned(),
        ));
    }
    let per_cpu = |side| full_speed.iter().map(move |pair| pair.of(side).events_per_cpu_second());
    let ratios: Vec<f64> =
        per_cpu(Side::On).zip(per_cpu(Side::Off)).map(|(on, off)| on / off).collect();
    let entry_bytes = stored_entry_bytes()?;
    let pause_us = |quantile| pauses.value_at_quantile(quantile) as f64 / 1e3;
    let figures = Figures {
        benchmark: "checkpoint",
        slots: session.config.slots(),
        keys,
        state_bytes: keys * steered::ENTRY_BYTES,
        change_rate: options.change_rate,
        shuffle: options.shuffle,
        interval_seconds: options.interval.as_secs_f64(),
        pairs: options.pairs,
        events_per_cpu_second: Spread::of(per_cpu(Side::Off)).median,
        throughput_ratio: Spread::of(ratios.iter().copied()).median,
        throughput_ratio_interval: median_interval(&ratios),
        rate: rate as u64,
        p999_us_on: p999_us(&on),
        p999_us_off: p999_us(&off),
        p999_ratio: p999_us(&on) / p999_us(&off),
        sync_pause_us_p50: pause_us(0.5),
        sync_pause_us_p99: pause_us(0.99),
        sync_pause_us_max: pauses.max() as f64 / 1e3,
        live_bytes: keys * entry_bytes,
        disk_bytes_max,
        bytes_changed: entries_changed * entry_bytes,
        bytes_written,
        checkpoints_completed: completed,
        checkpoints_failed: failed,
        durability: "local",
        host: host::Host::probe(),
        samples: Samples {
            events_per_cpu_second_on: per_cpu(Side::On).collect(),
            events_per_cpu_second_off: per_cpu(Side::Off).collect(),
            p999_us_on,
            p999_us_off,
        },
    };
    options.format.write(&figures, || figures.text())
}

fn p999_us(nanos: &Histogram<u64>) -> f64 {
    nanos.value_at_quantile(0.999) as f64 / 1e3
}

/// Bytes that this process has caused to be written to disks, as the system counts them.
fn written_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

impl Figures {
    fn text(&self) -> String {
        let per_checkpoint = |bytes: u64| mebibytes(bytes / self.checkpoints_completed.max(1));
        let [low, high] = self.throughput_ratio_interval;
        let written = match self.bytes_written {
            Some(bytes) => format!(
                "{} written, {:.2} of it",
                per_checkpoint(bytes),
                bytes as f64 / self.bytes_changed.max(1) as f64
            ),
            None => "what is written is not known here".to_owned(),
        };
        format!(
            "{} of state, {} slots, {:.1} % of the keys{} changed per phase, {} pairs\n\
             throughput   {:.3} of that without checkpoints ({low:.3} to {high:.3}), which is {} M \
             events per CPU-second\n\
             p99.9        {:.2} of that without checkpoints: {:.0} us, {:.0} us, at {}/s\n\
             sync pause   us: p50 {:.1}, p99 {:.1}, max {:.1}\n\
             checkpoints  {} completed, {} failed; each: {} changed, {written}; durability: {}\n\
             disk         {} at most, {:.2} of the live entries",
            mebibytes(self.state_bytes),
            self.slots,
            self.change_rate * 100.0,
            if self.shuffle { ", from everywhere," } else { "" },
            self.pairs,
            self.throughput_ratio,
            crate::report::millions(self.events_per_cpu_second),
            self.p999_ratio,
            self.p999_us_on,
            self.p999_us_off,
            count(self.rate),
            self.sync_pause_us_p50,
            self.sync_pause_us_p99,
            self.sync_pause_us_max,
            self.checkpoints_completed,
            self.checkpoints_failed,
            per_checkpoint(self.bytes_changed),
            self.durability,
            mebibytes(self.disk_bytes_max),
            self.disk_bytes_max as f64 / self.live_bytes.max(1) as f64,
        )
    }
}
