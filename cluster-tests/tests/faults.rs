//! Jobs on three hosts end with the results of undisturbed jobs on one, each line once, whatever happens
//! to their processes and to what joins their hosts.
//!
//! For a long run: `MILLSTREAM_FAULTS=20 cargo test -p millstream-cluster-tests --test faults`.

use anyhow::Result;
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Clock, ClusterTrial, Program, SmallDisk, Trouble, run_on_hosts};
use millstream_hosts::Hosts;

/// Runs jobs on several hosts, unless there can be none.
fn run(test: &str, seed: u64, troubles: &[Trouble], workloads: &[Workload]) -> Result<()> {
    run_with(false, test, seed, troubles, workloads)
}

fn run_with(
    copies: bool,
    test: &str,
    seed: u64,
    troubles: &[Trouble],
    workloads: &[Workload],
) -> Result<()> {
    if let Err(missing) = Hosts::delay_available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let of = |trouble| workloads.iter().map(move |workload| (trouble, *workload));
    let pairs = troubles.iter().flat_map(|trouble| of(*trouble));
    let trials = (seed..).zip(pairs);
    let trials =
        trials.map(|(seed, (trouble, workload))| ClusterTrial { workload, trouble, copies, seed });
    run_on_hosts("faults", test, &program, &trials.collect::<Vec<_>>())
}

#[test]
fn jobs_whose_members_are_killed_end_as_others_do() -> Result<()> {
    let troubles = [Trouble::KillOther, Trouble::KillFirst, Trouble::KillTwo];
    run("jobs_whose_members_are_killed", 1_000, &troubles, &Workload::ALL)
}

#[test]
fn jobs_that_meet_one_fault_after_the_other_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q5, Workload::Q8, Workload::Visits];
    run("jobs_that_meet_one_fault_after_the_other", 5_000, &[Trouble::Mixed], &workloads)
}

#[test]
fn slots_that_fail_alone_start_again_alone() -> Result<()> {
    for copies in [false, true] {
        let seed = 9_000 + 100 * u64::from(copies);
        run_with(copies, "slots_that_fail_alone", seed, &[Trouble::Trip; 2], &[Workload::Copies])?;
    }
    Ok(())
}

#[test]
fn jobs_whose_members_stand_still_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q5, Workload::Words, Workload::Visits];
    let troubles = [Trouble::StopOther, Trouble::StopFirst];
    run("jobs_whose_members_stand_still", 2_000, &troubles, &workloads)
}

#[test]
fn jobs_whose_hosts_are_parted_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q8, Workload::Q11, Workload::Visits];
    let troubles = [Trouble::Partition, Trouble::PartitionOneWay, Trouble::Isolate];
    run("jobs_whose_hosts_are_parted", 3_000, &troubles, &workloads)
}

#[test]
fn jobs_whose_checkpoints_are_copied_to_other_hosts_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Words, Workload::Visits];
    let troubles = [Trouble::KillOther, Trouble::StopOther, Trouble::Partition, Trouble::Isolate];
    run_with(true, "jobs_whose_checkpoints_are_copied", 6_000, &troubles, &workloads)
}

#[test]
fn jobs_on_a_host_whose_disk_is_full_for_a_while_end_as_others_do() -> Result<()> {
    if let Err(missing) = SmallDisk::available() {
        println!("skipped: {missing:#}");
        return Ok(());
    }
    for copies in [false, true] {
        let seed = 7_000 + 100 * u64::from(copies);
        let workloads = [Workload::Words, Workload::Visits, Workload::Q8];
        run_with(copies, "jobs_on_a_host_whose_disk", seed, &[Trouble::FullDisk], &workloads)?;
    }
    Ok(())
}

#[test]
fn jobs_whose_members_clocks_jump_end_as_others_do() -> Result<()> {
    if let Err(missing) = Clock::available() {
        println!("skipped: {missing:#}");
        return Ok(());
    }
    let troubles = [Trouble::ClockJump, Trouble::ClockBehind];
    for copies in [false, true] {
        let seed = 8_000 + 100 * u64::from(copies);
        let workloads = [Workload::Q5, Workload::Visits];
        run_with(copies, "jobs_whose_members_clocks", seed, &troubles, &workloads)?;
    }
    Ok(())
}

#[test]
fn jobs_on_long_narrow_and_lossy_lines_do_not_begin_anew() -> Result<()> {
    let workloads = [Workload::Q5, Workload::Words];
    let troubles = [Trouble::Delay, Trouble::Jitter, Trouble::Loss, Trouble::Bandwidth];
    run("jobs_on_long_narrow_and_lossy_lines", 4_000, &troubles, &workloads)
}
