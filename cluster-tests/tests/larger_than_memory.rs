//! A job whose state is four times as large as the memory that it may have, with checkpoints, killed in
//! the middle and resumed: every value is right.
//!
//! In the sizes of a real limit, 512 MiB for 2 GiB:
//! `cargo test --release -p millstream-cluster-tests --test larger_than_memory`.

#[path = "../../state/tests/larger_than_memory/cgroup.rs"]
mod cgroup;

use anyhow::{Result, ensure};
use cgroup::Cgroup;
use millstream_cluster_tests::{Process, until};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const LIMIT: u64 = if cfg!(debug_assertions) { 96 << 20 } else { 512 << 20 };
/// Leaves room for the program, batches in flight, and what a checkpoint's files have in the page cache.
const BUDGET: u64 = LIMIT / 2;
/// A record of the state: 200 bytes, its key, and what the store adds.
const RECORD: u64 = 240;
const KEYS: u64 = 4 * LIMIT / RECORD;
const SAMPLES: u64 = 20_000;

fn command(group: &Cgroup, at: &Path) -> Command {
    let mut command = group.command(Path::new(env!("CARGO_BIN_EXE_hoard")));
    command
        .args(["--keys", &KEYS.to_string(), "--samples", &SAMPLES.to_string()])
        .arg("--output")
        .arg(at.join("sums"))
        .arg("--checkpoint-dir")
        .arg(at.join("checkpoints"))
        .args(["--checkpoint-interval", "2s", "--resume"])
        .env("MILLSTREAM_STATE_MEMORY", BUDGET.to_string())
        .stdin(Stdio::null());
    command
}

#[test]
fn a_job_with_four_times_as_much_state_as_memory_ends_right() -> Result<()> {
    let group = match Cgroup::new(LIMIT) {
        Ok(group) => group,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    let process = Process::start(&mut command(&group, at))?;
    // State files are there as soon as something has been written: kill it when most of the state is.
    let written = || -> u64 {
        let files = fs::read_dir(at.join("checkpoints/state")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    };
    until("most of the state is written", || Ok((written() > 3 * LIMIT).then_some(())))?;
    let status = process.kill()?;
    ensure!(!status.success(), "it was to be killed, and ended by itself");
    let status = Process::start(&mut command(&group, at))?.wait()?;
    ensure!(status.success(), "{status}; at its most it had {} bytes", group.peak());
    let sums = fs::read_to_string(at.join("sums"))?;
    ensure!(sums == format!("right: {}\n", 2 * KEYS + SAMPLES), "{sums}");
    println!("{} MiB of {} at the most", group.peak() >> 20, LIMIT >> 20);
    Ok(())
}
