//! A job goes on from its checkpoints on other hosts than before, with other numbers of slots, and ends as
//! if nothing had happened.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Cluster, Moment, Pace, Program, Share};
use millstream_hosts::Hosts;
use std::fs;
use std::time::Duration;

/// Those with the most kinds of state.
const WORKLOADS: [Workload; 3] = [Workload::Visits, Workload::Q8, Workload::Words];
const EQUAL: &[Share] = &[(0, 2), (1, 2), (2, 2)];

/// One life of the job, which is killed, but for the last one.
struct Life {
    shares: &'static [Share],
    durability: &'static str,
    /// Hosts whose disks are new.
    empty: &'static [usize],
}

const fn life(shares: &'static [Share], durability: &'static str, empty: &'static [usize]) -> Life {
    Life { shares, durability, empty }
}

/// The job of each workload lives these lives and ends as others do.
fn run(own_checkpoints: bool, lives: &[Life]) -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    for workload in WORKLOADS {
        let mut cluster = Cluster::new(&program, workload, Pace::Seconds(3.0))?;
        cluster.add_flags(&["--checkpoint-interval", "50ms", "--log-level", "info"]);
        if own_checkpoints {
            cluster.part_checkpoints()?;
        }
        let result = live(&mut cluster, lives).and_then(|()| {
            cluster.site().check(&program.undisturbed(workload)?)?;
            let recoveries = cluster.recoveries();
            ensure!(recoveries + 1 >= lives.len(), "the job has gone on {recoveries} times");
            Ok(())
        });
        result.with_context(|| format!("{workload}\n{}", cluster.logs()))?;
    }
    Ok(())
}

fn live(cluster: &mut Cluster<'_>, lives: &[Life]) -> Result<()> {
    for (number, Life { shares, durability, empty }) in lives.iter().enumerate() {
        for host in *empty {
            fs::remove_dir_all(cluster.checkpoints(*host))?;
        }
        cluster.divide(shares)?;
        let durability = format!("checkpoint_durability={durability}");
        let flags = ["--set", &durability, "--resume"];
        cluster.start_all_with(if number == 0 { &flags[..2] } else { &flags })?;
        if number + 1 < lives.len() {
            // Two, so that one is of this life alone.
            cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
            cluster.wait_for(Moment::AfterCheckpoint(Duration::from_millis(100)))?;
            cluster.kill_all()?;
        }
    }
    cluster.wait()
}

#[test]
fn a_job_goes_on_with_fewer_and_more_hosts_that_share_its_checkpoints() -> Result<()> {
    let shares: [&[Share]; 4] = [EQUAL, &[(0, 1), (1, 1)], &[(1, 3)], &[(2, 1), (0, 2), (1, 3)]];
    run(false, &shares.map(|shares| life(shares, "local", &[])))
}

#[test]
fn a_job_goes_on_without_hosts_of_which_others_have_copies() -> Result<()> {
    let lives = [
        life(EQUAL, "replicated(1)", &[]),
        // The last host is gone, and then the first one; what is on the last is of long ago.
        life(&[(0, 3), (1, 1)], "replicated(1)", &[]),
        life(&[(1, 2), (2, 2)], "replicated(1)", &[]),
        // The first comes back with a new disk.
        life(&[(2, 1), (0, 1), (1, 1)], "replicated(1)", &[0]),
    ];
    run(true, &lives)
}

#[test]
fn a_job_goes_on_with_one_host_that_has_copies_of_all() -> Result<()> {
    let lives = [
        life(EQUAL, "replicated(2)", &[]),
        life(&[(1, 4)], "local", &[]),
        life(EQUAL, "replicated(2)", &[0, 2]),
    ];
    run(true, &lives)
}
