//! The thread of a process that writes its part of checkpoints, here and wherever copies are to be.
//!
//! Whoever reports to others, or hears from them, never waits for it: a slow disk, or another host that is
//! dying, shows as a checkpoint that times out and not as a job that hangs.

use super::Report;
use super::restore::in_words;
use crate::error::JobError;
use millstream_protocol::manifest::layout;
use millstream_protocol::{Manifest, StateFileEntry};
use millstream_state::{FileChange, StateFile};
use millstream_storage::{CheckpointDirectory, CheckpointError};
use millstream_types::{CheckpointId, SlotIndex};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The thread. What it was told to do is done when this value has been dropped.
pub(crate) struct Disk {
    /// `None` only while it is dropped.
    orders: Option<Sender<DiskOrder>>,
    thread: Option<JoinHandle<()>>,
}

/// What it is to do.
pub(crate) enum DiskOrder {
    /// To store a slot's bytes. Answered by [`Report::Stored`].
    Snapshot { slot: SlotIndex, checkpoint: CheckpointId, bytes: Vec<u8> },
    /// To put what a slot's store has persisted where the checkpoint counts on it. Answered by
    /// [`Report::Durable`].
    StateFiles { slot: SlotIndex, checkpoint: CheckpointId, result: Result<Vec<StateFile>, String> },
    /// To do so with what a store has just written, as some checkpoint is likely to need it: so that little
    /// is left to be copied when one is taken.
    Follow(FileChange),
    /// To complete a checkpoint. Answered by [`Report::ManifestStored`].
    Manifest(Box<Manifest>),
    /// To delete a checkpoint, but for state files that are `live`.
    Retire { checkpoint: CheckpointId, live: BTreeSet<String> },
}

impl Disk {
    /// Starts the thread, which writes to a directory what stores have in the folder `stores`, and reports.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(crate) fn start(
        directory: CheckpointDirectory,
        stores: PathBuf,
        reports: Sender<Report>,
    ) -> Result<Self, JobError> {
        let (orders, ordered) = channel();
        let work = DiskThread { directory, stores, reports, followed: BTreeSet::new() };
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(move || work.run(&ordered))
            .map_err(|error| JobError::Checkpoint(error.into()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Orders are done one after the other.
    pub(crate) fn order(&self, order: DiskOrder) {
        if let Some(orders) = &self.orders {
            // The thread ends only after this sender is gone.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of it has shown as a checkpoint that does not complete.
            let _ = thread.join();
        }
    }
}

struct DiskThread {
    directory: CheckpointDirectory,
    stores: PathBuf,
    reports: Sender<Report>,
    /// Copied before any checkpoint has named them.
    followed: BTreeSet<String>,
}

impl DiskThread {
    fn run(mut self, orders: &Receiver<DiskOrder>) {
        while let Ok(order) = orders.recv() {
            if let Some(report) = self.perform(order) {
                // An error means that the job is at its end.
                let _ = self.reports.send(report);
            }
        }
    }

    fn perform(&mut self, order: DiskOrder) -> Option<Report> {
        match order {
            DiskOrder::Snapshot { slot, checkpoint, bytes } => {
                let result = self.directory.write_snapshot(checkpoint, slot, &bytes);
                let result = result.map_err(|error| in_words(&error));
                Some(Report::Stored { slot, checkpoint, result })
            }
            DiskOrder::StateFiles { slot, checkpoint, result } => {
                let result = result.and_then(|files| match self.put(&files) {
                    Ok(()) => Ok(files),
                    Err(error) => Err(in_words(&error)),
                });
                Some(Report::Durable { slot, checkpoint, result })
            }
            DiskOrder::Follow(change) => {
                if let Err(error) = self.follow(change) {
                    // The checkpoint that needs it tries again.
                    tracing::debug!("not copied ahead of a checkpoint: {}", in_words(&error));
                }
                None
            }
            DiskOrder::Manifest(manifest) => {
                let result = self.directory.complete(&manifest);
                let result = result.map_err(|error| in_words(&error));
                Some(Report::ManifestStored { checkpoint: manifest.checkpoint, result })
            }
            DiskOrder::Retire { checkpoint, live } => {
                let kept = self.directory.delete_except(checkpoint, &|name| live.contains(name));
                if let Err(error) = kept {
                    let words = in_words(&error);
                    tracing::warn!("checkpoint {checkpoint} cannot be deleted: {words}");
                }
                None
            }
        }
    }

    fn put(&mut self, files: &[StateFile]) -> Result<(), CheckpointError> {
        for file in files {
            self.followed.remove(&file.name);
        }
        let entry = |file: &StateFile| StateFileEntry {
            name: file.name.clone(),
            len: file.len,
            note: file.note.clone(),
        };
        let entries: Vec<_> = files.iter().map(entry).collect();
        self.directory.put_state_files(&self.stores, &entries)
    }

    fn follow(&mut self, change: FileChange) -> Result<(), CheckpointError> {
        match change {
            FileChange::Grown { name, len } => {
                let entry = StateFileEntry { name, len, note: Vec::new() };
                self.directory.put_state_files(&self.stores, [&entry])?;
                self.followed.insert(entry.name);
            }
            FileChange::Deleted { name } => {
                if self.followed.remove(&name) {
                    self.directory.storage().delete(&layout::state_path(&name))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_storage::{LocalDirectory, Replicated};
    use std::fs;
    use std::sync::Arc;
    use tempfile::TempDir;

    #[test]
    fn what_grows_is_copied_before_a_checkpoint_needs_it_and_deleted_if_none_does() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = |folder: &TempDir| Arc::new(LocalDirectory::create(folder.path()).unwrap());
        let both = Replicated::new(place(&here), place(&there));
        let stores = here.path().join("state");
        fs::create_dir(&stores).unwrap();
        let (reporter, reports) = channel();
        let directory = CheckpointDirectory::on(Arc::new(both));
        let disk = Disk::start(directory, stores.clone(), reporter).unwrap();
        let put = |files: Vec<StateFile>| {
            let (slot, checkpoint) = (SlotIndex(0), CheckpointId(1));
            disk.order(DiskOrder::StateFiles { slot, checkpoint, result: Ok(files) });
            match reports.recv().unwrap() {
                Report::Durable { result, .. } => result.unwrap(),
                _ => panic!("it reports something else"),
            }
        };
        let copy = |name: &str| fs::read(there.path().join("state").join(name)).ok();
        for name in ["a", "b"] {
            fs::write(stores.join(name), b"0123456789").unwrap();
            disk.order(DiskOrder::Follow(FileChange::Grown { name: name.into(), len: 4 }));
        }
        assert_eq!(put(Vec::new()), []);
        assert_eq!([copy("a"), copy("b")], [Some(b"0123".to_vec()), Some(b"0123".to_vec())]);
        let needed = StateFile { name: "a".into(), len: 10, note: Vec::new() };
        assert_eq!(put(vec![needed.clone()]), [needed]);
        assert_eq!(copy("a"), Some(b"0123456789".to_vec()));
        for name in ["a", "b"] {
            disk.order(DiskOrder::Follow(FileChange::Deleted { name: name.into() }));
        }
        assert_eq!(put(Vec::new()), []);
        assert_eq!([copy("a").is_some(), copy("b").is_some()], [true, false]);
    }
}
