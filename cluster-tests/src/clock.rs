//! Clocks that jump: a process whose wall clock is set while it runs (libfaketime).

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where distributions have it; the loader knows `$LIB`. This is the one for programs with threads.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// The wall clock of a process, which can be set. Time that only passes, and the times of files, stay as
/// they are.
#[derive(Debug)]
pub struct Clock {
    /// What the library reads whenever it is asked for the time.
    file: PathBuf,
    /// The numbers of processes that have it.
    processes: Vec<u32>,
}

impl Clock {
    /// Tries out whether there can be one here.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn available() -> Result<()> {
        const AHEAD: i64 = 3600;
        let folder = tempfile::tempdir()?;
        let clock = Self::new(folder.path().join("clock"))?;
        clock.set(AHEAD)?;
        let mut command = Command::new("env");
        command.args(clock.variables()).args(["date", "+%s"]);
        let said = command.output().context("date does not run")?.stdout;
        let there: i64 = String::from_utf8_lossy(&said).trim().parse()?;
        let here = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
        let is_set = (there - here - AHEAD).abs() < AHEAD / 2;
        ensure!(is_set, "clocks cannot be set: is the package libfaketime installed?");
        Ok(())
    }

    /// One that is right, by a file of its own.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new(file: impl Into<PathBuf>) -> Result<Self> {
        let clock = Self { file: file.into(), processes: Vec::new() };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds ahead of the machine's, or behind.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // At once: nobody sees a part of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}"))?;
        Ok(fs::rename(new, &self.file)?)
    }

    /// What `env` is told for a program to have this clock.
    ///
    /// Whoever becomes the program must not have them itself: the library would leave in `/dev/shm` what it
    /// deletes at the end of a process.
    pub fn variables(&self) -> [String; 5] {
        [
            format!("LD_PRELOAD={LIBRARY}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ]
    }

    /// A process has it, as long as it runs, and ends before this value.
    pub fn given_to(&mut self, process: u32) {
        self.processes.push(process);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for process in &self.processes {
            // A process that was killed has left these.
            for name in ["faketime_shm", "sem.faketime_sem"] {
                let _ = fs::remove_file(format!("/dev/shm/{name}_{process}"));
            }
        }
    }
}
