//! What a job does that finds its checkpoints in the wrong hands, of another job, damaged, or without
//! room: it says so in words, nothing is lost, and it ends as others do when the trouble is over.

use anyhow::{Context, Result, ensure};
use millstream_cluster_tests::jobs::Workload;
use millstream_cluster_tests::{Process, Program, Site, until};
use millstream_protocol::manifest::layout;
use millstream_types::CheckpointId;
use std::fs;
use std::path::Path;

/// Any workload does.
const WORKLOAD: Workload = Workload::Visits;
/// As many records per second as make a run of two seconds.
const RATE: &str = "10000";

fn program() -> Result<Program> {
    Program::new(env!("CARGO_BIN_EXE_victim"))
}

/// Starts a slow run.
fn start(site: &Site, program: &Program, flags: &[&str]) -> Result<Process> {
    let mut command = site.command(program, WORKLOAD);
    command.args(["--checkpoint-interval", "30ms", "--source-rate", RATE]);
    Process::start(command.args(flags))
}

/// Waits for the checkpoint of this number, or a later one.
fn wait_for_checkpoint(site: &Site, process: &mut Process, number: u64) -> Result<()> {
    until("a checkpoint", || {
        if let Some(status) = process.ended()? {
            anyhow::bail!("the process has ended with {status}:\n{}", site.log());
        }
        Ok((site.newest()? >= Some(CheckpointId(number))).then_some(()))
    })
}

/// A job that was killed after some checkpoints.
fn killed(program: &Program, flags: &[&str]) -> Result<Site> {
    let site = Site::new()?;
    let mut process = start(&site, program, flags)?;
    wait_for_checkpoint(&site, &mut process, 4)?;
    process.kill()?;
    Ok(site)
}

/// Runs the job as fast as it can, and gives its exit code and what it has said.
fn run(site: &Site, program: &Program, flags: &[&str]) -> Result<(Option<i32>, String)> {
    run_as(site, program, WORKLOAD, flags)
}

fn run_as(
    site: &Site,
    program: &Program,
    workload: Workload,
    flags: &[&str],
) -> Result<(Option<i32>, String)> {
    let before = site.log().len();
    let status = Process::start(site.command(program, workload).args(flags))?.wait()?;
    Ok((status.code(), site.log()[before..].to_owned()))
}

/// The job is refused with exit code 2, for a reason with these words.
fn assert_refused(site: &Site, program: &Program, flags: &[&str], words: &[&str]) -> Result<()> {
    let (code, said) = run(site, program, flags)?;
    ensure!(code == Some(2), "{flags:?}: exit code {code:?}: {said}");
    for word in words {
        ensure!(said.contains(word), "{flags:?}: \"{word}\" is missing in: {said}");
    }
    Ok(())
}

/// The job can be resumed, and ends as others do. Gives what it has said.
fn assert_resumes(site: &Site, program: &Program) -> Result<String> {
    let (code, said) = run(site, program, &["--resume", "--log-level", "info"])?;
    ensure!(code == Some(0), "resumed, it ends with {code:?}: {said}");
    ensure!(said.contains("going on from checkpoint"), "it has begun anew: {said}");
    site.check(&program.undisturbed(WORKLOAD)?)?;
    Ok(said)
}

#[test]
fn the_second_process_on_a_directory_says_who_holds_it() -> Result<()> {
    let program = program()?;
    let site = Site::new()?;
    let mut first = start(&site, &program, &[])?;
    wait_for_checkpoint(&site, &mut first, 1)?;
    let holder = format!("process {}", first.id());
    assert_refused(&site, &program, &["--resume"], &["in use by", &holder, layout::LOCK])?;
    first.kill()?;
    assert_resumes(&site, &program).map(drop)
}

#[test]
fn a_directory_with_checkpoints_is_not_overwritten() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &[])?;
    assert_refused(&site, &program, &[], &["--resume", "holds checkpoint"])?;
    assert_resumes(&site, &program).map(drop)
}

#[test]
fn the_checkpoint_of_another_program_is_refused() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &[])?;
    let before = site.contents()?;
    let (code, said) = run_as(&site, &program, Workload::Q5, &["--resume"])?;
    ensure!(code == Some(2), "exit code {code:?}: {said}");
    ensure!(said.contains("digest"), "it does not say which operator is missing: {said}");
    ensure!(site.contents()?.complete == before.complete, "checkpoints are gone");
    assert_resumes(&site, &program).map(drop)
}

#[test]
fn another_max_parallelism_is_refused() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &[])?;
    let flags = ["--resume", "--max-parallelism", "64"];
    assert_refused(&site, &program, &flags, &["max parallelism", "128", "64"])?;
    assert_resumes(&site, &program).map(drop)
}

#[test]
fn another_backend_is_refused() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &["--state", "segments"])?;
    let flags = ["--resume", "--state", "heap"];
    assert_refused(&site, &program, &flags, &["segments", "heap"])?;
    assert_resumes(&site, &program).map(drop)
}

/// Damages a file at a byte.
fn flip_bit(path: &Path, at: u64) -> Result<()> {
    let mut bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let at = usize::try_from(at)?;
    *bytes.get_mut(at).with_context(|| format!("{} is short", path.display()))? ^= 0x10;
    Ok(fs::write(path, bytes)?)
}

