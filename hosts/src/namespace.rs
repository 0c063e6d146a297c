//! One network namespace with a name.

use crate::error::HostsError;
use crate::{process, tool};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

/// Where `ip netns` keeps its names.
pub(crate) const FOLDER: &str = "/run/netns";

/// The name of a namespace. It may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    name: String,
}

/// What tells one namespace from another, whatever it is called.
type Identity = (u64, u64);

impl Namespace {
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A program with this network and all else as it is here. Its process becomes the program: it
    /// has the number of the child.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // Not `ip netns exec`: that also mounts another /sys, and files over those in /etc.
        let mut command = Command::new("nsenter");
        let mut network = std::ffi::OsString::from("--net=");
        network.push(self.path());
        command.arg(network).arg("--").arg(program);
        command
    }

    /// Has `ip` do something with this network, a line each.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), HostsError> {
        tool::run(self.command("ip").args(["-batch", "-"]), lines)
    }

    /// Runs code in a thread that has this network. So have the threads and processes that it starts.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, HostsError> {
        let path = self.path();
        let file = File::open(&path).map_err(HostsError::io("opening the namespace", &path))?;
        let work = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(work).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
            .map_err(HostsError::io::<rustix::io::Errno>("entering the namespace", path))
    }

    /// Kills the processes that have this network, and takes the name away. The system removes what
    /// is in it when nobody uses it any more.
    pub(crate) fn remove(&self) -> Result<(), HostsError> {
        let path = self.path();
        let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let identity = match fs::metadata(&path) {
            Ok(metadata) => of(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(HostsError::io("looking at", path)(error)),
        };
        let killed = self.kill_all(identity);
        let mut delete = Command::new("ip");
        let deleted = tool::run(delete.args(["netns", "delete", &self.name]), "");
        // Another process may have been quicker.
        if self.exists() { killed.and(deleted) } else { killed }
    }

    fn kill_all(&self, identity: Identity) -> Result<(), HostsError> {
        let deadline = Instant::now() + tool::LIMIT;
        loop {
            let found = processes_in(identity)?;
            if found.is_empty() {
                return Ok(());
            }
            for number in found {
                kill(number, identity, deadline);
            }
            if Instant::now() > deadline {
                return Err(HostsError::LivesOn {
                    namespace: self.name.clone(),
                    limit: tool::LIMIT,
                });
            }
        }
    }
}

/// Kills a process if it is in this namespace, and waits for its end.
fn kill(number: u32, identity: Identity, deadline: Instant) {
    // What fails here has ended already; whoever has not is found again.
    let Ok(process) = process::handle(number) else { return };
    // The number may have been another's before the handle was there, but not after.
    if network_of(number) == Some(identity) && pidfd_send_signal(&process, Signal::KILL).is_ok() {
        let _ = process::ended_by(process.as_fd(), deadline);
    }
}

/// The processes in a namespace, without this one.
fn processes_in(identity: Identity) -> Result<Vec<u32>, HostsError> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(HostsError::io("listing", "/proc"))? {
        let entry = entry.map_err(HostsError::io("listing", "/proc"))?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(number.filter(|number| network_of(*number) == Some(identity)));
    }
    found.retain(|number| *number != std::process::id());
    Ok(found)
}

/// Which network a process has; none if it has ended.
fn network_of(number: u32) -> Option<Identity> {
    let metadata = fs::metadata(format!("/proc/{number}/ns/net")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
