//! Damage on the disk of a member that does not control the job: where there is another copy, that is
//! used; else the checkpoint is passed over, as by a job on one host.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Cluster, MEMBERS, Moment, Pace, Program};
use millstream_hosts::Hosts;
use millstream_protocol::manifest::layout;
use std::fs;
use std::time::Duration;

/// Its state is in files.
const WORKLOAD: Workload = Workload::Visits;
/// Whose disk is damaged.
const MEMBER: usize = 1;
const SECONDS: f64 = 2.0;

/// Kills a job after some checkpoints, damages the newest on one host, and lets the job go on with what
/// all have then. Gives what the first member has said since, and the checkpoint.
fn damaged(flags: &[&str]) -> Result<Option<(String, String)>> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(None);
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let mut cluster = Cluster::new(&program, WORKLOAD, Pace::Seconds(SECONDS))?;
    cluster.part_checkpoints()?;
    cluster.add_flags(&["--checkpoint-interval", "50ms", "--log-level", "info"]);
    cluster.add_flags(flags);
    let result = damage_and_go_on(&mut cluster, &program);
    result.map(Some).with_context(|| cluster.logs())
}

fn damage_and_go_on(cluster: &mut Cluster<'_>, program: &Program) -> Result<(String, String)> {
    cluster.start_all()?;
    for _ in 0..4 {
        cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    }
    cluster.kill(&(0..MEMBERS).collect::<Vec<_>>())?;
    let newest = cluster.site().newest()?.context("there are checkpoints")?;
    let (name, at) = cluster.site().new_state(newest, Cluster::slots(MEMBER))?;
    let path = cluster.checkpoints(MEMBER).join(layout::state_path(&name));
    let mut bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    bytes[usize::try_from(at)?] ^= 0x10;
    fs::write(&path, bytes)?;
    let before = cluster.log(0).len();
    (0..MEMBERS).try_for_each(|member| cluster.start(member, &["--resume"]))?;
    cluster.wait()?;
    cluster.site().check(&program.undisturbed(WORKLOAD)?)?;
    let said = cluster.log(0)[before..].to_owned();
    ensure!(said.contains(&name), "nobody has found {name} damaged: {said}");
    Ok((said, newest.to_string()))
}

#[test]
fn a_checkpoint_that_another_member_has_damaged_is_passed_over_with_a_warning() -> Result<()> {
    let Some((said, newest)) = damaged(&[])? else { return Ok(()) };
    let warning = format!("checkpoint {newest} cannot be used");
    ensure!(said.contains(&warning), "there is no warning: {said}");
    let first = said.find(&format!("going on from checkpoint {newest}"));
    let last = said.rfind("going on from checkpoint");
    ensure!(first < last, "it has not gone on from another: {said}");
    Ok(())
}

#[test]
fn what_a_member_has_damaged_is_taken_from_one_that_has_a_copy() -> Result<()> {
    let flags = ["--set", "checkpoint_durability=replicated(1)"];
    let Some((said, newest)) = damaged(&flags)? else { return Ok(()) };
    ensure!(!said.contains("cannot be used"), "a checkpoint was passed over: {said}");
    let used = format!("going on from checkpoint {newest}");
    ensure!(said.matches(&used).count() == 2, "another was used: {said}");
    ensure!(said.matches("going on from").count() == 2, "another was used: {said}");
    Ok(())
}
