//! `millstream checkpoints`: what a job has left in its checkpoint directory.

use crate::{Failure, with_causes, write_to_stdout};
use clap::{Args, Subcommand};
use millstream_ops::Exit;
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_state::{SegmentsBackend, StateBackend, check_segment};
use millstream_storage::{
    CheckpointDirectory, CheckpointError, CheckpointInfo, Cleaned, DirectoryLock, Location,
    LockError, StateFileReader, StorageError,
};
use millstream_types::CheckpointId;
use serde_json::{Value, json};
use std::error::Error;

#[derive(Subcommand)]
pub(crate) enum Checkpoints {
    /// What is there: id, kind, time, size, and whether it is complete
    #[command(after_help = "\
Examples:
  millstream checkpoints list /var/lib/job
  millstream checkpoints list /var/lib/job --json

The size is that of all files that a checkpoint needs; checkpoints share most of them.
A checkpoint that is incomplete was being taken when the job ended, or is being taken now.")]
    List(ListArgs),
    /// Read checkpoints and compare checksums
    #[command(after_help = "\
Examples:
  millstream checkpoints verify /var/lib/job
  millstream checkpoints verify /var/lib/job 12 13

Exit codes: 0 all are whole, 1 one is damaged. Those that never were completed are shown, and count
only if they are asked for by their id.")]
    Verify(VerifyArgs),
    /// Delete checkpoints, with the files that no other one needs
    #[command(after_help = "\
Examples:
  millstream checkpoints delete /var/lib/job 12 13
  millstream checkpoints delete /var/lib/job --orphans

The job that writes there must be stopped. In a directory it holds a lock, so that one that is not is
noticed; in an object store it does not.")]
    Delete(DeleteArgs),
}

#[derive(Args)]
struct Place {
    /// The checkpoint directory of a job; in an object store:
    /// s3://bucket/prefix?endpoint=http://host:9000
    #[arg(value_name = "DIR")]
    location: Location,

    /// Write a JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    place: Place,

    /// Which ones, as `list` calls them [default: all]
    #[arg(value_name = "ID", value_parser = checkpoint_id)]
    checkpoints: Vec<CheckpointId>,
}

#[derive(Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    place: Place,

    /// Which ones, as `list` calls them
    #[arg(value_name = "ID", value_parser = checkpoint_id, required_unless_present = "orphans")]
    checkpoints: Vec<CheckpointId>,

    /// Also what belongs to no complete checkpoint
    #[arg(long)]
    orphans: bool,
}

impl Checkpoints {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(args) => args.run(),
            Self::Verify(args) => args.run(),
            Self::Delete(args) => args.run(),
        }
    }
}

impl ListArgs {
    fn run(self) -> Result<(), Failure> {
        let directory = self.place.open()?;
        let list = directory.list()?;
        self.place.say_if_empty(list.len());
        let mut lines = Vec::new();
        if !self.place.json && !list.is_empty() {
            lines.push(row(["ID", "KIND", "TAKEN (UTC)", "SIZE", "STATE"]));
        }
        for info in &list {
            lines.push(if self.place.json { described(info).to_string() } else { in_a_row(info) });
        }
        print(&lines)
    }
}

impl VerifyArgs {
    fn run(self) -> Result<(), Failure> {
        let directory = self.place.open()?;
        let all = self.checkpoints.is_empty();
        let contents = directory.contents()?;
        check_known(&contents, &self.checkpoints)?;
        let checkpoints = if all { contents.checkpoints().collect() } else { self.checkpoints };
        self.place.say_if_empty(checkpoints.len());
        let mut damaged = 0;
        for &checkpoint in &checkpoints {
            let verified = directory.verify(checkpoint, &check_state_file);
            if let Err(error) = &verified {
                // The job that writes here may have deleted it meanwhile.
                let gone = !directory.contents()?.checkpoints().any(|id| id == checkpoint);
                match error {
                    _ if gone && all => continue,
                    CheckpointError::Incomplete { .. } if all => {}
                    _ => damaged += 1,
                }
            }
            let line = match (&verified, self.place.json) {
                (_, true) => json!({
                    "checkpoint": checkpoint.0,
                    "whole": verified.is_ok(),
                    "problem": verified.as_ref().err().map(|error| with_causes(error)),
                })
                .to_string(),
                (Ok(manifest), false) => {
                    let size = size(manifest.referenced_bytes());
                    format!("checkpoint {checkpoint}: whole, {size}")
                }
                (Err(error), false) => format!("checkpoint {checkpoint}: {}", with_causes(error)),
            };
            print(&[line])?;
        }
        match damaged {
            0 => Ok(()),
            _ => Err(Failure {
                exit: Exit::Failed,
                message: format!("{damaged} of {} checkpoints cannot be used", checkpoints.len()),
            }),
        }
    }
}

impl DeleteArgs {
    fn run(self) -> Result<(), Failure> {
        let directory = self.place.open()?;
        // All are there, or none is deleted.
        check_known(&directory.contents()?, &self.checkpoints)?;
        let lock = self.place.location.directory().map(|path| path.join(layout::LOCK));
        let _lock = lock.map(|path| DirectoryLock::acquire(&path)).transpose()?;
        for &checkpoint in &self.checkpoints {
            let cleaned = directory.delete(checkpoint)?;
            let line = match self.place.json {
                true => deleted(Some(checkpoint), &cleaned).to_string(),
                false => format!(
                    "checkpoint {checkpoint}: deleted, and {} with it",
                    counted(cleaned.state_files.len(), "state file")
                ),
            };
            print(&[line])?;
            self.warn(&cleaned);
        }
        if self.orphans {
            let cleaned = directory.clean_orphans()?;
            let line = match self.place.json {
                true => deleted(None, &cleaned).to_string(),
                false => format!(
                    "orphans: deleted {}, {} and {}",
                    counted(cleaned.folders.len(), "incomplete checkpoint"),
                    counted(cleaned.state_files.len(), "state file"),
                    counted(cleaned.unfinished, "unfinished file")
                ),
            };
            print(&[line])?;
            self.warn(&cleaned);
        }
        Ok(())
    }

