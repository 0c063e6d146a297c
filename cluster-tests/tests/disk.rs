//! Disks that are full or cannot be written.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Process, Program, Site, SmallDisk, until};
use millstream_types::CheckpointId;
use std::process::Command;

const WORKLOAD: Workload = Workload::Visits;
/// As many records per second as make a run of two seconds.
const RATE: &str = "10000";
/// More than the job's checkpoints need, and not much.
const ROOM_KIB: u64 = 32 << 10;

/// None, with the reason printed, where it cannot be had.
fn small_disk() -> Result<Option<SmallDisk>> {
    if let Err(missing) = SmallDisk::available() {
        println!("skipped: {missing:#}");
        return Ok(None);
    }
    SmallDisk::new(ROOM_KIB).map(Some)
}

fn program() -> Result<Program> {
    Program::new(env!("CARGO_BIN_EXE_victim"))
}

fn command(site: &Site, program: &Program, state: &str, flags: &[&str]) -> Command {
    let mut command = site.command(program, WORKLOAD);
    command.args(["--checkpoint-interval", "30ms", "--state", state]).args(flags);
    command
}

fn wait_for_checkpoint(site: &Site, process: &mut Process, number: u64) -> Result<()> {
    until("a checkpoint", || {
        if let Some(status) = process.ended()? {
            anyhow::bail!("the process has ended with {status}:\n{}", site.log());
        }
        Ok((site.newest()? >= Some(CheckpointId(number))).then_some(()))
    })
}

#[test]
fn on_a_full_disk_checkpoints_fail_and_nothing_is_lost() -> Result<()> {
    let program = program()?;
    let expected = program.undisturbed(WORKLOAD)?;
    for state in ["heap", "segments"] {
        let Some(disk) = small_disk()? else { return Ok(()) };
        let site = Site::with_checkpoints(disk.path().join("checkpoints"))?;
        let flags = ["--source-rate", RATE, "--set", "checkpoint_tolerable_failures=2"];
        let flags = [&flags[..], &["--set", "restart=none"]].concat();
        let mut process = Process::start(&mut command(&site, &program, state, &flags))?;
        wait_for_checkpoint(&site, &mut process, 2)?;
        // A checkpoint that still completes makes room, once.
        let status = until("the failure of the job", || {
            disk.fill()?;
            process.ended()
        })?;
        let log = site.log();
        ensure!(status.code() == Some(1), "{state}: the job ends with {status}: {log}");
        let failed = log.matches(" failed: ").count();
        ensure!(failed >= 3, "{state}: only {failed} checkpoints had failed: {log}");
        let last = log.lines().rfind(|line| line.starts_with("error:")).unwrap_or_default();
        ensure!(
            last.contains("No space left on device") && last.contains(&*site_name(&site)),
            "{state}: the error does not say which file had no room: {last}"
        );
        let kept = site.contents()?.complete;
        ensure!(!kept.is_empty(), "{state}: no checkpoint is left");

        // What the job has deleted at its end makes room too.
        disk.fill()?;
        let again = Process::start(&mut command(&site, &program, state, &["--resume"]))?.wait()?;
        ensure!(!again.success(), "{state}: the disk was not full");
        ensure!(site.contents()?.complete == kept, "{state}: something was lost");

        disk.free()?;
        let status = Process::start(&mut command(&site, &program, state, &["--resume"]))?.wait()?;
        ensure!(
            status.success(),
            "{state}: with room again, it ends with {status}: {}",
            site.log()
        );
        site.check(&expected).context(state)?;
    }
    Ok(())
}

fn site_name(site: &Site) -> String {
    site.checkpoints().display().to_string()
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_and_kept() -> Result<()> {
    let program = program()?;
    let Some(disk) = small_disk()? else { return Ok(()) };
    let site = Site::with_checkpoints(disk.path().join("checkpoints"))?;
    let slow = ["--source-rate", RATE];
    let mut process = Process::start(&mut command(&site, &program, "segments", &slow))?;
    wait_for_checkpoint(&site, &mut process, 2)?;
    process.kill()?;
    let kept = site.contents()?;
    disk.remount("ro")?;
    let resume = ["--resume"];
    let status = Process::start(&mut command(&site, &program, "segments", &resume))?.wait()?;
    let log = site.log();
    ensure!(status.code() == Some(2), "it ends with {status}: {log}");
    ensure!(log.contains(&*site_name(&site)), "the directory is not named: {log}");
    ensure!(log.contains("Read-only file system"), "the reason is not said: {log}");
    disk.remount("rw")?;
    ensure!(site.contents()? == kept, "something was lost");
    let status = Process::start(&mut command(&site, &program, "segments", &resume))?.wait()?;
    ensure!(status.success(), "writable again, it ends with {status}: {}", site.log());
    site.check(&program.undisturbed(WORKLOAD)?)
}

#[test]
fn a_job_whose_state_fits_neither_memory_nor_disk_fails_and_can_go_on_later() -> Result<()> {
    let program = program()?;
    let Some(disk) = small_disk()? else { return Ok(()) };
    let site = Site::with_checkpoints(disk.path().join("checkpoints"))?;
    // Checkpoints may fail as often as they like: it is the state that needs room.
    let flags = ["--source-rate", RATE, "--set", "checkpoint_tolerable_failures=1000"];
    let small = ["--set", "state_memory=256KiB", "--segment-bytes", "32768"];
    let flags = [&flags[..], &small, &["--set", "restart=none"]].concat();
    let mut process = Process::start(&mut command(&site, &program, "segments", &flags))?;
    wait_for_checkpoint(&site, &mut process, 2)?;
    let status = until("the failure of the job", || {
        disk.fill()?;
        process.ended()
    })?;
    let log = site.log();
    ensure!(status.code() == Some(1), "the job ends with {status}: {log}");
    let last = log.lines().rfind(|line| line.starts_with("error:")).unwrap_or_default();
    ensure!(
        last.contains("No space left on device") && last.contains(".segment"),
        "the error does not say which file had no room: {last}"
    );
    disk.free()?;
    let resume = ["--resume"];
    let status = Process::start(&mut command(&site, &program, "segments", &resume))?.wait()?;
    ensure!(status.success(), "with room again, it ends with {status}: {}", site.log());
    site.check(&program.undisturbed(WORKLOAD)?)
}
