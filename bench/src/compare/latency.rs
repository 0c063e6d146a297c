//! The latency of the keyed count, by ours and by other programs, in turns.
//!
//! Each turn is a run from start to end, in an open loop on two workers: first the machine alone,
//! then ours in its idle policies, then the others, and again from the beginning. What counts is the
//! median over the rounds.

use crate::host::{self, Host};
use crate::latency::{Percentiles, Ticks, WARM_UP, measure_hiccups};
use crate::process::run_to_end;
use crate::statistics::Spread;
use crate::throughput;
use crate::{BenchError, Format};
use millstream_ops::{Interrupt, count};
use millstream_workloads::throughput::Workload;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The workers of every program.
const WORKERS: u32 = 2;
/// Events of the input from which the others take their keys.
const EVENTS: usize = 1_000_000;

/// What to compare.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that is this one: run as `OURS bench latency`.
    pub ours: PathBuf,
    /// The folder of the programs, or the workspace `bench/peers` in which they were built.
    pub peers: PathBuf,
    /// Events per second.
    pub rates: Vec<u64>,
    /// How often each program has its turn.
    pub rounds: u32,
    /// How long a run emits, the warm-up included.
    pub duration: Duration,
    /// The folder of the others' input, which is written if it is not there.
    pub data: PathBuf,
    /// How the comparison is written.
    pub format: Format,
}

/// One run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Run {
    #[serde(flatten)]
    latency: Percentiles,
    sustained: bool,
}

/// All runs of a program at a rate.
#[derive(Serialize)]
struct Turns {
    rate: u64,
    program: &'static str,
    p50_us: Spread,
    p99_us: Spread,
    p999_us: Spread,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    host: Host,
    duration_seconds: f64,
    rounds: u32,
    results: Vec<Turns>,
}

/// A program that has its turn.
struct Contender {
    name: &'static str,
    run: Box<dyn Fn(u64) -> Result<Run, BenchError>>,
}

/// Compares, and reports a table or one JSON object.
///
/// # Errors
/// If the options make no sense or a program fails.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    if options.duration <= WARM_UP {
        return Err(BenchError::Usage(format!(
            "--duration: the first {WARM_UP:?} are not recorded; measure for longer, for example 20s"
        )));
    }
    throughput::ensure(Workload::Count, Some(EVENTS), &options.data, interrupt)?;
    host::warn_if_busy();
    let contenders = contenders(options, interrupt);
    let mut results = Vec::new();
    for &rate in &options.rates {
        let mut runs: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (contender, runs) in contenders.iter().zip(&mut runs) {
                let run = (contender.run)(rate)?;
                eprintln!("{:>9}/s  {:<18}{}", count(rate), contender.name, run.latency);
                runs.push(run);
            }
        }
        let turns = contenders.iter().zip(runs);
        results.extend(turns.map(|(contender, runs)| Turns::new(rate, contender.name, runs)));
    }
    let report = Report {
        benchmark: "compare latency",
        host: Host::probe(),
        duration_seconds: options.duration.as_secs_f64(),
        rounds: options.rounds,
        results,
    };
    options.format.write(&report, || report.table())
}

fn contenders(options: &Options, interrupt: &Interrupt) -> Vec<Contender> {
    let mut contenders = vec![Contender {
        name: "the machine alone",
        run: {
            let (duration, interrupt) = (options.duration, interrupt.clone());
            Box::new(move |rate| {
                let ticks = Ticks { rate, slots: WORKERS, duration: duration - WARM_UP };
                let latency = Percentiles::of(&measure_hiccups(ticks, &interrupt)?);
                Ok(Run { latency, sustained: true })
            })
        },
    }];
    for (name, idle) in [("millstream spin", "spin"), ("millstream park", "park")] {
        let (options, interrupt) = (options.clone(), interrupt.clone());
        let run = move |rate: u64| {
            let mut command = Command::new(&options.ours);
            command
                .args(["bench", "latency", "--workload", "keyed-count", "--format", "json"])
                .args(["--slots", &WORKERS.to_string(), "--rate", &rate.to_string()])
                .args(["--duration", &format!("{}ms", options.duration.as_millis())])
                .args(["--idle", idle])
                .env_remove("MILLSTREAM_METRICS");
            let line = run_to_end(command, name, limit(options.duration), &interrupt)?;
            serde_json::from_str(&line).map_err(|error| unreadable(name, &line, &error.to_string()))
        };
        contenders.push(Contender { name, run: Box::new(run) });
    }
    // As each does best: renoir flushes when nothing is due, timely advances its time in every loop
    // (by a quantum of 1 ns; at 0 it only flushes, and its exchange waits for full buffers).
    for (name, program, mode, wait) in
        [("renoir", "renoir_b", "flush", "yield"), ("timely", "timely_b", "1", "spin")]
    {
        let Some(path) = super::peers::find(&options.peers, program) else { continue };
        let (options, interrupt) = (options.clone(), interrupt.clone());
        let run = move |rate: u64| {
            let command = peer_command(&path, &options, rate, mode, wait);
            let line = run_to_end(command, name, limit(options.duration), &interrupt)?;
            parse_peer(&line, options.duration).ok_or_else(|| unreadable(name, &line, "no figures"))
        };
        contenders.push(Contender { name, run: Box::new(run) });
    }
    contenders
}

