//! Jobs that are killed with SIGKILL at random moments and resumed end with the results of jobs that
//! nothing has happened to, each line once.
//!
//! For a long run: `MILLSTREAM_KILLS=100 cargo test -p millstream-cluster-tests --test kill`.

use anyhow::Result;
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Program, Trial, run_all};

fn program() -> Result<Program> {
    Program::new(env!("CARGO_BIN_EXE_victim"))
}

/// All workloads on one backend.
fn trials(state: &'static str, slots: &'static [u32], seed: u64, kills: u32) -> Vec<Trial> {
    let of = |workload| Trial { workload, state, slots, seed, kills };
    Workload::ALL.into_iter().map(of).collect()
}

#[test]
fn killed_jobs_on_segments_end_as_others_do() -> Result<()> {
    run_all(
        "killed_jobs_on_segments_end_as_others_do",
        &program()?,
        trials("segments", &[2], 1_000, 8),
    )
    .map(drop)
}

#[test]
fn killed_jobs_on_the_heap_end_as_others_do() -> Result<()> {
    run_all("killed_jobs_on_the_heap_end_as_others_do", &program()?, trials("heap", &[2], 2_000, 7))
        .map(drop)
}

#[test]
fn jobs_resumed_with_another_number_of_slots_end_as_others_do() -> Result<()> {
    let slots = &[1, 2, 3, 1];
    let trials = [trials("segments", slots, 3_000, 4), trials("heap", slots, 4_000, 4)].concat();
    run_all("jobs_resumed_with_another_number_of_slots_end_as_others_do", &program()?, trials)
        .map(drop)
}
