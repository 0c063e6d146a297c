//! Which checkpoints are kept, and which files may go.
//!
//! Pure: what stands in manifests and directories is passed in, what may be deleted comes out.
//!
//! # Invariants
//! - The newest completed checkpoint is kept, and every one that its user owns.
//! - No file is given out for deletion that a kept checkpoint names, or that may yet be named.
//!
//! A checkpoint is retired in this order, so that a crash in between leaves files that nobody names
//! and never a manifest that names what is gone: first its manifest is deleted, durably, then
//! [`FileReferences::remove`] says which files may follow.

use millstream_types::CheckpointId;
use std::collections::{BTreeMap, BTreeSet};

/// Who decides when a checkpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The system: it goes when enough newer ones have completed.
    System,
    /// The user: it is a savepoint and stays.
    User,
}

/// The completed checkpoints that are kept: the newest few of the system's, and all of the user's.
#[derive(Clone, Debug)]
pub struct KeptCheckpoints {
    retained: usize,
    kept: BTreeMap<CheckpointId, Owner>,
}

impl KeptCheckpoints {
    /// Keeps the newest `retained` checkpoints, and one if that is 0; begins with those that an
    /// earlier run left.
    pub fn new(retained: u32, kept: impl IntoIterator<Item = (CheckpointId, Owner)>) -> Self {
        Self { retained: retained.max(1) as usize, kept: kept.into_iter().collect() }
    }

    /// A checkpoint has completed. Returns those that are kept no longer, oldest first.
    pub fn complete(&mut self, checkpoint: CheckpointId, owner: Owner) -> Vec<CheckpointId> {
        self.kept.insert(checkpoint, owner);
        let mut systems: Vec<_> = self
            .kept
            .iter()
            .filter(|(_, owner)| **owner == Owner::System)
            .map(|(id, _)| *id)
            .collect();
        systems.truncate(systems.len().saturating_sub(self.retained));
        for id in &systems {
            self.kept.remove(id);
        }
        systems
    }

    /// A checkpoint is gone, by whatever hand: a user's who deletes a savepoint, or decay. Returns
    /// true if it was kept.
    pub fn forget(&mut self, checkpoint: CheckpointId) -> bool {
        self.kept.remove(&checkpoint).is_some()
    }

    /// The kept checkpoints, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = CheckpointId> {
        self.kept.keys().copied()
    }

    /// The oldest kept checkpoint: what only older ones need will never be restored again.
    pub fn oldest(&self) -> Option<CheckpointId> {
        self.iter().next()
    }
}

/// How many kept checkpoints name each file.
#[derive(Clone, Debug, Default)]
pub struct FileReferences {
    counts: BTreeMap<String, u32>,
    named: BTreeMap<CheckpointId, BTreeSet<String>>,
}

impl FileReferences {
    /// No checkpoint, no file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A checkpoint names these files. To be called **before** its manifest is stored, so that no
    /// file goes between the two. A file that is named twice counts once.
    pub fn add<F>(&mut self, checkpoint: CheckpointId, files: F)
    where
        F: IntoIterator,
        F::Item: Into<String>,
    {
        let named = self.named.entry(checkpoint).or_default();
        for file in files.into_iter().map(Into::into) {
            if named.insert(file.clone()) {
                *self.counts.entry(file).or_default() += 1;
            }
        }
    }

