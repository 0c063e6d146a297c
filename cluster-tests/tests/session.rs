//! Jobs that a coordinator places on workers end with the results of undisturbed jobs, each line once,
//! whatever of the cluster is lost: what is left of a job takes in others and goes on.
//!
//! For a long run: `MILLSTREAM_FAULTS=20 cargo test -p millstream-cluster-tests --test session`.

use anyhow::Result;
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Loss, Program, SessionTrial, run_on_hosts};
use millstream_hosts::Hosts;

fn run(test: &str, seed: u64, loss: Loss, workloads: &[Workload]) -> Result<()> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(());
    }
    let program = Program::new(env!("CARGO_BIN_EXE_victim"))?;
    let of = |workload: &Workload| [true, false].map(|first| (*workload, first));
    let trials = (seed..).zip(workloads.iter().flat_map(of));
    let trials = trials.map(|(seed, (workload, first))| SessionTrial {
        station: env!("CARGO_BIN_EXE_station").into(),
        workload,
        loss,
        first,
        seed,
    });
    run_on_hosts("session", test, &program, &trials.collect::<Vec<_>>())
}

#[test]
fn jobs_that_lose_a_process_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q5, Workload::Visits, Workload::Words];
    run("jobs_that_lose_a_process", 11_000, Loss::Process, &workloads)
}

#[test]
fn jobs_that_lose_a_worker_end_as_others_do() -> Result<()> {
    let workloads = [Workload::Q8, Workload::Visits, Workload::Q11];
    run("jobs_that_lose_a_worker", 12_000, Loss::Worker, &workloads)
}

#[test]
fn jobs_that_lose_a_host_end_as_others_do() -> Result<()> {
    run("jobs_that_lose_a_host", 13_001, Loss::Host, &[Workload::Q5, Workload::Visits])
}
