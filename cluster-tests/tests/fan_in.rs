//! Where hosts have many slots, these share connections, and the job ends as if they did not.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Cluster, Moment, Pace, Program, Share};
use millstream_hosts::Hosts;
use std::fs;
use std::time::Duration;

/// As `/proc/net/tcp` has it.
const ESTABLISHED: &str = "01";
/// Those between two members that are not between slots: for control, and for files in either direction.
const OTHERS_MAX: usize = 3;

/// How many connections the first host has with the second.
fn connections(cluster: &Cluster<'_>) -> Result<usize> {
    let table =
        cluster.hosts().host(0).within(|| fs::read_to_string("/proc/thread-self/net/tcp"))??;
    let other = u32::from_ne_bytes(cluster.hosts().host(1).address().octets());
    let other = format!("{other:08X}:");
    let is_one = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let (remote, state) = (fields.next(), fields.next());
        remote.is_some_and(|remote| remote.starts_with(&other)) && state == Some(ESTABLISHED)
    };
    Ok(table.lines().skip(1).filter(is_one).count())
}

/// A job on hosts with so many slots has so many connections between slots of the first two, and ends as
/// others do.
fn run(shares: &[Share], fan_in_above: u32, flags: &[&str], expected: usize) -> Result<()> {
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    // A join, and timers.
    for workload in [Workload::Q8, Workload::Visits] {
        let mut cluster = Cluster::new(&program, workload, Pace::Seconds(2.0))?;
        cluster.divide(shares)?;
        cluster.add_flags(&["--set", &format!("fan_in_above={fan_in_above}")]);
        cluster.add_flags(flags);
        cluster.add_flags(&["--checkpoint-interval", "50ms", "--log-level", "info"]);
        let result = live(&mut cluster, expected)
            .and_then(|()| cluster.site().check(&program.undisturbed(workload)?));
        result.with_context(|| format!("{workload}\n{}", cluster.logs()))?;
    }
    Ok(())
}

fn live(cluster: &mut Cluster<'_>, expected: usize) -> Result<()> {
    cluster.start_all()?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    let found = connections(cluster)?;
    ensure!(
        (expected..=expected + OTHERS_MAX).contains(&found),
        "{found} connections, where {expected} are between slots"
    );
    cluster.wait()
}

#[test]
fn slots_of_hosts_with_many_share_connections() -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let (uneven, even): (&[Share], &[Share]) =
        (&[(0, 5), (1, 3), (2, 1)], &[(0, 4), (1, 4), (2, 4)]);
    run(uneven, 15, &[], 15)?;
    run(uneven, 14, &[], 5)?;
    run(even, 0, &["--set", "checkpoint_mode=unaligned"], 4)?;
    // The last slot of the second host has no subtask, and is a gateway all the same.
    run(even, 0, &["--parallelism", "7"], 4)
}
