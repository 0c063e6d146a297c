//! `millstream bench`.

mod between_hosts;
mod checkpoint;
mod failover;
mod recovery;
mod rollback;
mod state;
mod values;

use crate::Failure;
use clap::{Args, Subcommand, ValueEnum};
use millstream_bench::{BenchError, Destination, Format, Session};
use millstream_bench::{compare, latency, nexmark, throughput};
use millstream_ops::{Interrupt, JobArgs};
use millstream_workloads::nexmark::Query;
use millstream_workloads::throughput::Workload;
use millstream_workloads::throughput::data::EVENTS_DEFAULT;
use std::path::PathBuf;
use std::time::Duration;
use values::{at_least_one, duration, rate};

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// The Nexmark queries: full events with strings, result rows as text
    #[command(after_help = "\
Queries: q0, q1, q2, q3, q4, q5, q7, q8, q11, q11_gap1s, q12_eventtime. They and the format of their
rows are those of Nexmark for Flink; q11_gap1s has sessions that end after a second, q12_eventtime
windows of event time.

Events are made before the clock starts, or read from JSON lines as `millstream generate nexmark`
writes them.

With --checkpoint-dir the run is durable: killed and started again with --resume, it ends with the
same rows in the file of --output, each once.

Examples:
  millstream bench nexmark --query q5 --events 1000000 --slots 2
  millstream bench nexmark --query q3 --input events.jsonl.gz --output rows.txt
  millstream bench nexmark --query q8 --events 2000000 --runs 5 --format json
  millstream bench nexmark --query q5 --events 5000000 --source-rate 100000 --output rows.txt \\
    --checkpoint-dir checkpoints --checkpoint-interval 1s --resume")]
    Nexmark(NexmarkArgs),

    /// The throughput workloads: compact events, results into a check-sum
    #[command(after_help = "\
Workloads: q0 all events, q1 bids in euros, q2 bids on every 123rd auction, count bids so far per
auction, countp the same with only the auction crossing the exchange, q5 the auction with the most
bids in 10 s every 2 s, q7 the highest bid of every 10 s, q8 persons who sell within the 10 s in
which they registered, wc how often each word occurs.

The folder of --data gets ev.bin and text.txt if they are not there: a few hundred megabytes.

Examples:
  millstream bench throughput --workload q5 --slots 2
  millstream bench throughput --workload count --runs 5 --format json
  millstream bench throughput --workload wc --slots 2 --set flush_interval=5ms")]
    Throughput(ThroughputArgs),

    /// Latency at a steady rate, from the intended emission to the sink
    #[command(after_help = "\
Workloads: keyed-count gives a result per bid, the number of bids on its auction so far; q5 and q7
give one per window (as in `bench throughput`; event time runs at a second per 10,000 events).

Events are due at a fixed rate whatever the job does, and latency counts from when they were due: if
the job falls behind, it shows. The first 2 seconds are not recorded. \"Sustained\" says that all
was emitted on schedule.

Examples:
  millstream bench latency --workload keyed-count --rate 200k --duration 20s --slots 2
  millstream bench latency --workload keyed-count --rate 1M --duration 20s --slots 2 --idle spin
  millstream bench latency --workload q5 --rate 1M --duration 30s --hiccups --out plots")]
    Latency(LatencyArgs),

    /// The state store alone: read-modify-write per second, against a hand-written loop and fjall
    #[command(after_help = "\
Each operation adds one to a counter in a key's value. The store, a loop written by hand over the
same structure (an index and a log in huge pages, prefetched) and the LSM tree fjall are processes of
their own, which hold all keys in memory at once and take turns, A B A B. What counts is the median of
the ratios of pairs.

The comparison is void, and says so, if the loop written by hand is slower than 70 % of what it does
on an idle machine.

Examples:
  millstream bench state
  millstream bench state --keys 1M --distribution zipf --runs 9 --format json
  millstream bench state --keys 5M --value-size 200 --ops 20M --data /mnt/disk")]
    State(state::StateArgs),

    /// What checkpoints cost a running job: throughput, latency, pauses, bytes written
    #[command(after_help = "\
A keyed job of --state-size counts updates. Phases with checkpoints and without take turns in one
process; in each phase the updates fall on another part of the keys, --change-rate of all. First
come --pairs at full speed, then --pairs in an open loop. Checkpoints go to --checkpoint-dir, which
must not hold any, or to a temporary folder.

