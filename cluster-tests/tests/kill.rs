//! Jobs that are killed with SIGKILL at random moments and resumed end with the results of jobs that
//! nothing has happened to, each line once.
//!
//! For a long run: `MILLSTREAM_KILLS=100 cargo test -p millstream-cluster-tests --test kill`.

use anyhow::Result;
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Kills, Program, State, Trial, run_all};

fn program() -> Result<Program> {
    Program::new(env!("CARGO_BIN_EXE_victim"))
}

/// Kills all workloads on each of these backends.
fn kill(
    test: &str,
    states: &[State],
    slots: &'static [u32],
    seed: u64,
    kills: Kills,
) -> Result<()> {
    let of = |state| {
        let of = move |workload| Trial { workload, state, slots, seed, kills };
        Workload::ALL.into_iter().map(of)
    };
    let tally = run_all(test, &program()?, states.iter().copied().flat_map(of).collect())?;
    println!("{test}: {tally}");
    Ok(())
}

#[test]
fn killed_jobs_on_segments_end_as_others_do() -> Result<()> {
    kill("killed_jobs_on_segments", &[State::Segments], &[2], 1_000, Kills::Anytime(8))
}

#[test]
fn killed_jobs_on_small_segments_end_as_others_do() -> Result<()> {
    kill("killed_jobs_on_small_segments", &[State::SmallSegments], &[2], 2_000, Kills::Anytime(6))
}

#[test]
fn killed_jobs_on_the_heap_end_as_others_do() -> Result<()> {
    kill("killed_jobs_on_the_heap", &[State::Heap], &[2], 3_000, Kills::Anytime(8))
}

#[test]
fn jobs_resumed_with_another_number_of_slots_end_as_others_do() -> Result<()> {
    let states = [State::Segments, State::SmallSegments, State::Heap];
    kill(
        "jobs_resumed_with_another_number_of_slots",
        &states,
        &[1, 2, 3, 1],
        4_000,
        Kills::Anytime(3),
    )
}

#[test]
fn outputs_are_complete_though_their_commit_was_killed() -> Result<()> {
    let states = [State::Segments, State::Heap];
    kill("outputs_are_complete", &states, &[2, 1, 3], 5_000, Kills::InCommit(1))
}
