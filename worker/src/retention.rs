//! What stays of jobs whose processes have ended here.
//!
//! Of all but the newest, the files go that the worker itself has made. Nothing else ever does: a worker cannot tell
//! what people still need, nor whether another job goes on in the directory of an ended one.

use crate::process::{self, DATA};
use millstream_protocol::cluster::JobId;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An empty file for each job, modified when its process has ended. Jobs themselves cannot write there.
const FOLDER: &str = "ended";
/// What the worker makes in a job's directory, besides [`DATA`].
const OWN: [&str; 8] = [
    "stdout.log",
    "stdout.log.1",
    "stderr.log",
    "stderr.log.1",
    "secret",
    "secret.new",
    "deployment.json",
    "deployment.new",
];

/// Jobs whose processes have ended here, and of which the worker's files are still there.
#[derive(Debug)]
pub(crate) struct Ended {
    data_directory: PathBuf,
    /// How many stay as they are.
    kept: usize,
    /// The one that has ended last is at the end.
    jobs: Vec<JobId>,
}

impl Ended {
    /// What an earlier worker has noted.
    pub(crate) fn open(data_directory: &Path, kept: usize) -> io::Result<Self> {
        let folder = data_directory.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut jobs: Vec<(SystemTime, JobId)> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Ok(job) = JobId::new(&entry.file_name().to_string_lossy()) {
                jobs.push((entry.metadata()?.modified()?, job));
            }
        }
        jobs.sort();
        let jobs = jobs.into_iter().map(|(_, job)| job).collect();
        Ok(Self { data_directory: data_directory.to_owned(), kept, jobs })
    }

    /// Notes that a job's process has ended, or could not be started, if the job has left anything.
    pub(crate) fn note(&mut self, job: &JobId) {
        if !process::directory(&self.data_directory, job).exists() {
            return;
        }
        self.jobs.retain(|one| one != job);
        self.jobs.push(job.clone());
        let touched =
            File::create(self.file(job)).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::warn!("job {job}: when its process has ended cannot be noted: {error}");
        }
    }

    /// Clears the directory of one job that is neither of the newest nor `in_use`, if there is any. It is one at a time
    /// so that the agent does not stop for long.
    pub(crate) fn clear_one(&mut self, in_use: impl Fn(&JobId) -> bool) {
        let newest_first = (0..self.jobs.len()).rev();
        let Some(at) = newest_first.filter(|&at| !in_use(&self.jobs[at])).nth(self.kept) else {
            return;
        };
        // What fails is tried again by the next worker.
        let job = self.jobs.remove(at);
        let directory = process::directory(&self.data_directory, &job);
        if let Err(error) = clear(&directory).and_then(|()| fs::remove_file(self.file(&job))) {
            tracing::warn!("{} cannot be cleared: {error}", directory.display());
        }
    }

    fn file(&self, job: &JobId) -> PathBuf {
        self.data_directory.join(FOLDER).join(job.as_str())
    }
}

fn clear(directory: &Path) -> io::Result<()> {
    for name in OWN {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    remove_if_empty(&directory.join(DATA))?;
    remove_if_empty(directory)
}

fn remove_if_empty(directory: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound};
    match fs::remove_dir(directory) {
        Err(error) if matches!(error.kind(), DirectoryNotEmpty | NotADirectory | NotFound) => {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn id(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    /// A job's directory, as the worker has made it.
    fn directory(data_directory: &Path, name: &str) -> PathBuf {
        let directory = process::directory(data_directory, &id(name));
        fs::create_dir_all(directory.join(DATA)).unwrap();
        for name in OWN {
            fs::write(directory.join(name), "the worker's").unwrap();
        }
        directory
    }

    fn names(directory: &Path) -> BTreeSet<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = fs::read_dir(directory).unwrap().map(name);
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_what_the_worker_has_made_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut ended = Ended::open(folder.path(), 0).unwrap();
        for name in ["without", "data", "beside"] {
            directory(folder.path(), name);
            ended.note(&id(name));
        }
        let jobs = folder.path().join("jobs");
        fs::create_dir(jobs.join("data").join(DATA).join("checkpoints")).unwrap();
        fs::create_dir(jobs.join("beside").join("checkpoints")).unwrap();
        fs::write(jobs.join("beside").join("sink.csv"), "mine").unwrap();
        for _ in 0..4 {
            ended.clear_one(|_| false);
        }
        assert_eq!(names(&jobs), set(&["beside", "data"]));
        assert_eq!(names(&jobs.join("data")), set(&[DATA]));
        assert_eq!(names(&jobs.join("data").join(DATA)), set(&["checkpoints"]));
        assert_eq!(names(&jobs.join("beside")), set(&["checkpoints", "sink.csv"]));
        assert_eq!(names(&folder.path().join(FOLDER)), set(&[]));
    }

    #[test]
    fn the_last_to_end_stay_and_so_does_what_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let mut ended = Ended::open(folder.path(), 1).unwrap();
        for name in ["long", "runs", "short", "long"] {
            directory(folder.path(), name);
            ended.note(&id(name));
        }
        // Also for a worker that was started since.
        let mut ended = Ended::open(folder.path(), 1).unwrap();
        for _ in 0..3 {
            ended.clear_one(|job| *job == id("runs"));
        }
        assert_eq!(names(&folder.path().join("jobs")), set(&["long", "runs"]));
        for name in ["long", "runs"] {
            assert!(names(&folder.path().join("jobs").join(name)).contains("stdout.log"));
        }
    }

    #[test]
    fn what_cannot_be_cleared_keeps_nothing_else_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut ended = Ended::open(folder.path(), 0).unwrap();
        for name in ["first", "odd", "last"] {
            directory(folder.path(), name);
            ended.note(&id(name));
        }
        let jobs = folder.path().join("jobs");
        fs::remove_file(jobs.join("odd").join("stdout.log")).unwrap();
        fs::create_dir(jobs.join("odd").join("stdout.log")).unwrap();
        for _ in 0..3 {
            ended.clear_one(|_| false);
        }
        assert_eq!(names(&jobs), set(&["odd"]));
        assert_eq!(names(&folder.path().join(FOLDER)), set(&["odd"]));
    }
}