Throughput is events per second of processor time. Its ratio is the median of pairs, the interval
behind it holds the true one in 95 of 100 cases. Latency counts from when a record was due.

Examples:
  millstream bench checkpoint --state-size 10MiB --change-rate 10% --pairs 5
  millstream bench checkpoint --state-size 1GiB --change-rate 0.1 --checkpoint-dir /mnt/disk/bench
  millstream bench checkpoint --state-size 1GiB --change-rate 0.1 --slots 2 --rate 1M --format json")]
    Checkpoint(checkpoint::CheckpointArgs),

    /// How soon a job that was killed gives results again
    #[command(after_help = "\
A process fills a keyed job with --state-size, takes a checkpoint, goes on, and is killed (SIGKILL). A
second one resumes. What counts is the time from its start to the first new result of a key that is
drawn at random after the kill: its count, continued from the checkpoint. And the time to full rate.

Warm, the job's files have been read into the page cache before the kill. With --cold the system's
caches are dropped after it, which needs root.

Examples:
  millstream bench recovery --state-size 100MiB
  millstream bench recovery --state-size 1GiB --checkpoint-dir /mnt/disk/bench --format json
  sudo millstream bench recovery --state-size 1GiB --cold --watch 20s")]
    Recovery(recovery::RecoveryArgs),

    /// How soon a job goes on whose operator has failed
    #[command(after_help = "\
A job with --state-size takes a checkpoint, updates keys for --run-on, and its source fails. What counts
is the time from then to the first new result of a key that is drawn at random. After an error all slots go
back to the checkpoint in place; after a panic the slot reads the checkpoint's files. Both take turns.

Examples:
  millstream bench rollback --state-size 100MiB
  millstream bench rollback --state-size 1GiB --pairs 9 --format json")]
    Rollback(rollback::RollbackArgs),

    /// How fast records go between two hosts, beside plain sockets
    #[command(after_help = "\
The hosts are network namespaces that are made for this and removed: it needs root. On each runs one
process, on a core of its own; both send and receive. Ours and plain sockets take turns, A B A B.

With --mode batches it is batches that need no partitioning, with --mode rows a job's rows of 40 bytes,
which it partitions by the hash of their key.

Examples:
  sudo millstream bench shuffle --mode batches
  sudo millstream bench shuffle --mode rows --pairs 9 --format json")]
    Shuffle(between_hosts::ShuffleArgs),

    /// How long a record takes to another host and back, beside plain sockets
    #[command(
        name = "round-trip",
        after_help = "\
As with `bench shuffle`, there are two hosts, made for this, with a process on each; it needs root. One
record is on its way at a time, and both processes spin. Ours is a job with a source, a map on the other
host, and a sink.

Examples:
  sudo millstream bench round-trip
  sudo millstream bench round-trip --pairs 9 --format json"
    )]
    RoundTrip(between_hosts::RoundTripArgs),

    /// Sending without copying, where that is real, beside plain sends
    #[command(
        name = "zero-copy",
        after_help = "\
Datagrams of 60 KB are sent by a network card that drops them, so that nothing but the sending is
measured; the kernel says of each whether it has copied. The card is in a network namespace that is
made for this and removed: it needs root. Ours and plain sends take turns, A B A B.

Between namespaces and on loopback the kernel copies always, and ours falls back to plain sends: `bench
shuffle --mode batches` tells how soon.

Examples:
  sudo millstream bench zero-copy
  sudo millstream bench zero-copy --pairs 9 --format json"
    )]
    ZeroCopy(between_hosts::ZeroCopyArgs),

    /// What it costs a job that another host has a copy of its checkpoints
    #[command(after_help = "\
As with `bench shuffle`, there are two hosts, made for this, with a process on each; it needs root. They
run a keyed job of --state-size, which updates all keys in turn as fast as it can, and takes a
checkpoint each second. On one side each host keeps its part of it, on the other a copy of the other's
part too; they take turns, A B A B. What counts is updates per second of processor time of the task
slots' threads.

Examples:
  sudo millstream bench replication
  sudo millstream bench replication --state-size 256MiB --duration 10s --format json")]
    Replication(between_hosts::ReplicationArgs),

    /// How soon a job goes on when a host of its cluster is lost
    #[command(after_help = "\
A coordinator and three workers run on hosts of their own, which are network namespaces that are made for
this and removed: it needs root. A keyed job of --state-size runs on all three; its checkpoints are on
two workers each. One worker is killed with its process of the job (SIGKILL), or, with --silence,
reaches nobody any more. What counts is when clients of the coordinator see it, and when a key whose
state was lost has a new count.

