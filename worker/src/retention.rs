//! Which directories of jobs stay when nothing of the job runs here any more.
//!
//! The newest stay as they are. Of the others all goes but checkpoints that somebody may go on from: those
//! of jobs that have not come to their end. A worker cannot tell whether anybody will, so whoever has cancelled or
//! stopped a job for good deletes its directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a process stores for its job, its checkpoints unless they have a place elsewhere.
pub(crate) const DATA: &str = "data";
/// What the newest process was told. A directory without it has been cleared before.
pub(crate) const DEPLOYMENT: &str = "deployment.json";
/// There when the job has come to its end: nobody goes on from its checkpoints.
const FINISHED: &str = "finished";

/// Notes whether a job has come to its end.
pub(crate) fn note(directory: &Path, finished: bool) -> io::Result<()> {
    let path = directory.join(FINISHED);
    if !finished {
        return absent(fs::remove_file(path));
    }
    match fs::File::create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Clears the directories in `jobs` but for the newest `kept` and those that are `in_use`. What takes long to delete
/// is moved to `removed`.
pub(crate) fn clear(
    jobs: &Path,
    removed: &Path,
    kept: usize,
    in_use: impl Fn(&str) -> bool,
) -> io::Result<()> {
    let mut over: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(jobs)? {
        let entry = entry?;
        let told = fs::symlink_metadata(entry.path().join(DEPLOYMENT));
        if let (Ok(told), false) = (told, in_use(&entry.file_name().to_string_lossy())) {
            over.push((told.modified()?, entry.path()));
        }
    }
    over.sort();
    over.truncate(over.len().saturating_sub(kept));
    over.iter().try_for_each(|(_, directory)| clear_one(directory, removed))
}

fn clear_one(directory: &Path, removed: &Path) -> io::Result<()> {
    let finished = directory.join(FINISHED).exists();
    let has_data = fs::read_dir(directory.join(DATA)).is_ok_and(|mut data| data.next().is_some());
    if finished || !has_data {
        let name = directory.file_name().unwrap_or_default();
        fs::create_dir_all(removed)?;
        return fs::rename(directory, removed.join(name));
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // What tells that there is something to clear goes last.
        if name == DATA || name == DEPLOYMENT {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    absent(fs::remove_file(directory.join(DEPLOYMENT)))
}

/// Deletes what was moved away.
pub(crate) fn delete(removed: &Path) -> io::Result<()> {
    absent(fs::remove_dir_all(removed))
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    /// A job's directory, as its process has left it. `age` is in seconds.
    fn job(jobs: &Path, name: &str, age: u64, data: bool, finished: bool) {
        let directory = jobs.join(name);
        fs::create_dir_all(directory.join(DATA)).unwrap();
        fs::create_dir_all(directory.join("of its own")).unwrap();
        fs::write(directory.join("stdout.log"), "much").unwrap();
        let told = fs::File::create(directory.join(DEPLOYMENT)).unwrap();
        told.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        if data {
            fs::create_dir(directory.join(DATA).join("checkpoints")).unwrap();
        }
        note(&directory, finished).unwrap();
    }

    fn names(directory: &Path) -> BTreeSet<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = fs::read_dir(directory).unwrap().map(name);
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_newest_stay_and_so_do_checkpoints_of_jobs_that_have_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let (jobs, removed) = (folder.path().join("jobs"), folder.path().join("removed"));
        job(&jobs, "runs", 900, true, false);
        job(&jobs, "finished", 800, true, true);
        job(&jobs, "stopped", 700, true, false);
        job(&jobs, "without", 600, false, false);
        job(&jobs, "newest", 100, true, true);
        for _ in 0..2 {
            clear(&jobs, &removed, 1, |name| name == "runs").unwrap();
            let left = ["newest", "runs", "stopped"].map(str::to_owned);
            assert_eq!(names(&jobs), BTreeSet::from(left));
            assert_eq!(names(&jobs.join("stopped")), BTreeSet::from([DATA.to_owned()]));
            assert!(names(&jobs.join("runs")).contains("stdout.log"));
        }
        assert_eq!(names(&removed).len(), 2);
        delete(&removed).unwrap();
        delete(&removed).unwrap();
        assert!(!removed.exists());
    }

    #[test]
    fn a_job_that_runs_again_has_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let (jobs, removed) = (folder.path().join("jobs"), folder.path().join("removed"));
        job(&jobs, "again", 100, true, true);
        note(&jobs.join("again"), false).unwrap();
        clear(&jobs, &removed, 0, |_| false).unwrap();
        assert_eq!(names(&jobs.join("again")), BTreeSet::from([DATA.to_owned()]));
    }
}
