//! The process of a job: what it is given, and how it ends.

use crate::cores::Lease;
use crate::logs::{Logs, fresh};
use crate::{Settings, leftovers, socket};
use millstream_protocol::cluster::JobId;
use millstream_protocol::{DEPLOYMENT_VARIABLE, Deployment};
use rustix::process::{Pid, Signal};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// What the agent's own flags may be given by; a job would take them for its own.
const OWN_VARIABLES: &str = "MILLSTREAM_";

/// What a process stores for its job in the job's directory, its checkpoints unless they have a place elsewhere.
pub(crate) const DATA: &str = "data";

/// The directory of a job.
pub(crate) fn directory(data_directory: &Path, job: &JobId) -> PathBuf {
    data_directory.join("jobs").join(job.as_str())
}

/// Adds to a deployment what only this host knows.
pub(crate) fn complete(
    settings: &Settings,
    mut deployment: Deployment,
    job: &JobId,
    lease: &Lease,
) -> Deployment {
    let directory = directory(&settings.data_directory, job);
    deployment.cores = lease.cores();
    deployment.secret_file = settings.secret.as_ref().map(|_| directory.join("secret"));
    deployment.data_directory = Some(directory.join(DATA));
    deployment.agent = Some(socket::path(&settings.data_directory));
    deployment
}

/// Starts a process in a group of its own, which writes to these logs.
pub(crate) fn start(
    settings: &Settings,
    job: &JobId,
    executable: &Path,
    args: &[String],
    deployment: &Deployment,
    lease: &Lease,
) -> io::Result<(Child, Logs)> {
    let directory = directory(&settings.data_directory, job);
    make_directory(settings, &directory)?;
    make_directory(settings, &directory.join(DATA))?;
    if let Some(secret) = &settings.secret {
        let text = secret.job_secret(job.as_str());
        write_private(settings, &directory.join("secret"), text.as_bytes())?;
    }
    let told = write_deployment(settings, job, deployment)?;
    let logs = Logs::create(&directory)?;
    let [stdout, stderr] = logs.streams()?;
    let mut command = Command::new(executable);
    command
        .args(args)
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(OWN_VARIABLES.as_bytes()) {
            command.env_remove(name);
        }
    }
    command.env(DEPLOYMENT_VARIABLE, told);
    if let Some((user, group)) = settings.run_as {
        command.uid(user).gid(group);
    }
    let child = lease.inherited(|| command.spawn())?;
    if let Some(pid) = child.id() {
        // One that nobody will know of must not run.
        leftovers::note(&settings.data_directory, job, pid).inspect_err(|_| kill(pid))?;
    }
    Ok((child, logs))
}

/// Writes what a process is told; the file's path.
pub(crate) fn write_deployment(
    settings: &Settings,
    job: &JobId,
    deployment: &Deployment,
) -> io::Result<PathBuf> {
    let path = directory(&settings.data_directory, job).join("deployment.json");
    write_private(settings, &path, &serde_json::to_vec(deployment)?)?;
    Ok(path)
}

/// Ends a process and all that it has started, at once.
pub(crate) fn kill(pid: u32) {
    let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Gone already, if not.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

// The job's directory belongs to the user that its process runs as, who may have put there what leads to a file of
// somebody else: so nothing there is opened or given away by a name that may do so.

fn make_directory(settings: &Settings, path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    match settings.run_as {
        Some((user, group)) => lchown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// A file that only the process can read, whole or not there.
fn write_private(settings: &Settings, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = fresh(&aside, OpenOptions::new().write(true))?;
    file.write_all(bytes)?;
    if let Some((user, group)) = settings.run_as {
        fchown(&file, Some(user), Some(group))?;
    }
    std::fs::rename(aside, path)
}