Examples:
  sudo millstream bench failover --state-size 100MiB
  sudo millstream bench failover --state-size 1GiB --runs 5 --format json
  sudo millstream bench failover --state-size 100MiB --silence")]
    Failover(failover::FailoverArgs),

    /// The throughput workloads by ours and by other programs, in turns
    #[command(after_help = "\
The other programs are built by `cargo build --release` in bench/peers: a hand-written loop, renoir
and timely. Each loads the same files once; then they take turns with ours, A B A B. A timed run
lasts half a second or more. What counts is the median of the ratios of pairs (above 1, ours is
faster); behind it, the least and the greatest. Check-sums must be equal.

Nothing else should run on the machine. MILLSTREAM_* variables set how ours runs.

Examples:
  millstream bench compare --peers bench/peers
  millstream bench compare --workloads count,q5 --workers 2 --pairs 15
  millstream bench compare --best-settings --format json > comparison.json

With --latency it is the latency of the keyed count on two workers that is compared, in rounds: the
machine alone, ours spinning and parking, the others.
  millstream bench compare --latency 100k,200k,500k,1M --rounds 5 --duration 20s")]
    Compare(CompareArgs),
}

#[derive(Args)]
pub(crate) struct LatencyArgs {
    /// keyed-count, q5 or q7
    #[arg(long, value_name = "W")]
    workload: latency::Workload,

    /// Events per second, such as 200000, 200k or 1M
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: u64,

    /// How long, such as 20s or 2m
    #[arg(long, value_name = "D", value_parser = duration, default_value = "20s")]
    duration: Duration,

    /// Measure the machine's own pauses afterwards, for as long
    #[arg(long)]
    hiccups: bool,

    /// Write the distribution (.hgrm) and a plot (.svg) to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,

    #[command(flatten)]
    job: JobArgs,
}

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Folder of the programs to compare with, or the workspace in which they were built
    #[arg(long, value_name = "DIR", default_value = "bench/peers")]
    peers: PathBuf,

    /// Which workloads, separated by commas [default: all]
    #[arg(long, value_name = "W,...", value_delimiter = ',')]
    workloads: Vec<Workload>,

    /// Numbers of slots, and of the others' workers, separated by commas
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,2",
        value_parser = clap::value_parser!(u32).range(1..=1_024),
    )]
    workers: Vec<u32>,

    /// Pairs of runs
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// Events to read; wc reads the whole text
    #[arg(long, value_name = "N", default_value_t = EVENTS_DEFAULT, value_parser = at_least_one)]
    events: usize,

    /// Folder of the input files, which are written if they are not there
    #[arg(long, value_name = "DIR", default_value = "peers-data", env = "MILLSTREAM_DATA")]
    data: PathBuf,

    /// Also run the others with their best settings: renoir with batches of 16,384, and word count
    /// in two phases
    #[arg(long)]
    best_settings: bool,

    /// Compare latencies at these rates instead
    #[arg(
        long,
        value_name = "R,...",
        value_delimiter = ',',
        value_parser = rate,
        conflicts_with_all = ["workloads", "workers", "pairs", "events", "best_settings"],
    )]
    latency: Vec<u64>,

    /// How often each program has its turn, with --latency
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), requires = "latency")]
    rounds: u32,

    /// How long a run takes, with --latency
    #[arg(long, value_name = "D", value_parser = duration, default_value = "20s", requires = "latency")]
    duration: Duration,

    /// How the comparison is written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,
}

#[derive(Args)]
pub(crate) struct NexmarkArgs {
    /// Which query
    #[arg(long, value_name = "QUERY")]
    query: Query,

    /// Events to make, or to read from the file [default: 1000000, or the whole file]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,

    /// Read events from JSON lines; .gz and .zst are decompressed
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Write the rows of the last run: fields joined by |, in no particular order; of a result that
    /// is updated, the final table
    #[arg(long, value_name = "FILE")]
    output: Option<String>,

    #[command(flatten)]
    runs: RunArgs,
    #[command(flatten)]
    job: JobArgs,
}

#[derive(Args)]
pub(crate) struct ThroughputArgs {
    /// q0, q1, q2, count, countp, q5, q7, q8 or wc
    #[arg(long, value_name = "W")]
    workload: Workload,

    /// Events to read [default: 10000000]; wc reads the whole text
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    events: Option<usize>,

