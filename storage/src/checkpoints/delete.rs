//! Deleting checkpoints, and what nobody needs any more.

use super::{CheckpointDirectory, CheckpointError};
use millstream_protocol::Manifest;
use millstream_protocol::manifest::layout::{self, Contents};
use millstream_types::CheckpointId;

/// What was deleted, and what had to be kept.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// Folders of checkpoints that had no manifest.
    pub folders: Vec<CheckpointId>,
    /// State files that no checkpoint needs.
    pub state_files: Vec<String>,
    /// Files that had not been written to their end.
    pub unfinished: usize,
    /// A manifest that could not be read: since it may need any state file, none was deleted.
    pub protected_by: Option<CheckpointError>,
}

/// What no checkpoint needs.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Folders of checkpoints that have no manifest.
    pub folders: Vec<CheckpointId>,
    /// State files that no manifest names.
    pub state_files: Vec<String>,
    /// A manifest that could not be read: since it may need any state file, none is named here.
    pub protected_by: Option<CheckpointError>,
}

impl CheckpointDirectory {
    /// Deletes a checkpoint, and the state files that no other one needs. A checkpoint that is not
    /// there is deleted already.
    ///
    /// # Errors
    /// If something cannot be deleted. What is left then is no checkpoint any more if the manifest
    /// is gone, and goes with [`clean_orphans`](Self::clean_orphans).
    pub fn delete(&self, checkpoint: CheckpointId) -> Result<Cleaned, CheckpointError> {
        self.delete_except(checkpoint, &|_| false)
    }

    /// As [`delete`](Self::delete), while a job is running: state files for which `in_use` is true
    /// stay, since they belong to a checkpoint that has no manifest yet.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn delete_except(
        &self,
        checkpoint: CheckpointId,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<Cleaned, CheckpointError> {
        let mut cleaned = Cleaned::default();
        // What a damaged manifest needed is not known: that goes with `clean_orphans`.
        let deleted = self.manifest(checkpoint).ok();
        self.storage.delete(&layout::manifest_path(checkpoint))?;
        self.storage.delete_folder(&layout::checkpoint_folder(checkpoint))?;
        let Some(deleted) = deleted else { return Ok(cleaned) };
        match self.manifests(&self.contents()?) {
            Ok(retained) => {
                for name in layout::files_only_in(&deleted, &retained) {
                    if !in_use(name) {
                        self.storage.delete(&layout::state_path(name))?;
                        cleaned.state_files.push(name.to_owned());
                    }
                }
            }
            Err(error) => cleaned.protected_by = Some(error),
        }
        Ok(cleaned)
    }

    /// Deletes what no checkpoint needs: folders without a manifest, state files that no manifest
    /// names, and files that were not written to their end.
    ///
    /// Only while no job is running here: its newest files are named by no manifest yet.
    ///
    /// # Errors
    /// If the directory cannot be listed or something cannot be deleted.
    pub fn clean_orphans(&self) -> Result<Cleaned, CheckpointError> {
        let unfinished = self.delete_unfinished()?;
        let orphans = self.orphans()?;
        self.delete_orphans(&orphans, &|| true)?;
        let Orphans { folders, state_files, protected_by } = orphans;
        Ok(Cleaned { folders, state_files, unfinished, protected_by })
    }

    /// Deletes the files that were not written to their end, and returns how many there were. Only
    /// while no job is running here.
    ///
    /// # Errors
    /// If the directory cannot be listed or something cannot be deleted.
    pub fn delete_unfinished(&self) -> Result<usize, CheckpointError> {
        Ok(self.storage.delete_unfinished()?)
    }

    /// What no checkpoint needs, to be [deleted](Self::delete_orphans) also when a job is running here
    /// again, if that gives its checkpoints ids above all that were here before. No name of a state
    /// file is used twice.
    ///
    /// Only while no job is running here: its newest files are named by no manifest yet.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn orphans(&self) -> Result<Orphans, CheckpointError> {
        let contents = self.contents()?;
        let mut orphans = Orphans {
            folders: contents.incomplete.keys().copied().collect(),
            ..Orphans::default()
        };
        match self.manifests(&contents) {
            Ok(manifests) => {
                let names = contents.orphaned_state_files(&manifests);
                orphans.state_files = names.into_iter().map(str::to_owned).collect();
            }
            Err(error) => orphans.protected_by = Some(error),
        }
        Ok(orphans)
    }

    /// Deletes them, while `goes_on`. What is not there is deleted already.
    ///
    /// # Errors
    /// If something cannot be deleted.
    pub fn delete_orphans(
        &self,
        orphans: &Orphans,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), CheckpointError> {
        for &checkpoint in orphans.folders.iter().take_while(|_| goes_on()) {
            self.storage.delete_folder(&layout::checkpoint_folder(checkpoint))?;
        }
        for name in orphans.state_files.iter().take_while(|_| goes_on()) {
            self.storage.delete(&layout::state_path(name))?;
        }
        Ok(())
    }

    /// All manifests, or why one cannot be read.
    fn manifests(&self, contents: &Contents) -> Result<Vec<Manifest>, CheckpointError> {
        contents.complete.keys().map(|&checkpoint| self.manifest(checkpoint)).collect()
    }
}