fn peer_command(path: &Path, options: &Options, rate: u64, mode: &str, wait: &str) -> Command {
    let seconds = options.duration.as_secs().to_string();
    let mut command = Command::new(path);
    command.args(["lat", &rate.to_string(), mode, &seconds, wait]).env("PEERS_DATA", &options.data);
    command
}

/// A program that fell behind needs its time, but not for ever.
fn limit(duration: Duration) -> Duration {
    duration * 5 + Duration::from_secs(30)
}

fn unreadable(program: &str, line: &str, reason: &str) -> BenchError {
    BenchError::Peer {
        program: program.to_owned(),
        reason: format!("answered what is no result ({reason}): {line}"),
    }
}

/// `LAT,peer,mode,rate,samples,p50,p99,p99.9,p99.99,max,seconds,seconds asked for`, times in µs.
fn parse_peer(line: &str, duration: Duration) -> Option<Run> {
    let fields: Vec<&str> = line.trim().strip_prefix("LAT,")?.split(',').collect();
    let figures: Vec<f64> = fields.get(4..10)?.iter().filter_map(|f| f.parse().ok()).collect();
    let [p50_us, p99_us, p999_us, p9999_us, max_us, seconds] = figures[..] else { return None };
    let late = seconds - duration.as_secs_f64();
    Some(Run {
        latency: Percentiles { p50_us, p90_us: None, p99_us, p999_us, p9999_us, max_us },
        // It begins a fifth of a second after its clock does.
        sustained: late <= 0.3 + duration.as_secs_f64() / 100.0,
    })
}

impl Turns {
    fn new(rate: u64, program: &'static str, runs: Vec<Run>) -> Self {
        let spread = |of: fn(&Percentiles) -> f64| Spread::of(runs.iter().map(|r| of(&r.latency)));
        Self {
            rate,
            program,
            p50_us: spread(|p| p.p50_us),
            p99_us: spread(|p| p.p99_us),
            p999_us: spread(|p| p.p999_us),
            runs,
        }
    }
}

impl Report {
    fn table(&self) -> String {
        let mut table = format!(
            "{}\nlatency of the keyed count in us, {WORKERS} workers, {} rounds of {} s, of which \
             the first {} do not count: median (least to most)\n\n{:>11}  {:<18} {:>26} {:>26} {:>26}",
            self.host,
            self.rounds,
            self.duration_seconds,
            WARM_UP.as_secs(),
            "rate",
            "",
            "p50",
            "p99",
            "p99.9",
        );
        for Turns { rate, program, p50_us, p99_us, p999_us, runs } in &self.results {
            // Writing to a string does not fail.
            let _ = write!(table, "\n{:>9}/s  {program:<18}", count(*rate));
            for Spread { median, min, max } in [p50_us, p99_us, p999_us] {
                let _ = write!(table, " {:>26}", format!("{median:.1} ({min:.1} to {max:.1})"));
            }
            if runs.iter().any(|run| !run.sustained) {
                table.push_str("  NOT SUSTAINED");
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peers_report_is_understood() {
        let line = "LAT,timely,q0ns/spin,100000,1800000,4.6,1210.0,6260.1,7000.0,9999.5,20.21,20\n";
        let run = parse_peer(line, Duration::from_secs(20)).unwrap();
        assert!(run.sustained);
        assert_eq!(run.latency.p50_us, 4.6);
        assert_eq!(run.latency.p999_us, 6260.1);
        assert_eq!(run.latency.max_us, 9999.5);
        let behind = line.replace("20.21", "25.0");
        assert!(!parse_peer(&behind, Duration::from_secs(20)).unwrap().sustained);
        assert!(parse_peer("LAT,timely,q0ns/spin,100000,no samples", Duration::ZERO).is_none());
    }

    #[test]
    fn what_ours_reports_is_understood() {
        let line = r#"{"benchmark":"latency","rate":1,"p50_us":1.5,"p90_us":2.0,"p99_us":3.0,"p999_us":4.0,"p9999_us":5.0,"max_us":6.0,"sustained":true}"#;
        let run: Run = serde_json::from_str(line).unwrap();
        assert!(run.sustained && run.latency.p99_us == 3.0);
    }
}