    /// Folder of the input files
    #[arg(long, value_name = "DIR", default_value = "peers-data", env = "MILLSTREAM_DATA")]
    data: PathBuf,

    /// One run for each line on standard input, as the programs in bench/peers do
    #[arg(long, hide = true)]
    interactive: bool,

    #[command(flatten)]
    runs: RunArgs,
    #[command(flatten)]
    job: JobArgs,
}

/// How often, and how figures are written.
#[derive(Args, Clone, Copy)]
struct RunArgs {
    /// Runs that count
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Runs before those that count [default: 1; 0 where rows are written or checkpoints are taken]
    #[arg(long, value_name = "R")]
    warm_ups: Option<u32>,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,
}

impl RunArgs {
    /// Runs before those that count, where there may be only one or not.
    fn warm_ups(self, is_once: bool) -> u32 {
        self.warm_ups.unwrap_or_else(|| u32::from(!is_once))
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    /// A line for people
    Text,
    /// A JSON object per run
    Json,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Text => Self::Text,
            FormatArg::Json => Self::Json,
        }
    }
}

impl Bench {
    pub(crate) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        match self {
            Self::Nexmark(args) => args.run(interrupt),
            Self::Throughput(args) => args.run(interrupt),
            Self::Latency(args) => args.run(interrupt),
            Self::State(args) => args.run(&interrupt),
            Self::Checkpoint(args) => args.run(interrupt),
            Self::Recovery(args) => args.run(interrupt),
            Self::Rollback(args) => args.run(interrupt),
            Self::Shuffle(args) => args.run(interrupt),
            Self::RoundTrip(args) => args.run(interrupt),
            Self::Failover(args) => args.run(interrupt),
            Self::ZeroCopy(args) => args.run(&interrupt),
            Self::Replication(args) => args.run(interrupt),
            Self::Compare(args) => args.run(&interrupt),
        }
    }
}

impl NexmarkArgs {
    fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        let session = session(&self.job, interrupt)?;
        let is_once = self.output.is_some() || session.config.checkpoint_dir().is_some();
        let options = nexmark::Options {
            query: self.query,
            events: self.events,
            input: self.input,
            output: self.output.as_deref().map(Destination::from),
            warm_ups: self.runs.warm_ups(is_once),
            runs: self.runs.runs,
            format: self.runs.format.into(),
        };
        Ok(nexmark::run(&options, &session)?)
    }
}

impl ThroughputArgs {
    fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        let session = session(&self.job, interrupt)?;
        let options = throughput::Options {
            workload: self.workload,
            events: self.events,
            data: self.data,
            warm_ups: self.runs.warm_ups(session.config.checkpoint_dir().is_some()),
            runs: self.runs.runs,
            format: self.runs.format.into(),
        };
        let run = if self.interactive { throughput::serve } else { throughput::run };
        Ok(run(&options, &session)?)
    }
}

impl LatencyArgs {
    fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        let session = session(&self.job, interrupt)?;
        let options = latency::Options {
            workload: self.workload,
            rate: self.rate,
            duration: self.duration,
            hiccups: self.hiccups,
            out: self.out,
            format: self.format.into(),
        };
        Ok(latency::run(&options, &session)?)
    }
}

impl CompareArgs {
    fn run(self, interrupt: &Interrupt) -> Result<(), Failure> {
        let ours = ours()?;
        if !self.latency.is_empty() {
            let options = compare::latency::Options {
                ours,
                peers: self.peers,
                rates: self.latency,
                rounds: self.rounds,
                duration: self.duration,
                data: self.data,
                format: self.format.into(),
            };
            return Ok(compare::latency::run(&options, interrupt)?);
        }
        let workloads =
            if self.workloads.is_empty() { Workload::ALL.to_vec() } else { self.workloads };
        let options = compare::Options {
            ours,
            peers: self.peers,
            workloads,
            workers: self.workers,
            pairs: self.pairs,
            events: self.events,
            data: self.data,
            best_settings: self.best_settings,
            format: self.format.into(),
        };
        Ok(compare::run(&options, interrupt)?)
    }
}

fn session(job: &JobArgs, interrupt: Interrupt) -> Result<Session, BenchError> {
    Ok(Session { config: job.config()?, metrics: job.serve_metrics()?, interrupt })
}

/// This program, to be started again.
fn ours() -> Result<PathBuf, BenchError> {
    std::env::current_exe().map_err(|error| {
        BenchError::Usage(format!("this program cannot find itself on the disk: {error}"))
    })
}