/// The newest checkpoint is damaged: the one before is used, with a warning, unless that is refused.
fn assert_falls_back(
    site: &Site,
    program: &Program,
    newest: CheckpointId,
    damaged: &Path,
) -> Result<()> {
    let name = damaged.file_name().unwrap_or_default().to_string_lossy();
    let strict = ["--resume", "--set", "resume_strict=true"];
    assert_refused(site, program, &strict, &[&name])?;
    let said = assert_resumes(site, program)?;
    let warning = format!("checkpoint {newest} cannot be used");
    ensure!(said.contains(&warning), "there is no warning: {said}");
    ensure!(said.contains(&*name), "the warning does not name {name}: {said}");
    Ok(())
}

#[test]
fn a_damaged_manifest_is_passed_over_with_a_warning() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &[])?;
    let newest = site.newest()?.context("there are checkpoints")?;
    let manifest = site.checkpoints().join(layout::manifest_path(newest));
    flip_bit(&manifest, fs::metadata(&manifest)?.len() / 2)?;
    assert_falls_back(&site, &program, newest, &manifest)
}

#[test]
fn a_damaged_snapshot_is_passed_over_with_a_warning() -> Result<()> {
    let program = program()?;
    for state in ["segments", "heap"] {
        let site = killed(&program, &["--state", state])?;
        let newest = site.newest()?.context("there are checkpoints")?;
        let (snapshot, _) = site.files_of(newest)?;
        flip_bit(&snapshot, fs::metadata(&snapshot)?.len() / 2)?;
        let name = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let strict = ["--resume", "--state", state, "--set", "resume_strict=true"];
        assert_refused(&site, &program, &strict, &[&name])?;
        let flags = ["--resume", "--state", state];
        let (code, said) = run(&site, &program, &flags)?;
        ensure!(code == Some(0), "{state}: exit code {code:?}: {said}");
        ensure!(said.contains(&format!("checkpoint {newest} cannot be used")), "{state}: {said}");
        site.check(&program.undisturbed(WORKLOAD)?)?;
    }
    Ok(())
}

#[test]
fn damaged_state_that_only_the_newest_checkpoint_has_is_passed_over_with_a_warning() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &["--state", "segments"])?;
    let newest = site.newest()?.context("there are checkpoints")?;
    let (name, at) = site.new_state(newest, 0..u32::MAX)?;
    let file = site.checkpoints().join(layout::state_path(&name));
    flip_bit(&file, at)?;
    assert_falls_back(&site, &program, newest, &file)
}

#[test]
fn a_missing_state_file_is_named_and_nothing_else_is_deleted() -> Result<()> {
    let program = program()?;
    let site = killed(&program, &["--state", "segments"])?;
    let newest = site.newest()?.context("there are checkpoints")?;
    let (_, files) = site.files_of(newest)?;
    // The first has been there the longest: other checkpoints need it too.
    let missing = files.first().context("a checkpoint has state files")?;
    let aside = missing.with_extension("aside");
    fs::rename(missing, &aside)?;
    let before = site.contents()?;
    let name = missing.file_name().unwrap_or_default().to_string_lossy();
    assert_refused(&site, &program, &["--resume"], &[&name])?;
    let strict = ["--resume", "--set", "resume_strict=true"];
    assert_refused(&site, &program, &strict, &[&name])?;
    ensure!(site.contents()? == before, "something was deleted");
    fs::rename(&aside, missing)?;
    assert_resumes(&site, &program).map(drop)
}

#[test]
fn sigterm_stops_with_a_checkpoint_and_the_job_goes_on_from_it() -> Result<()> {
    let program = program()?;
    for state in ["segments", "heap"] {
        let site = Site::new()?;
        // No checkpoint but the one at the stop.
        let mut command = site.command(&program, WORKLOAD);
        command.args(["--checkpoint-interval", "1h", "--source-rate", RATE, "--state", state]);
        let mut process = Process::start(&mut command)?;
        until("the job's output", || {
            ensure!(process.ended()?.is_none(), "it has ended: {}", site.log());
            Ok((!site.outputs()?.1.is_empty()).then_some(()))
        })?;
        process.terminate()?;
        let status = process.wait()?;
        ensure!(status.success(), "{state}: stopped, it ends with {status}: {}", site.log());
        ensure!(site.newest()?.is_some(), "{state}: it has stopped without a checkpoint");
        ensure!(!site.has_final_checkpoint()?, "{state}: it had ended before");
        let (visible, _) = site.outputs()?;
        ensure!(visible.is_empty(), "{state}: a stopped job has written {visible:?}");
        let (code, said) = run(&site, &program, &["--resume", "--state", state])?;
        ensure!(code == Some(0), "{state}: {said}");
        site.check(&program.undisturbed(WORKLOAD)?)?;
    }
    Ok(())
}

#[test]
fn a_finished_job_finishes_again_with_the_same_output() -> Result<()> {
    let program = program()?;
    let expected = program.undisturbed(WORKLOAD)?;
    for state in ["segments", "heap"] {
        let site = Site::new()?;
        let flags = ["--resume", "--state", state];
        for slots in ["2", "2", "1", "3"] {
            let (code, said) = run(&site, &program, &[&flags[..], &["--slots", slots]].concat())?;
            ensure!(code == Some(0), "{state}, {slots} slots: {said}");
            site.check(&expected).with_context(|| format!("{state}, {slots} slots"))?;
        }
    }
    Ok(())
}
