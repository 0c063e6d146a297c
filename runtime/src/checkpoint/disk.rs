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
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// The thread. What it was told to do is done when this value has been dropped, but for copies that no
/// checkpoint needs yet.
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
    /// is left to be copied when one is taken. Waits until there is nothing else to do.
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
        let (grown, followed) = (BTreeMap::new(), BTreeSet::new());
        let work = DiskThread { directory, stores, reports, grown, followed };
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(move || work.run(&ordered))
            .map_err(|error| JobError::Checkpoint(error.into()))?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Orders are done one after the other, copies ahead of checkpoints last.
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
    /// To be copied, as far as is said, when there is nothing else to do.
    grown: BTreeMap<String, u64>,
    /// Copied, maybe in part, before any checkpoint has named them.
    followed: BTreeSet<String>,
}

impl DiskThread {
    fn run(mut self, orders: &Receiver<DiskOrder>) {
        loop {
            let order = match self.grown.is_empty() {
                true => orders.recv().map_err(|_| TryRecvError::Disconnected),
                false => orders.try_recv(),
            };
            match order {
                Ok(order) => {
                    if let Some(report) = self.perform(order) {
                        // An error means that the job is at its end.
                        let _ = self.reports.send(report);
                    }
                }
                Err(TryRecvError::Empty) => self.copy_one_ahead(),
                Err(TryRecvError::Disconnected) => return,
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
            DiskOrder::Follow(FileChange::Grown { name, len }) => {
                self.grown.insert(name, len);
                None
            }
            DiskOrder::Follow(FileChange::Deleted { name }) => {
                self.grown.remove(&name);
                if self.followed.remove(&name)
                    && let Err(error) = self.directory.storage().delete(&layout::state_path(&name))
                {
                    tracing::debug!("a copy is left: {}", in_words(&error));
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
            // What is to be copied now needs not be copied later.
            if self.grown.get(&file.name).is_some_and(|len| *len <= file.len) {
                self.grown.remove(&file.name);
            }
        }
        let entry = |file: &StateFile| StateFileEntry {
            name: file.name.clone(),
            len: file.len,
            note: file.note.clone(),
        };
        let entries: Vec<_> = files.iter().map(entry).collect();
        self.directory.put_state_files(&self.stores, &entries)
    }

    fn copy_one_ahead(&mut self) {
        let Some((name, len)) = self.grown.pop_first() else { return };
        // Before it is copied: what was copied in part is to go as well.
        self.followed.insert(name.clone());
        let entry = StateFileEntry { name, len, note: Vec::new() };
        if let Err(error) = self.directory.put_state_files(&self.stores, [&entry]) {
            // The checkpoint that needs it tries again.
            tracing::debug!("not copied ahead of a checkpoint: {}", in_words(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_storage::{LocalDirectory, Replicated};
    use std::fs;
    use std::sync::Arc;
    use tempfile::TempDir;

    /// A thread that is not started, the two places that it writes to, and its reports.
    fn work() -> ([TempDir; 2], DiskThread, Receiver<Report>) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let place = |folder: &TempDir| Arc::new(LocalDirectory::create(folder.path()).unwrap());
        let both = Replicated::new(place(&folders[0]), place(&folders[1]));
        let directory = CheckpointDirectory::on(Arc::new(both));
        let stores = folders[0].path().join("state");
        fs::create_dir(&stores).unwrap();
        let (reports, reported) = channel();
        let (grown, followed) = (BTreeMap::new(), BTreeSet::new());
        (folders, DiskThread { directory, stores, reports, grown, followed }, reported)
    }

    fn grown(name: &str, len: u64) -> DiskOrder {
        DiskOrder::Follow(FileChange::Grown { name: name.into(), len })
    }

    #[test]
    fn what_grows_is_copied_before_a_checkpoint_needs_it_and_deleted_if_none_does() {
        let ([_here, there], mut work, _) = work();
        let copy = |name: &str| fs::read(there.path().join("state").join(name)).ok();
        for name in ["a", "b"] {
            fs::write(work.stores.join(name), b"0123456789").unwrap();
            assert!(work.perform(grown(name, 2)).is_none());
            assert!(work.perform(grown(name, 4)).is_none());
        }
        assert_eq!([copy("a"), copy("b")], [None, None]);
        work.copy_one_ahead();
        work.copy_one_ahead();
        assert!(work.grown.is_empty());
        assert_eq!([copy("a"), copy("b")], [Some(b"0123".to_vec()), Some(b"0123".to_vec())]);
        assert!(work.perform(grown("a", 8)).is_none());
        let needed = StateFile { name: "a".into(), len: 10, note: Vec::new() };
        let (slot, checkpoint) = (SlotIndex(0), CheckpointId(1));
        let order = DiskOrder::StateFiles { slot, checkpoint, result: Ok(vec![needed.clone()]) };
        match work.perform(order) {
            Some(Report::Durable { result, .. }) => assert_eq!(result, Ok(vec![needed])),
            _ => panic!("it reports something else"),
        }
        assert_eq!(copy("a"), Some(b"0123456789".to_vec()));
        assert!(work.grown.is_empty(), "it has been copied");
        for name in ["a", "b"] {
            let order = DiskOrder::Follow(FileChange::Deleted { name: name.into() });
            assert!(work.perform(order).is_none());
        }
        assert_eq!([copy("a").is_some(), copy("b").is_some()], [true, false]);
    }

    #[test]
    fn a_copy_that_came_to_nothing_is_deleted_too() {
        let ([_here, there], mut work, _) = work();
        let copy = there.path().join("state").join("a");
        // It is shorter than was said.
        fs::write(work.stores.join("a"), b"0123").unwrap();
        assert!(work.perform(grown("a", 10)).is_none());
        work.copy_one_ahead();
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(&copy, b"01").unwrap();
        work.perform(DiskOrder::Follow(FileChange::Deleted { name: "a".into() }));
        assert!(!copy.exists());
    }

    #[test]
    fn what_a_checkpoint_needs_goes_before_what_none_needs_yet() {
        let ([_here, there], work, reports) = work();
        fs::write(work.stores.join("a"), b"0123456789").unwrap();
        let (orders, ordered) = channel();
        let (slot, checkpoint) = (SlotIndex(0), CheckpointId(1));
        orders.send(grown("a", 10)).unwrap();
        orders.send(DiskOrder::Snapshot { slot, checkpoint, bytes: b"1".to_vec() }).unwrap();
        drop(orders);
        work.run(&ordered);
        assert!(matches!(reports.recv().unwrap(), Report::Stored { result: Ok(_), .. }));
        // And when nothing more is to come, it is not wanted at all.
        assert!(!there.path().join("state/a").exists());
    }
}
