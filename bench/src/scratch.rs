//! Folders that a benchmark makes for itself.

use crate::BenchError;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder of this process, which is removed with all in it when dropped.
#[derive(Debug)]
pub(crate) struct ScratchFolder(PathBuf);

impl ScratchFolder {
    /// A new folder in `parent`, or among the system's temporary files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn create(parent: Option<&Path>, purpose: &str) -> Result<Self, BenchError> {
        #[expect(clippy::disallowed_methods, reason = "it is named after the process, and removed")]
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("millstream-bench-{purpose}-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|source| {
            BenchError::write(&path.display().to_string(), "make the folder", source)
        })?;
        // Processes that are told of it may work in other folders.
        let path = path.canonicalize().map_err(|source| {
            BenchError::write(&path.display().to_string(), "find the folder", source)
        })?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} is left: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_what_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = ScratchFolder::create(Some(parent.path()), "test").unwrap();
        fs::write(scratch.path().join("file"), "text").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
