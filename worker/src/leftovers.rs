//! Processes that an agent has left behind which was killed.
//!
//! They end by themselves after a while. Until then they would write where new ones do, so a new agent
//! ends them before it offers slots.

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;

const FILE: &str = "process.json";
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 500;

/// A process, and when it began: its number alone may be another's by now.
#[derive(Serialize, Deserialize)]
struct Note {
    pid: i32,
    began: u64,
}

/// Notes that a process runs in a job's directory.
pub(crate) fn note(directory: &Path, pid: u32) -> io::Result<()> {
    let pid = pid.try_into().map_err(io::Error::other)?;
    // Without a time it has ended already.
    let Some(began) = began(pid) else { return Ok(()) };
    std::fs::write(directory.join(FILE), serde_json::to_vec(&Note { pid, began })?)
}

/// Notes that no process runs there any more.
pub(crate) fn forget(directory: &Path) {
    match std::fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} cannot be cleared: {error}", directory.display());
        }
        _ => {}
    }
}

/// Ends what is noted in the directories of jobs, and waits until it is gone.
pub(crate) async fn end(jobs: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(jobs)? {
        let directory = entry?.path();
        let Ok(text) = std::fs::read(directory.join(FILE)) else { continue };
        let Ok(note) = serde_json::from_slice::<Note>(&text) else {
            tracing::warn!("{} is damaged", directory.join(FILE).display());
            continue;
        };
        let runs = || began(note.pid) == Some(note.began);
        if let Some(group) = Pid::from_raw(note.pid).filter(|_| runs()) {
            tracing::warn!(
                "process {} was left behind by an earlier worker; it ends now",
                note.pid
            );
            // Gone already, if not.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            let mut looks = 0;
            while runs() && looks < LOOKS_MAX {
                tokio::time::sleep(LOOK_EVERY).await;
                looks += 1;
            }
        }
        forget(&directory);
    }
    Ok(())
}

/// When a process that has not ended began, in ticks since the system did: field 22 of its `stat`.
fn began(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in brackets, may have spaces.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[tokio::test]
    async fn what_is_left_is_ended_and_nothing_else() {
        let jobs = tempfile::tempdir().unwrap();
        let job = jobs.path().join("job");
        std::fs::create_dir(&job).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        note(&job, child.id()).unwrap();
        // The number is that of another process.
        let other = jobs.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let own = std::process::id() as i32;
        let note = serde_json::to_vec(&Note { pid: own, began: began(own).unwrap() + 1 }).unwrap();
        std::fs::write(other.join(FILE), note).unwrap();
        end(jobs.path()).await.unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!job.join(FILE).exists() && !other.join(FILE).exists());
    }
}
