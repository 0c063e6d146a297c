//! The folders that a job works in, and what lies there.

use crate::clock::Clock;
use crate::jobs::{self, Workload};
use crate::process::Process;
use anyhow::{Context, Result, ensure};
use millstream_hosts::Host;
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_protocol::{CheckpointKind, Manifest, StateFileEntry};
use millstream_storage::{CheckpointDirectory, LocalDirectory};
use millstream_types::CheckpointId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// The lines of each output, sorted.
pub type Lines = BTreeMap<String, Vec<String>>;

/// The victim's binary and its input, which many runs share.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    input: TempDir,
}

impl Program {
    /// The binary at `path`, with fresh input files.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let input = tempfile::tempdir()?;
        jobs::write_input(input.path())?;
        Ok(Self { path: path.into(), input })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What a workload writes if nothing happens to it.
    ///
    /// # Errors
    /// If it fails, or writes next to nothing.
    pub fn undisturbed(&self, workload: Workload) -> Result<Lines> {
        let site = Site::new()?;
        let mut command = site.command_without_checkpoints(self, workload);
        let status = Process::start(command.args(["--slots", "2"]))?.wait()?;
        ensure!(status.success(), "{workload}, undisturbed: {status}\n{}", site.log());
        let lines = site.lines()?;
        let count: usize = lines.values().map(Vec::len).sum();
        ensure!(count >= 40, "{workload} writes {count} lines, too few to test anything with");
        Ok(lines)
    }
}

/// The folders of one job. They are removed with this value.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    checkpoints: PathBuf,
}

impl Site {
    /// Empty ones.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("output"))?;
        let checkpoints = folder.path().join("checkpoints");
        Ok(Self { folder, checkpoints })
    }

    /// Ones with the checkpoints elsewhere.
    ///
    /// # Errors
    /// As [`Site::new`].
    pub fn with_checkpoints(checkpoints: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { checkpoints: checkpoints.into(), ..Self::new()? })
    }

    /// Where checkpoints lie.
    pub fn checkpoints(&self) -> &Path {
        &self.checkpoints
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// A run that takes no checkpoints.
    pub fn command_without_checkpoints(&self, program: &Program, workload: Workload) -> Command {
        self.complete(Command::new(&program.path), program, workload)
    }

    /// What tells a run what to do, wherever it is started.
    pub fn arguments(&self, program: &Program, workload: Workload) -> [OsString; 5] {
        let (input, output) = (program.input.path().into(), self.output().into());
        [workload.to_string().into(), "--input".into(), input, "--output".into(), output]
    }

    fn complete(&self, mut command: Command, program: &Program, workload: Workload) -> Command {
        command.args(self.arguments(program, workload));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(self.log_file().map_or_else(|_| Stdio::inherit(), Stdio::from));
        command
    }

    /// A run with checkpoints.
    pub fn command(&self, program: &Program, workload: Workload) -> Command {
        let mut command = self.command_without_checkpoints(program, workload);
        command.arg("--checkpoint-dir").arg(&self.checkpoints);
        command
    }

    /// A run on another host, which has the same disk and maybe a clock of its own, with checkpoints in this
    /// directory.
    pub(crate) fn command_on(
        &self,
        host: &Host,
        clock: Option<&Clock>,
        program: &Program,
        workload: Workload,
        checkpoints: &Path,
    ) -> Command {
        let command = match clock {
            None => host.command(&program.path),
            Some(clock) => {
                let mut command = host.command("env");
                command.args(clock.variables()).arg(&program.path);
                command
            }
        };
        let mut command = self.complete(command, program, workload);
        command.arg("--checkpoint-dir").arg(checkpoints);
        command
    }

    /// From now on checkpoints are looked for there.
    pub(crate) fn look_at(&mut self, checkpoints: PathBuf) {
        self.checkpoints = checkpoints;
    }

    fn log_file(&self) -> Result<File> {
        let path = self.folder.path().join("log");
        Ok(OpenOptions::new().create(true).append(true).open(path)?)
    }

    /// What all runs have said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The directory of checkpoints; none if it does not exist yet.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn directory(&self) -> Result<Option<CheckpointDirectory>> {
        if !self.checkpoints.is_dir() {
            return Ok(None);
        }
        let storage = LocalDirectory::open(&self.checkpoints)?;
        Ok(Some(CheckpointDirectory::on(Arc::new(storage))))
    }

    /// What lies in the directory of checkpoints.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn contents(&self) -> Result<Contents> {
        Ok(self.directory()?.map(|there| there.contents()).transpose()?.unwrap_or_default())
    }

    /// The newest complete checkpoint.
    ///
    /// # Errors
    /// If the directory cannot be looked at.
    pub fn newest(&self) -> Result<Option<CheckpointId>> {
        Ok(self.contents()?.complete.last_key_value().map(|(newest, _)| *newest))
    }

    /// True if the newest complete checkpoint is the job's last.
    ///
    /// # Errors
    /// If the directory cannot be looked at.
    pub fn has_final_checkpoint(&self) -> Result<bool> {
        let (Some(newest), Some(directory)) = (self.newest()?, self.directory()?) else {
            return Ok(false);
        };
        // One that cannot be read has just been deleted.
        let manifest = directory.manifest(newest).ok();
        Ok(manifest.is_some_and(|manifest| manifest.kind == CheckpointKind::Final))
    }

    /// The visible and the hidden files of the output.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn outputs(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.output())? {
            paths.push(entry?.path());
        }
        paths.sort_unstable();
        let is_hidden = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
        };
        Ok(paths.into_iter().partition(|path| !is_hidden(path)))
    }

    /// What a job has written that has ended well.
    ///
    /// # Errors
    /// If files cannot be read, or pieces are left.
    pub fn lines(&self) -> Result<Lines> {
        let (visible, hidden) = self.outputs()?;
        ensure!(hidden.is_empty(), "the job has ended and left {hidden:?}");
        let mut lines = Lines::new();
        for path in visible {
            // Each writer has a file `NAME.N`, or `NAME` if there is one.
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            ensure!(text.is_empty() || text.ends_with('\n'), "{} is cut off", path.display());
            lines.entry(name).or_default().extend(text.lines().map(str::to_owned));
        }
        lines.values_mut().for_each(|lines| lines.sort_unstable());
        Ok(lines)
    }

    /// Compares what was written with what should have been.
    ///
    /// # Errors
    /// If there is any difference: the first of them.
    pub fn check(&self, expected: &Lines) -> Result<()> {
        let found = self.lines()?;
        ensure!(*expected == found, "{}", difference(expected, &found));
        Ok(())
    }

    fn manifest(&self, checkpoint: CheckpointId) -> Result<Manifest> {
        let directory = self.directory()?.context("there are no checkpoints")?;
        Ok(directory.manifest(checkpoint)?)
    }

    /// The first snapshot of a checkpoint, and the state files that it names, oldest first.
    ///
    /// # Errors
    /// If its manifest cannot be read.
    pub fn files_of(&self, checkpoint: CheckpointId) -> Result<(PathBuf, Vec<PathBuf>)> {
        let manifest = self.manifest(checkpoint)?;
        let slot = manifest.slots.first().context("a checkpoint has slots")?;
        let snapshot = layout::checkpoint_path(checkpoint, &slot.snapshot.name);
        let path = |file: &StateFileEntry| self.checkpoints.join(layout::state_path(&file.name));
        Ok((self.checkpoints.join(snapshot), slot.state_files.iter().map(path).collect()))
    }

    /// A byte of state of some slots that belongs to this checkpoint and to none before: the name of its
    /// file, and where.
    ///
    /// # Errors
    /// If there is none, or a manifest cannot be read.
    pub fn new_state(&self, checkpoint: CheckpointId, slots: Range<u32>) -> Result<(String, u64)> {
        let mut before = BTreeMap::new();
        for earlier in self.contents()?.complete.into_keys().filter(|c| *c < checkpoint) {
            let manifest = self.manifest(earlier)?;
            for file in manifest.slots.into_iter().flat_map(|slot| slot.state_files) {
                let len = before.entry(file.name).or_insert(0);
                *len = file.len.max(*len);
            }
        }
        let manifest = self.manifest(checkpoint)?;
        let of_slots = manifest.slots.into_iter().filter(|slot| slots.contains(&slot.slot.0));
        let new = of_slots.flat_map(|slot| slot.state_files).find_map(|file| {
            let at = before.get(&file.name).copied().unwrap_or(0);
            (at < file.len).then_some((file.name, at))
        });
        new.context("the checkpoint has no state of its own")
    }
}

