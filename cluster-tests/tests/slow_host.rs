//! A job whose source is faster than the line to one of its hosts waits for that host: nothing grows.
//!
//! For a long run: `MILLSTREAM_SLOW_SECONDS=120 cargo test -p millstream-cluster-tests --test slow_host`.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Cluster, MEMBERS, Moment, Pace, Program, number};
use millstream_hosts::{Host, Hosts};
use std::fs;
use std::time::{Duration, Instant};

const BYTES_PER_SECOND: u64 = 200_000;
/// Without a bound, the source would fill more than this in a few seconds.
const RESIDENT_KIB_MAX: u64 = 128 * 1024;
/// How much it may have become more in the second half of the time.
const GROWTH_KIB_MAX: u64 = 32 * 1024;
const SECONDS: u64 = 20;
/// From one look to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How long it may take to stop: what is on the way by the slow line goes first.
const STOP_MAX: Duration = Duration::from_secs(30);

/// Bytes that a host has received.
fn received(host: &Host) -> Result<u64> {
    let table = host.within(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let bytes = line.and_then(|line| line.split_ascii_whitespace().next());
    Ok(bytes.context("a host without a card")?.parse()?)
}

#[test]
fn memory_is_bounded_though_a_host_is_slow() -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let mut cluster = Cluster::new(&program, Workload::Flood, Pace::Full)?;
    cluster.add_flags(&["--checkpoint-interval", "1s", "--log-level", "info"]);
    let result = watch(&mut cluster);
    result.with_context(|| cluster.logs())
}

fn watch(cluster: &mut Cluster<'_>) -> Result<()> {
    let seconds = number("MILLSTREAM_SLOW_SECONDS")?.unwrap_or(SECONDS);
    let time = Duration::from_secs(seconds);
    let slow = 1;
    let fault = cluster.hosts().bandwidth(slow, BYTES_PER_SECOND)?;
    cluster.start_all()?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    let (begun, received_before) = (Instant::now(), received(cluster.hosts().host(slow))?);
    // The most of each member in either half of the time.
    let mut most = [[0; 2]; MEMBERS];
    while begun.elapsed() < time {
        ensure!(cluster.ended()?.is_none(), "it has ended");
        let half = usize::from(begun.elapsed() > time / 2);
        for (member, most) in most.iter_mut().enumerate() {
            most[half] = cluster.process(member)?.about().resident_kib()?.max(most[half]);
        }
        #[expect(clippy::disallowed_methods, reason = "between two looks, with a bound")]
        std::thread::sleep(LOOK_INTERVAL);
    }
    let by_line = received(cluster.hosts().host(slow))? - received_before;
    let stopping = Instant::now();
    cluster.process(0)?.terminate()?;
    cluster.wait()?;
    let took = stopping.elapsed();
    println!("most KiB of each member: {most:?}; {by_line} bytes received; stopped in {took:?}");
    let could = BYTES_PER_SECOND * seconds;
    ensure!(by_line > could / 2, "the line was not what the job waited for: {by_line} bytes");
    for [first, second] in most {
        ensure!(second < RESIDENT_KIB_MAX, "a member has {second} KiB");
        ensure!(second < first + GROWTH_KIB_MAX, "a member grows from {first} KiB to {second}");
    }
    ensure!(took < STOP_MAX, "it has taken {took:?} to stop");
    ensure!(cluster.recoveries() == 0, "the job has begun anew");
    Ok(fault.heal()?)
}
