//! What it costs a job that another host has a copy of its checkpoints.
//!
//! # How it is measured
//! - A job runs on two hosts, with one slot on each, and updates its keys in turn as fast as it can; half of
//!   the updates go to the other host. Each second it takes a checkpoint, which holds what was updated since.
//! - On one side each host keeps its own part of it. On the other it has a copy of the other's part too, and
//!   a checkpoint counts on both: `replicated(1)`.
//! - What counts is updates per second of processor time of the slots' threads. What writes and copies is on
//!   threads of its own, which are not counted; but each process keeps to one core, so that what they do to
//!   its caches shows.
//! - The two sides take turns, each time with new processes; what counts is the median of the ratios of pairs.

use crate::process::tell;
use crate::statistics::Spread;
use crate::steered::{ENTRY_BYTES, keys_of};
use crate::two_hosts::{CountingTime, Options, Place, Side, TwoHosts};
use crate::updates::{Count, Update, Updates};
use crate::{BenchError, Session, files, host};
use millstream::Environment;
use millstream::connector::{Sink, SinkContext, SinkWriter};
use millstream::prelude::*;
use millstream_ops::{Interrupt, count, mebibytes, threads_cpu};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often the updates that were counted are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// What the names of the slots' threads begin with.
const SLOT_THREADS: &str = "slot-";

/// What a process has counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Told {
    events_per_second: f64,
    /// Seconds of processor time of its slot, per second.
    slot_cpu: f64,
    /// Checkpoints of the job so far, as far as the process knows.
    checkpoints: u64,
    replicated_bytes_per_second: f64,
}

/// One side of a pair.
#[derive(Clone, Copy, Debug, Serialize)]
struct Turn {
    events_per_slot_cpu_second: f64,
    events_per_second: f64,
    checkpoints: u64,
    /// What the host that sends more sends to the other for copies.
    replicated_bytes_per_second: f64,
    /// What the files of both hosts hold in the end.
    disk_bytes: u64,
}

#[derive(Serialize)]
struct Sample {
    replicated: Turn,
    local: Turn,
}

#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    hosts: u32,
    keys: u64,
    state_bytes: u64,
    /// With a copy on the other host.
    events_per_slot_cpu_second: f64,
    local_events_per_slot_cpu_second: f64,
    /// The median of the ratios of pairs.
    ratio: f64,
    /// The same of events per second.
    elapsed_ratio: f64,
    /// What a host sends to the other for copies: within a `replication_bandwidth`, if one is set.
    replicated_bytes_per_second: f64,
    host: host::Host,
    samples: Vec<Sample>,
}

/// Measures, and reports once.
///
/// # Errors
/// If no hosts can be made, or a process fails.
pub fn run(state_bytes: u64, options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    let keys = keys_of(state_bytes)?;
    host::warn_if_busy();
    let hosts = TwoHosts::new(options)?;
    let turn = |side| -> Result<Turn, BenchError> {
        let mut processes = hosts.start::<Told>(side)?;
        let mut sum = Told::default();
        for process in &mut processes {
            let told = process.expect(interrupt, |told, _| Some(told))?;
            sum.events_per_second += told.events_per_second;
            sum.slot_cpu += told.slot_cpu;
            sum.checkpoints = sum.checkpoints.max(told.checkpoints);
            sum.replicated_bytes_per_second =
                sum.replicated_bytes_per_second.max(told.replicated_bytes_per_second);
        }
        let folders = [hosts.folder(0), hosts.folder(1)];
        let disk_bytes =
            folders.iter().map(|folder| files::total_bytes(folder)).sum::<Result<_, _>>()?;
        drop(processes);
        folders.iter().try_for_each(|folder| files::remove(folder))?;
        Ok(Turn {
            events_per_slot_cpu_second: sum.events_per_second / sum.slot_cpu,
            events_per_second: sum.events_per_second,
            checkpoints: sum.checkpoints,
            replicated_bytes_per_second: sum.replicated_bytes_per_second,
            disk_bytes,
        })
    };
    let mut samples = Vec::new();
    for pair in 1..=options.pairs {
        let local = turn(Side::Plain)?;
        let replicated = turn(Side::Ours)?;
        eprintln!(
            "pair {pair}: {} events per second of slots' processor time, without copies {}",
            count(replicated.events_per_slot_cpu_second as u64),
            count(local.events_per_slot_cpu_second as u64)
        );
        samples.push(Sample { replicated, local });
    }
    let median = |of: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).median;
    let ratio = |of: fn(&Turn) -> f64| median(&|one| of(&one.replicated) / of(&one.local));
    let figures = Figures {
        benchmark: "replication",
        hosts: 2,
        keys,
        state_bytes: keys * ENTRY_BYTES,
        events_per_slot_cpu_second: median(&|one| one.replicated.events_per_slot_cpu_second),
        local_events_per_slot_cpu_second: median(&|one| one.local.events_per_slot_cpu_second),
        ratio: ratio(|turn| turn.events_per_slot_cpu_second),
        elapsed_ratio: ratio(|turn| turn.events_per_second),
        replicated_bytes_per_second: median(&|one| one.replicated.replicated_bytes_per_second),
        host: host::Host::probe(),
        samples,
    };
    options.format.write(&figures, || figures.text())
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{} events per second of the slots' processor time with a copy on the other host, {} without; ratio \
             {:.3}, of events per second {:.3}; {} of state, of which a host sends {} a second to the other; medians \
             of {} pairs",
            count(self.events_per_slot_cpu_second as u64),
            count(self.local_events_per_slot_cpu_second as u64),
            self.ratio,
            self.elapsed_ratio,
            mebibytes(self.state_bytes),
            mebibytes(self.replicated_bytes_per_second as u64),
            self.samples.len()
        )
    }
}

