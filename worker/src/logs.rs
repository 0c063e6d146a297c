//! What the processes of jobs write to their standard streams, within a bound.
//!
//! A process writes into a file by itself, so that it neither waits for its agent nor ends with it. What is there
//! when the file is too long goes to a file beside it, in place of what went there before. The few lines
//! that a process writes at this very moment are lost.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PIECE_BYTES: usize = 256 * 1024;

/// The file of one stream, and the one for what was there before.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
}

/// The files of a process' standard output and standard error.
#[derive(Debug)]
pub(crate) struct Logs(Arc<[Log; 2]>);

impl Logs {
    /// Fresh files in a job's directory. What the process before has written is kept beside them.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        let log = |name: &str| Log::create(directory.join(name));
        Ok(Self(Arc::new([log("stdout.log")?, log("stderr.log")?])))
    }

    /// What a process writes to: its standard output, and its standard error.
    pub(crate) fn streams(&self) -> io::Result<[Stdio; 2]> {
        let [stdout, stderr] = &*self.0;
        Ok([stdout.file.try_clone()?.into(), stderr.file.try_clone()?.into()])
    }

    /// Keeps each file within about so many bytes, until this is dropped.
    pub(crate) async fn keep_within(&self, bytes_max: u64) -> Infallible {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            let logs = Arc::clone(&self.0);
            let turned = tokio::task::spawn_blocking(move || {
                logs.iter().try_for_each(|log| log.turn_if_over(bytes_max))
            });
            if let Ok(Err(error)) = turned.await {
                tracing::warn!("a job's log is lost, as it cannot be kept aside: {error}");
            }
        }
    }
}

impl Log {
    fn create(path: PathBuf) -> io::Result<Self> {
        match std::fs::rename(&path, Self::aside(&path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Only appended to, so that it can be cut off while the process writes.
        let file = fresh(&path, OpenOptions::new().read(true).append(true))?;
        Ok(Self { path, file })
    }

    fn aside(path: &Path) -> PathBuf {
        path.with_extension("log.1")
    }

    fn turn_if_over(&self, bytes_max: u64) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len <= bytes_max {
            return Ok(());
        }
        // What was written between two looks may be any length, or nothing at all: a hole.
        let kept = self.copy(len.saturating_sub(2 * bytes_max)..len);
        self.file.set_len(0)?;
        kept
    }

    /// Not to the end: a process may write as fast as this reads.
    fn copy(&self, range: Range<u64>) -> io::Result<()> {
        let aside = fresh(&Self::aside(&self.path), OpenOptions::new().write(true))?;
        let mut aside = BufWriter::new(aside);
        let (mut piece, mut at) = (vec![0; PIECE_BYTES], range.start);
        while at < range.end {
            let most = PIECE_BYTES.min((range.end - at) as usize);
            let read = self.file.read_at(&mut piece[..most], at)?;
            if read == 0 {
                break;
            }
            aside.write_all(&piece[..read])?;
            at += read as u64;
        }
        aside.flush()
    }
}

/// A new file that only its owner can use, in place of whatever has the name: the directory is the job's, which
/// may have put there what leads elsewhere.
pub(crate) fn fresh(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    options.create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn text(directory: &Path, name: &str) -> String {
        std::fs::read_to_string(directory.join(name)).unwrap()
    }

    #[test]
    fn what_was_written_before_is_aside_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        for run in ["first", "second", "third"] {
            let logs = Logs::create(directory.path()).unwrap();
            let [stdout, stderr] = logs.streams().unwrap();
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("echo {run}; echo {run} wrong >&2")]);
            assert!(shell.stdout(stdout).stderr(stderr).status().unwrap().success());
        }
        assert_eq!(text(directory.path(), "stdout.log"), "third\n");
        assert_eq!(text(directory.path(), "stdout.log.1"), "second\n");
        assert_eq!(text(directory.path(), "stderr.log"), "third wrong\n");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_file_that_is_too_long_is_put_aside_while_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::create(directory.path()).unwrap();
        let log = &logs.0[0];
        let mut writer = log.file.try_clone().unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            writer.write_all(line.as_bytes()).unwrap();
            log.turn_if_over(7).unwrap();
        }
        assert_eq!(text(directory.path(), "stdout.log.1"), "one\ntwo\n");
        assert_eq!(text(directory.path(), "stdout.log"), "three\n");
        writer.set_len(1 << 40).unwrap();
        log.turn_if_over(7).unwrap();
        assert_eq!(text(directory.path(), "stdout.log.1").len(), 14);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "mine").unwrap();
        let path = directory.path().join("stdout.log.1");
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        fresh(&path, OpenOptions::new().write(true)).unwrap().write_all(b"theirs").unwrap();
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    }
}
