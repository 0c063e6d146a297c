//! The files of a folder: how much they hold, and whether they are in the page cache.

use crate::BenchError;
use std::fs::{self, File};
use std::io;
use std::path::Path;

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text)
        .map_err(|source| BenchError::write(&path.display().to_string(), "write it", source))
}

/// Removes a folder with all that is in it.
pub(crate) fn remove(folder: &Path) -> Result<(), BenchError> {
    fs::remove_dir_all(folder)
        .map_err(|source| BenchError::write(&folder.display().to_string(), "remove it", source))
}

/// Reads all files below a folder, and returns how many bytes they hold.
pub(crate) fn read_all(folder: &Path) -> Result<u64, BenchError> {
    each_file(folder, &mut |path| io::copy(&mut File::open(path)?, &mut io::sink()))
}

/// How many bytes all files below a folder hold.
pub(crate) fn total_bytes(folder: &Path) -> Result<u64, BenchError> {
    each_file(folder, &mut |path| Ok(fs::metadata(path)?.len()))
}

fn each_file(
    folder: &Path,
    f: &mut dyn FnMut(&Path) -> io::Result<u64>,
) -> Result<u64, BenchError> {
    let failed = |path: &Path| {
        let name = path.display().to_string();
        move |source| BenchError::Write { name, action: "read it", source }
    };
    let mut total = 0;
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let result = match path.is_dir() {
            true => each_file(&path, f),
            false => f(&path).map_err(failed(&path)),
        };
        total += match result {
            // The job that runs deletes what it does not need any more.
            Err(BenchError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => 0,
            result => result?,
        };
    }
    Ok(total)
}

/// # Errors
/// If this user may not drop the system's caches.
pub(crate) fn check_that_caches_can_be_dropped() -> Result<(), BenchError> {
    File::options().write(true).open(DROP_CACHES).map(drop).map_err(|error| {
        BenchError::Usage(format!(
            "--cold drops the system's caches, which only root may do ({DROP_CACHES}: {error}); run it \
             as root, or leave out --cold"
        ))
    })
}

/// Writes out what is dirty, and drops clean pages, directory entries and inodes.
pub(crate) fn drop_caches() -> Result<(), BenchError> {
    let synced = std::process::Command::new("sync").status();
    if !synced.is_ok_and(|status| status.success()) {
        eprintln!("warning: sync failed; what was not written out stays in the page cache");
    }
    fs::write(DROP_CACHES, "3").map_err(|source| BenchError::Write {
        name: DROP_CACHES.to_owned(),
        action: "drop the system's caches",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_folders_are_read_too() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        fs::write(folder.path().join("manifest"), "12345").unwrap();
        fs::write(folder.path().join("state/segment"), "1234567").unwrap();
        assert_eq!(read_all(folder.path()).unwrap(), 12);
        assert_eq!(total_bytes(folder.path()).unwrap(), 12);
        assert!(read_all(&folder.path().join("none")).is_err());
    }
}
