//! Processes that an agent has left behind which was killed.
//!
//! They end by themselves after a while. Until then they would write where new ones do, so a new agent
//! ends them before it offers slots.

use millstream_protocol::cluster::JobId;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file for each process, by its job. Jobs themselves cannot write there.
const FOLDER: &str = "processes";
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 500;

/// A process, and when it began: its number alone may be another's by now.
#[derive(Serialize, Deserialize)]
struct Note {
    pid: i32,
    began: u64,
}

fn file(data_directory: &Path, job: &JobId) -> PathBuf {
    data_directory.join(FOLDER).join(job.as_str())
}

/// Notes that a job's process runs.
pub(crate) fn note(data_directory: &Path, job: &JobId, pid: u32) -> io::Result<()> {
    let pid = pid.try_into().map_err(io::Error::other)?;
    // Without a time it has ended already.
    let Some(began) = began(pid) else { return Ok(()) };
    std::fs::create_dir_all(data_directory.join(FOLDER))?;
    std::fs::write(file(data_directory, job), serde_json::to_vec(&Note { pid, began })?)
}

/// Notes that none runs any more.
pub(crate) fn forget(data_directory: &Path, job: &JobId) {
    forget_file(&file(data_directory, job));
}

fn forget_file(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} cannot be deleted: {error}", path.display());
        }
        _ => {}
    }
}

/// Ends what is noted, and waits until it is gone. The jobs that it was of.
pub(crate) async fn end(data_directory: &Path) -> io::Result<Vec<JobId>> {
    let folder = data_directory.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let mut jobs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Ok(note) = serde_json::from_slice::<Note>(&std::fs::read(&path)?) else {
            tracing::warn!("{} is damaged", path.display());
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
        forget_file(&path);
        jobs.extend(JobId::new(&entry.file_name().to_string_lossy()));
    }
    Ok(jobs)
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
        let data = tempfile::tempdir().unwrap();
        let [job, other] = ["job", "other"].map(|id| JobId::new(id).unwrap());
        let mut child =
            std::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        note(data.path(), &job, child.id()).unwrap();
        // The number is that of another process.
        let own = std::process::id() as i32;
        let note = serde_json::to_vec(&Note { pid: own, began: began(own).unwrap() + 1 }).unwrap();
        std::fs::write(file(data.path(), &other), note).unwrap();
        let mut jobs = end(data.path()).await.unwrap();
        jobs.sort();
        assert_eq!(jobs, [job.clone(), other.clone()]);
        assert!(!child.wait().unwrap().success());
        assert!(!file(data.path(), &job).exists() && !file(data.path(), &other).exists());
    }
}
