//! Whoever does not know the secret of a cluster changes nothing, whatever he sends to a member's port,
//! and learns nothing.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Cluster, MEMBERS, Moment, Pace, Program, Stranger};
use millstream_hosts::Hosts;
use std::time::{Duration, Instant};

/// How long a job runs at the least.
const RUN_SECONDS: f64 = 12.0;
/// Of each member.
const SILENT: usize = 200;
const SENDERS: usize = 20;
/// How long a member may take to come back among strangers. They would be let go after five seconds each,
/// some of them at a time.
const RETURN_MAX: Duration = Duration::from_secs(8);

#[test]
fn strangers_change_nothing_and_learn_nothing() -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let expected = program.undisturbed(Workload::Visits)?;
    let mut cluster = Cluster::new(&program, Workload::Visits, Pace::Seconds(RUN_SECONDS))?;
    cluster.add_flags(&["--checkpoint-interval", "50ms", "--log-level", "trace"]);
    disturb(&mut cluster).with_context(|| last_words(&cluster))?;
    cluster.site().check(&expected)?;
    for member in 0..MEMBERS {
        let log = cluster.log(member);
        ensure!(log.contains("DEBUG"), "a member says less than it was told to: {log}");
        ensure!(!log.contains(cluster.secret()), "the secret is in a log");
    }
    Ok(())
}

/// The ends of all logs.
fn last_words(cluster: &Cluster<'_>) -> String {
    let logs = (0..MEMBERS).map(|member| cluster.log(member));
    let ends = logs.map(|log| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    ends.collect::<Vec<_>>().join("\n----\n")
}

fn disturb(cluster: &mut Cluster<'_>) -> Result<()> {
    cluster.start_all()?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    for member in 0..MEMBERS {
        cluster.process(member)?.about().check_hides(cluster.secret())?;
    }
    let mut silent = Vec::new();
    for member in 0..MEMBERS {
        let host = cluster.hosts().host((member + 1) % MEMBERS);
        let (mut stranger, address) = (Stranger::new(host, 1), cluster.address(member));
        for _ in 0..SENDERS {
            let (noise, hello) = (stranger.noise(), stranger.hello());
            stranger.send_to_gate(address, &noise)?;
            stranger.send_to_gate(address, &hello)?;
            stranger.prove_wrongly(address)?;
        }
        for _ in 0..SILENT {
            silent.push(stranger.connect(address)?);
        }
    }
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    ensure!(cluster.recoveries() == 0, "the job has begun anew for strangers");
    // Nor do they keep members out.
    let begun = Instant::now();
    cluster.kill(&[2])?;
    cluster.start(2, &[])?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    let took = begun.elapsed();
    ensure!(took < RETURN_MAX, "among strangers a member takes {took:?} to come back");
    ensure!(cluster.recoveries() > 0, "no member was missed");
    cluster.wait()
}
