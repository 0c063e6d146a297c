//! Limits the memory of a process: a group of its own, as Linux has them in two versions.

use crate::BenchError;
use std::fs;
use std::path::{Path, PathBuf};

/// A group of processes which together use so much memory at the most, page cache included.
///
/// Dropping it removes it; its processes must have ended.
#[derive(Debug)]
pub(crate) struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// A new group.
    ///
    /// # Errors
    /// If there is none to be had: it takes a mounted hierarchy for memory, and the right to write to it.
    pub(crate) fn new(purpose: &str, bytes: u64) -> Result<Self, BenchError> {
        let root = Path::new("/sys/fs/cgroup");
        // Version 1 has a hierarchy for each resource.
        let (parent, file) = match root.join("memory/memory.limit_in_bytes").exists() {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => (root.to_owned(), "memory.max"),
        };
        let path = parent.join(format!("millstream-bench-{purpose}-{}", std::process::id()));
        let failed = |path: &Path, source| {
            BenchError::write(&path.display().to_string(), "limit memory by it (be root)", source)
        };
        fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        let group = Self(path);
        let file = group.0.join(file);
        fs::write(&file, bytes.to_string()).map_err(|error| failed(&file, error))?;
        Ok(group)
    }

    /// What a process writes its id to, to be of the group.
    pub(crate) fn processes(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("warning: {} is left: {error}", self.0.display());
        }
    }
}

/// Puts this process into the group whose list of processes this is.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn join(processes: &Path) -> Result<(), BenchError> {
    fs::write(processes, std::process::id().to_string()).map_err(|source| {
        BenchError::write(&processes.display().to_string(), "join the group", source)
    })
}