    fn warn(&self, cleaned: &Cleaned) {
        if let Some(error) = &cleaned.protected_by {
            eprintln!(
                "warning: state files are kept, since a checkpoint that cannot be read may need \
                 them: {}",
                with_causes(error)
            );
        }
    }
}

impl Place {
    fn open(&self) -> Result<CheckpointDirectory, Failure> {
        CheckpointDirectory::open_at(&self.location).map_err(|error| {
            let missing = matches!(error, CheckpointError::Storage(StorageError::NotFound { .. }));
            let failure = Failure::from(error);
            if missing { Failure { exit: Exit::Usage, ..failure } } else { failure }
        })
    }

    fn say_if_empty(&self, count: usize) {
        if count == 0 {
            eprintln!("{}: there are no checkpoints", self.location);
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let exit = match error {
            CheckpointError::NoCheckpoints { .. }
            | CheckpointError::Unknown { .. }
            | CheckpointError::Storage(StorageError::BadLocation { .. }) => Exit::Usage,
            _ => Exit::Failed,
        };
        Self { exit, message: with_causes(&error) }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let exit = match error {
            LockError::Held { .. } => Exit::Usage,
            LockError::Io { .. } => Exit::Failed,
        };
        Self { exit, message: with_causes(&error) }
    }
}

fn check_known(contents: &Contents, checkpoints: &[CheckpointId]) -> Result<(), Failure> {
    let known = |checkpoint| contents.checkpoints().any(|present| present == checkpoint);
    match checkpoints.iter().find(|checkpoint| !known(**checkpoint)) {
        Some(unknown) => Err(CheckpointError::unknown(*unknown, contents).into()),
        None => Ok(()),
    }
}

/// What stores check of their own files. Of backends that are not ours, nothing is known but how
/// long a file should be.
fn check_state_file(file: &StateFileReader<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
    if file.backend == SegmentsBackend::new().name() {
        let bytes = file.read_all()?;
        check_segment(&file.entry.name, &bytes)?;
    }
    Ok(())
}

fn checkpoint_id(text: &str) -> Result<CheckpointId, String> {
    let id = text.parse().ok().map(CheckpointId).or_else(|| layout::checkpoint_of_folder(text));
    id.ok_or_else(|| "an id is a number, such as 12".to_owned())
}

/// A checkpoint as a JSON object.
fn described(info: &CheckpointInfo) -> Value {
    let manifest = info.manifest.as_ref();
    json!({
        "checkpoint": info.checkpoint.0,
        "kind": info.kind().map(|kind| kind.to_string()),
        "job": manifest.ok().map(|manifest| &manifest.job),
        "created": info.created().map(|time| time.to_string()),
        "created_ms": info.created().map(|time| time.as_millis()),
        "bytes": info.bytes(),
        "own_bytes": info.own_bytes,
        "complete": manifest.is_ok(),
        "problem": manifest.err().map(|error| with_causes(error)),
    })
}

fn in_a_row(info: &CheckpointInfo) -> String {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = match &info.manifest {
        Ok(_) => "complete".to_owned(),
        Err(CheckpointError::Incomplete { .. }) => "incomplete".to_owned(),
        Err(error) => with_causes(error),
    };
    row([
        &info.checkpoint.to_string(),
        &or_none(info.kind().map(|kind| kind.to_string())),
        &or_none(info.created().map(|time| time.to_string())),
        &size(info.bytes()),
        &state,
    ])
}

fn row([id, kind, taken, size, state]: [&str; 5]) -> String {
    format!("{id:>8}  {kind:<10}  {taken:<23}  {size:>10}  {state}")
}

/// What a deletion took, as a JSON object.
fn deleted(checkpoint: Option<CheckpointId>, cleaned: &Cleaned) -> Value {
    json!({
        "deleted": checkpoint.map(|checkpoint| checkpoint.0),
        "incomplete": cleaned.folders.iter().map(|checkpoint| checkpoint.0).collect::<Vec<_>>(),
        "state_files": cleaned.state_files,
        "unfinished_files": cleaned.unfinished,
        "kept_for": cleaned.protected_by.as_ref().map(|error| with_causes(error)),
    })
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn print(lines: &[String]) -> Result<(), Failure> {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    write_to_stdout(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_powers_of_1024() {
        let sizes = [0, 1023, 1024, 1536, (1 << 20) - 1, 5 << 30, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "16384.0 PiB"]
        );
    }

    #[test]
    fn ids_are_numbers_or_folders() {
        assert_eq!(checkpoint_id("12"), Ok(CheckpointId(12)));
        assert_eq!(checkpoint_id("chk-00000012"), Ok(CheckpointId(12)));
        for wrong in ["", "-1", "chk-12", "newest"] {
            assert!(checkpoint_id(wrong).is_err(), "{wrong}");
        }
    }
}
