//! Jobs that a coordinator places on workers end with the results of undisturbed jobs, each line once,
//! whatever of the cluster is lost: what is left of a job takes in others and goes on.
//!
//! For a long run: `MILLSTREAM_FAULTS=20 cargo test -p millstream-cluster-tests --test session`.

use Durability::{Copied, Nowhere, Shared};
use anyhow::Result;
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Durability, Loss, Program, Seen, SessionTrial, run_on_hosts};
use millstream_hosts::Hosts;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The first member is lost, or another.
const BOTH: [bool; 2] = [true, false];

/// Runs jobs in clusters, unless there can be none. What they have seen.
fn run(
    test: &str,
    seed: u64,
    loss: Loss,
    trials: impl IntoIterator<Item = (Workload, bool, Durability)>,
) -> Result<Option<Arc<Seen>>> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(None);
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let seen = Arc::new(Seen::default());
    let trials = (seed..).zip(trials);
    let trials = trials.map(|(seed, (workload, first, durability))| SessionTrial {
        station: env!("CARGO_BIN_EXE_station").into(),
        workload,
        loss,
        first,
        durability,
        seed,
        seen: Arc::clone(&seen),
    });
    run_on_hosts("session", test, &program, &trials.collect::<Vec<_>>())?;
    println!("{test}: {seen:?}");
    Ok(Some(seen))
}

/// With each of these workloads the first member is lost and another, with checkpoints here and there in turn.
fn in_turn(workloads: &[Workload]) -> impl Iterator<Item = (Workload, bool, Durability)> {
    let places = [Copied, Shared, Shared, Copied].into_iter().cycle();
    let all = workloads.iter().flat_map(|workload| BOTH.map(|first| (*workload, first)));
    all.zip(places).map(|((workload, first), place)| (workload, first, place))
}

/// What is left goes on as it stands, but where a slot is busy for half a second.
fn check(seen: Option<Arc<Seen>>) {
    let Some(seen) = seen else { return };
    let any = |number: &AtomicUsize| number.load(Ordering::Relaxed) > 0;
    assert!(any(&seen.went_on) && any(&seen.in_place), "{seen:?}");
}

#[test]
fn jobs_that_lose_a_process_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q5, Workload::Visits, Workload::Words];
    check(run("jobs_that_lose_a_process", 11_000, Loss::Process, in_turn(&workloads))?);
    Ok(())
}

#[test]
fn jobs_that_lose_a_worker_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q8, Workload::Visits, Workload::Q11];
    check(run("jobs_that_lose_a_worker", 12_000, Loss::Worker, in_turn(&workloads))?);
    Ok(())
}

#[test]
fn jobs_that_lose_a_host_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Visits, Workload::Q5];
    check(run("jobs_that_lose_a_host", 13_000, Loss::Host, in_turn(&workloads))?);
    Ok(())
}

#[test]
fn jobs_without_checkpoints_begin_anew_and_end_as_others_do() -> Result<()> {
    let trials = BOTH.map(|first| (Workload::Q5, first, Nowhere));
    if let Some(seen) = run("jobs_without_checkpoints", 14_000, Loss::Worker, trials)? {
        assert!(seen.began_anew.load(Ordering::Relaxed) > 0, "{seen:?}");
        assert_eq!(seen.went_on.load(Ordering::Relaxed), 0, "{seen:?}");
    }
    Ok(())
}
