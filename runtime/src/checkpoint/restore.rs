//! What a job begins with: the newest checkpoint that is whole.

use super::{TRANSACTIONS, Transaction};
use crate::error::{BoxError, JobError};
use crate::exchange::is_list_name;
use crate::graph::Graph;
use millstream_protocol::{Manifest, StateFileEntry};
use millstream_state::{
    RestoredFiles, RestoredState, Snapshot, StateBackend, StateError, StateFile, check_segment,
};
use millstream_storage::{CheckpointDirectory, CheckpointError, StateFileReader};
use millstream_types::{CheckpointId, KeyGroupRange};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

/// A checkpoint that was read.
#[derive(Clone)]
pub(crate) struct Restored {
    pub(crate) manifest: Manifest,
    /// The snapshots of all slots.
    pub(crate) state: Arc<RestoredState>,
    /// The files of all slots' stores.
    pub(crate) files: RestoredFiles,
}

/// What slots need to know of how the job began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beginning {
    /// The number of the attempt.
    pub(crate) attempt: u64,
    /// The checkpoint that it began with; 0 if it began empty.
    pub(crate) checkpoint: CheckpointId,
    /// In how many rounds what was in flight in it comes; 0 if nothing was.
    pub(crate) rounds: u32,
}

impl Restored {
    pub(crate) fn checkpoint(&self) -> CheckpointId {
        self.manifest.checkpoint
    }

    /// In how many rounds what was in flight comes; 0 if nothing was.
    pub(crate) fn rounds(&self, graph: &Graph) -> u32 {
        let in_flight = self.state.lists().iter().any(|(_, name)| is_list_name(name));
        if in_flight { graph.depth() } else { 0 }
    }

    /// Checks that whatever was in flight has an edge in the job on which it is again.
    pub(crate) fn check_in_flight(&self, uids: &[String], graph: &Graph) -> Result<(), JobError> {
        let edges: BTreeSet<(&str, String)> = graph
            .edge_ids()
            .map(|id| (uids[id.receiver.0 as usize].as_str(), id.list_name()))
            .collect();
        let lists = self.state.lists();
        let mut lost = lists.iter().filter(|(_, name)| is_list_name(name));
        match lost.find(|(operator, name)| !edges.contains(&(*operator, (*name).to_owned()))) {
            None => Ok(()),
            Some((operator, _)) => Err(JobError::Restore(format!(
                "checkpoint {} holds records that were in flight to \"{operator}\", and this program has no such input: resume with the program that took it, let it take a checkpoint with checkpoint_mode = exactly-once, and change it then",
                self.checkpoint()
            ))),
        }
    }

    /// The transactions of all sinks in the checkpoint: it is not known which were committed.
    pub(crate) fn transactions(
        &self,
        uids: &[String],
        graph: &Graph,
    ) -> Result<Vec<Transaction>, JobError> {
        let mut all = Vec::new();
        for (operator, ..) in &graph.outcomes {
            let uid = &uids[operator.0 as usize];
            let list = self.state.items::<Vec<u8>>(uid, TRANSACTIONS);
            let list = list.map_err(|error| JobError::Restore(in_words(&error)))?;
            let transaction = |bytes| Transaction { operator: *operator, bytes };
            all.extend(list.into_iter().flatten().map(transaction));
        }
        Ok(all)
    }
}

/// The job that a checkpoint must fit.
pub(crate) struct RestoreInto<'a> {
    pub(crate) uids: &'a [String],
    pub(crate) max_parallelism: u16,
    pub(crate) backend: &'a dyn StateBackend,
    /// What the slots of this process own.
    pub(crate) owned: &'a [(String, KeyGroupRange)],
}

impl RestoreInto<'_> {
    /// Brings the state files that the slots of this process need to where their stores look for them.
    fn fetch(
        &self,
        directory: &CheckpointDirectory,
        manifest: &Manifest,
        stores: &Path,
        damaged: &Damaged,
    ) -> Result<(), JobError> {
        let needed = |file: &StateFileEntry| self.backend.needs(&file.note, self.owned);
        let fetched = directory
            .fetch_state_files(manifest, stores, &needed, &|file| check(file, damaged))
            .map_err(|error| not_restored(&error))?;
        tracing::debug!("{fetched} state files came from elsewhere");
        Ok(())
    }
}

