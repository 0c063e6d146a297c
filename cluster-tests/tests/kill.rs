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

/// Kills all workloads: trials that differ from `like` in their workload.
fn of_all(like: Trial) -> impl Iterator<Item = Trial> {
    Workload::ALL.into_iter().map(move |workload| Trial { workload, ..like.clone() })
}

fn like(state: State, slots: &'static [u32], seed: u64, kills: Kills) -> Trial {
    Trial { workload: Workload::ALL[0], state, unaligned: false, slots, seed, kills }
}

fn kill(test: &str, like: impl IntoIterator<Item = Trial>) -> Result<()> {
    let tally = run_all(test, &program()?, like.into_iter().flat_map(of_all).collect())?;
    println!("{test}: {tally}");
    Ok(())
}

#[test]
fn killed_jobs_on_segments_end_as_others_do() -> Result<()> {
    kill("killed_jobs_on_segments", [like(State::Segments, &[2], 1_000, Kills::Anytime(8))])
}

#[test]
fn killed_jobs_on_small_segments_end_as_others_do() -> Result<()> {
    let like = like(State::SmallSegments, &[2], 2_000, Kills::Anytime(6));
    kill("killed_jobs_on_small_segments", [like])
}

#[test]
fn killed_jobs_on_the_heap_end_as_others_do() -> Result<()> {
    kill("killed_jobs_on_the_heap", [like(State::Heap, &[2], 3_000, Kills::Anytime(8))])
}

#[test]
fn jobs_resumed_with_another_number_of_slots_end_as_others_do() -> Result<()> {
    let states = [State::Segments, State::SmallSegments, State::Heap];
    kill(
        "jobs_resumed_with_another_number_of_slots",
        states.map(|state| like(state, &[1, 2, 3, 1], 4_000, Kills::Anytime(3))),
    )
}

#[test]
fn killed_jobs_whose_barriers_overtake_end_as_others_do() -> Result<()> {
    let unaligned =
        |state, slots| Trial { unaligned: true, ..like(state, slots, 6_000, Kills::Anytime(4)) };
    kill(
        "killed_jobs_whose_barriers_overtake",
        [
            unaligned(State::Segments, &[2]),
            unaligned(State::Heap, &[2]),
            unaligned(State::Segments, &[1, 2, 3, 1]),
        ],
    )
}

#[test]
fn outputs_are_complete_though_their_commit_was_killed() -> Result<()> {
    let states = [State::Segments, State::Heap];
    kill(
        "outputs_are_complete",
        states.map(|state| like(state, &[2, 1, 3], 5_000, Kills::InCommit(1))),
    )
}