/// The first lines that one of the two has more often than the other.
pub fn difference(expected: &Lines, found: &Lines) -> String {
    let mut counts = BTreeMap::<(&str, &str), i64>::new();
    for (lines, each) in [(found, 1), (expected, -1)] {
        for (name, lines) in lines {
            lines.iter().for_each(|line| *counts.entry((name, line)).or_default() += each);
        }
    }
    let odd: Vec<_> = counts.into_iter().filter(|(_, count)| *count != 0).collect();
    let names = |lines: &Lines| lines.keys().cloned().collect::<Vec<_>>();
    format!(
        "outputs {:?}, expected {:?}; {} lines differ (too many: positive), such as {:#?}",
        names(found),
        names(expected),
        odd.len(),
        &odd[..odd.len().min(12)]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_too_many_or_missing_is_named() {
        let lines = |lines: &[&str]| {
            Lines::from([("out".to_owned(), lines.iter().map(|line| (*line).to_owned()).collect())])
        };
        let words = difference(&lines(&["a", "b", "b"]), &lines(&["a", "a", "b"]));
        assert!(words.contains("2 lines differ"), "{words}");
        assert!(words.contains("\"a\",\n        ),\n        1"), "{words}");
        assert!(words.contains("\"b\",\n        ),\n        -1"), "{words}");
    }

    #[test]
    fn all_files_of_an_output_count_and_pieces_are_not_left() {
        let site = Site::new().unwrap();
        for (name, text) in [("out.0", "b\n"), ("out.1", "a\n"), ("other", "c\n")] {
            fs::write(site.output().join(name), text).unwrap();
        }
        let lines = site.lines().unwrap();
        assert_eq!(lines["out"], ["a", "b"]);
        assert_eq!(lines["other"], ["c"]);
        fs::write(site.output().join(".out.inprogress-0-x"), "").unwrap();
        assert!(site.lines().is_err());
    }
}