/// Why nothing could be restored. For want of another host that is no fault of the checkpoint.
fn not_restored(error: &CheckpointError) -> JobError {
    let words = in_words(error);
    if error.is_remote() { JobError::Host(words) } else { JobError::Restore(words) }
}

/// The names of state files in which a store has found damage.
pub(crate) type Damaged = BTreeSet<String>;

/// The state file that a failure is about, if it is damaged: an older checkpoint may do without it.
pub(crate) fn damaged_file<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    let file = match error.downcast_ref::<StateError>() {
        Some(error) => error.damaged_file()?,
        None => return Some(&error.downcast_ref::<DamagedElsewhere>()?.file),
    };
    Path::new(file).file_name()?.to_str()
}

/// What a store of another process has found.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(crate) struct DamagedElsewhere {
    /// What it has said.
    pub(crate) words: String,
    /// The name of the state file.
    pub(crate) file: String,
}

/// A store checks its own files when it reads them. Those that it has found to be damaged may yet be good
/// as far as an older checkpoint needs them, or in another place.
fn check(file: &StateFileReader<'_>, damaged: &Damaged) -> Result<(), BoxError> {
    if damaged.contains(&file.entry.name) {
        check_segment(&file.title(), &file.read_all()?)?;
    }
    Ok(())
}

/// Reads the newest checkpoint of a directory; `None` if there is none. Ones that are damaged are
/// passed over with a warning, or refused if `strict`. `stores` is the folder in which stores look for
/// their files.
pub(crate) fn newest(
    directory: &CheckpointDirectory,
    into: &RestoreInto<'_>,
    strict: bool,
    damaged: &Damaged,
    stores: Option<&Path>,
) -> Result<Option<Restored>, JobError> {
    let failed = |error: &dyn Error| JobError::Restore(in_words(error));
    let newest = directory.newest_verified(strict, &|file| check(file, damaged));
    let newest = newest.map_err(|error| not_restored(&error))?;
    for (checkpoint, error) in &newest.skipped {
        tracing::warn!("checkpoint {checkpoint} cannot be used: {}", in_words(error));
    }
    let Some(manifest) = newest.manifest else {
        return match newest.skipped.first() {
            None => Ok(None),
            Some((checkpoint, error)) => Err(JobError::Restore(format!(
                "no checkpoint can be used; the newest, {checkpoint}: {}. To begin anew, delete them with `millstream checkpoints delete`, or give another directory",
                in_words(error)
            ))),
        };
    };
    let uids = into.uids.iter().map(String::as_str);
    manifest.check_job(uids, into.max_parallelism, into.backend.name()).map_err(|e| failed(&e))?;
    if let Some(stores) = stores {
        into.fetch(directory, &manifest, stores, damaged)?;
    }
    read(directory, manifest).map(Some)
}

/// Reads the checkpoint of this manifest, which somebody else has chosen and checked. A manifest of the
/// same number in the directory is not looked at: a host that was away may have one of a time that
/// nobody else knows of.
pub(crate) fn exactly(
    directory: &CheckpointDirectory,
    manifest: Manifest,
    into: &RestoreInto<'_>,
    damaged: &Damaged,
    stores: &Path,
) -> Result<Restored, JobError> {
    into.fetch(directory, &manifest, stores, damaged)?;
    read(directory, manifest)
}

fn read(directory: &CheckpointDirectory, manifest: Manifest) -> Result<Restored, JobError> {
    let checkpoint = manifest.checkpoint;
    let failed = |error: &dyn Error| {
        JobError::Restore(format!("checkpoint {checkpoint}: {}", in_words(error)))
    };
    let mut snapshots = Vec::new();
    let mut files = Vec::new();
    for slot in &manifest.slots {
        let bytes = directory.read_snapshot(checkpoint, &slot.snapshot).map_err(|e| failed(&e))?;
        snapshots.push(Snapshot::read(bytes).map_err(|e| failed(&e))?);
        files.extend(slot.state_files.iter().map(|file| StateFile {
            name: file.name.clone(),
            len: file.len,
            note: file.note.clone(),
        }));
    }
    Ok(Restored {
        manifest,
        state: Arc::new(RestoredState::new(snapshots)),
        files: RestoredFiles { checkpoint, files },
    })
}

/// An error with its causes.
pub(crate) fn in_words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some errors say their cause themselves.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