    /// A checkpoint is gone, its manifest deleted durably. Returns the files that only it named:
    /// they may be deleted unless a store still [uses](Self::orphans) them.
    #[must_use = "these files are named by nobody any more"]
    pub fn remove(&mut self, checkpoint: CheckpointId) -> Vec<String> {
        let mut gone = Vec::new();
        for file in self.named.remove(&checkpoint).unwrap_or_default() {
            let Some(count) = self.counts.get_mut(&file) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&file);
                gone.push(file);
            }
        }
        gone
    }

    /// True if a kept checkpoint names the file.
    pub fn is_named(&self, file: &str) -> bool {
        self.counts.contains_key(file)
    }

    /// The files that the kept checkpoints name, each once.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.counts.keys().map(String::as_str)
    }

    /// Of the files that lie there, each with the epoch in which it was begun, those that nobody
    /// names and nobody will: they are older than `oldest_live`.
    ///
    /// `oldest_live` is the oldest epoch whose files a checkpoint may yet name. While a job runs
    /// that is the first epoch of its run (not the oldest pending checkpoint: a file of an aborted
    /// one may be alive in its store); while none runs, every file without a name is an orphan.
    pub fn orphans<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a str, CheckpointId)>,
        oldest_live: CheckpointId,
    ) -> Vec<&'a str> {
        let mut orphans: Vec<_> = files
            .into_iter()
            .filter(|(name, epoch)| *epoch < oldest_live && !self.is_named(name))
            .map(|(name, _)| name)
            .collect();
        orphans.sort_unstable();
        orphans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(checkpoints: &[CheckpointId]) -> Vec<u64> {
        checkpoints.iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let mut kept = KeptCheckpoints::new(2, []);
        assert_eq!(kept.complete(CheckpointId(1), Owner::System), []);
        assert_eq!(kept.complete(CheckpointId(2), Owner::System), []);
        assert_eq!(kept.complete(CheckpointId(3), Owner::System), [CheckpointId(1)]);
        assert_eq!(kept.oldest(), Some(CheckpointId(2)));
    }

    #[test]
    fn a_savepoint_stays_and_takes_no_ones_place() {
        let mut kept = KeptCheckpoints::new(1, [(CheckpointId(4), Owner::User)]);
        assert_eq!(kept.complete(CheckpointId(5), Owner::System), []);
        assert_eq!(kept.complete(CheckpointId(6), Owner::User), []);
        assert_eq!(kept.complete(CheckpointId(7), Owner::System), [CheckpointId(5)]);
        assert_eq!(ids(&kept.iter().collect::<Vec<_>>()), [4, 6, 7]);
    }

    #[test]
    fn what_an_earlier_run_left_counts() {
        let left = [1, 2, 3].map(|id| (CheckpointId(id), Owner::System));
        let mut kept = KeptCheckpoints::new(2, left);
        assert_eq!(ids(&kept.complete(CheckpointId(9), Owner::System)), [1, 2]);
    }

    #[test]
    fn the_newest_is_kept_even_if_none_is_asked_for() {
        let mut kept = KeptCheckpoints::new(0, []);
        kept.complete(CheckpointId(1), Owner::System);
        assert_eq!(kept.oldest(), Some(CheckpointId(1)));
        assert!(kept.forget(CheckpointId(1)));
        assert!(!kept.forget(CheckpointId(1)));
    }

    #[test]
    fn a_file_goes_with_the_last_checkpoint_that_names_it() {
        let mut references = FileReferences::new();
        references.add(CheckpointId(1), ["a", "b"]);
        references.add(CheckpointId(2), ["b", "b", "c"]);
        assert_eq!(references.remove(CheckpointId(1)), ["a"]);
        assert!(references.is_named("b"));
        assert_eq!(references.remove(CheckpointId(2)), ["b", "c"]);
        assert_eq!(references.remove(CheckpointId(2)), Vec::<String>::new());
    }

    #[test]
    fn orphans_are_old_and_without_a_name() {
        let mut references = FileReferences::new();
        references.add(CheckpointId(1), ["named"]);
        let files =
            [("new", 5), ("old", 4), ("named", 1)].map(|(name, id)| (name, CheckpointId(id)));
        assert_eq!(references.orphans(files, CheckpointId(5)), ["old"]);
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Add(Vec<u8>),
        Retire(usize),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            proptest::collection::vec(0_u8..12, 0..6).prop_map(Operation::Add),
            any::<usize>().prop_map(Operation::Retire),
        ]
    }

    proptest! {
        #[test]
        fn counts_agree_with_a_search_through_all_manifests(
            operations in proptest::collection::vec(operation(), 1..60),
        ) {
            let name = |file: u8| format!("file-{file}");
            let mut references = FileReferences::new();
            let mut manifests: Vec<(CheckpointId, Vec<String>)> = Vec::new();
            let mut next = 0;
            for operation in operations {
                match operation {
                    Operation::Add(files) => {
                        next += 1;
                        let files: Vec<_> = files.into_iter().map(name).collect();
                        references.add(CheckpointId(next), files.clone());
                        manifests.push((CheckpointId(next), files));
                    }
                    Operation::Retire(which) if !manifests.is_empty() => {
                        let (id, files) = manifests.remove(which % manifests.len());
                        let left: BTreeSet<_> =
                            manifests.iter().flat_map(|(_, files)| files).collect();
                        let gone: BTreeSet<_> =
                            files.into_iter().filter(|file| !left.contains(file)).collect();
                        let said: BTreeSet<_> = references.remove(id).into_iter().collect();
                        prop_assert_eq!(said, gone);
                    }
                    Operation::Retire(_) => {}
                }
                for file in (0..12).map(name) {
                    let named = manifests.iter().any(|(_, files)| files.contains(&file));
                    prop_assert_eq!(references.is_named(&file), named);
                }
            }
        }

        #[test]
        fn exactly_the_newest_and_the_users_are_kept(
            retained in 1_u32..5, owned in proptest::collection::vec(any::<bool>(), 1..40),
        ) {
            let mut kept = KeptCheckpoints::new(retained, []);
            let mut all = Vec::new();
            for (id, user) in owned.into_iter().enumerate() {
                let id = CheckpointId(id as u64 + 1);
                kept.complete(id, if user { Owner::User } else { Owner::System });
                all.push((id, user));
                let systems = all.iter().filter(|(_, user)| !user).count();
                let mut skip = systems.saturating_sub(retained as usize);
                let expected: Vec<_> = all
                    .iter()
                    .filter(|(_, user)| *user || skip == 0 || { skip -= 1; false })
                    .map(|(id, _)| *id)
                    .collect();
                prop_assert_eq!(kept.iter().collect::<Vec<_>>(), expected);
            }
        }
    }
}