/// Is one of the processes, until it is killed.
///
/// # Errors
/// If it does not reach the other, or the job fails.
pub fn serve(
    state_bytes: u64,
    side: Side,
    place: &Place,
    duration: Duration,
    session: &Session,
) -> Result<(), BenchError> {
    place.pin()?;
    let keys = keys_of(state_bytes)?;
    let durability = match side {
        Side::Plain => "local",
        Side::Ours => "replicated(1)",
    };
    let config = session.config.clone();
    let config = config.set("checkpoint_dir", &place.folder.display().to_string())?;
    let config = config.set("checkpoint_interval", "1s")?;
    let config = config.set("checkpoint_durability", durability)?;
    let env = Environment::new(config);
    let counted = Arc::new(Counted::default());
    env.from_source("updates", Updates { keys, rate: None })
        .key_by(|update| update.key)
        .process(|state| Count { counter: state.value("counter") })
        .name("count")
        .sink_to("counted", Results { counted: Arc::clone(&counted) });
    let job = env.start("replication")?;
    session.interrupt.cancel(job.canceller());
    let mut times = None;
    loop {
        session.check()?;
        if job.has_ended() {
            job.wait()?;
            return Err(BenchError::Different("the job has ended before its time".to_owned()));
        }
        if counted.is_filled.load(Ordering::Relaxed) {
            let [events, cpu, replicated] =
                times.get_or_insert_with(|| [(); 3].map(|()| CountingTime::start(duration)));
            let counters = &job.metrics().counters;
            let lasts = [
                events.lasts(counted.results.load(Ordering::Relaxed)),
                cpu.lasts(threads_cpu(SLOT_THREADS).as_nanos() as u64),
                replicated.lasts(counters.replicated_bytes()),
            ];
            if !lasts.contains(&true) {
                break tell(&Told {
                    events_per_second: events.per_second(),
                    slot_cpu: cpu.per_second() / 1e9,
                    checkpoints: counters.checkpoints_completed(),
                    replicated_bytes_per_second: replicated.per_second(),
                })?;
            }
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "between two looks, and it can be cancelled"
        )]
        std::thread::sleep(LOOK_INTERVAL);
    }
    // For the other process.
    job.wait()?;
    Ok(())
}

/// What the subtask of this process has counted.
#[derive(Default)]
struct Counted {
    results: AtomicU64,
    /// Each key was updated.
    is_filled: AtomicBool,
}

#[derive(Clone)]
struct Results {
    counted: Arc<Counted>,
}

impl Sink<Update> for Results {
    type Writer = ResultsWriter;

    fn open(self, _: &SinkContext) -> Result<ResultsWriter, BoxError> {
        Ok(ResultsWriter { counted: self.counted, results: 0 })
    }
}

struct ResultsWriter {
    counted: Arc<Counted>,
    results: u64,
}

impl SinkWriter<Update> for ResultsWriter {
    #[inline]
    fn write(&mut self, update: Update, _: Timestamp) -> Result<(), BoxError> {
        self.results += 1;
        // There is one writer, and whoever looks does so seldom.
        self.counted.results.store(self.results, Ordering::Relaxed);
        if update.count == 2 {
            self.counted.is_filled.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
