//! One network namespace with a name.

use crate::error::HostsError;
use crate::{process, tool};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
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
        command.arg(self.entry()).arg("--").arg(program);
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

    /// What `nsenter` is told in order to have this network.
    fn entry(&self) -> OsString {
        let mut entry = OsString::from("--net=");
        entry.push(self.path());
        entry
    }

    /// Kills the processes that have this network, and takes the name away. The system removes what
    /// is in it when nobody uses it any more.
    pub(crate) fn remove(&self) -> Result<(), HostsError> {
        let path = self.path();
        // Held open: as long as it is there, no other namespace looks the same.
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(HostsError::io("opening the namespace", path)(error)),
        };
        let metadata = file.metadata().map_err(HostsError::io("looking at", &path))?;
        let users = Users { network: (metadata.dev(), metadata.ino()), entry: self.entry() };
        let killed = users.kill_all(self.name());
        let mut delete = Command::new("ip");
        let deleted = tool::run(delete.args(["netns", "delete", &self.name]), "");
        // Another process may have been quicker.
        let deleted = if self.exists() { deleted } else { Ok(()) };
        // Without a name, nobody comes any more after those who were about to.
        killed.and(deleted).and_then(|()| users.kill_all(self.name()))
    }
}

/// Who uses a namespace.
struct Users {
    network: Identity,
    entry: OsString,
}

impl Users {
    fn kill_all(&self, name: &str) -> Result<(), HostsError> {
        let deadline = Instant::now() + tool::LIMIT;
        loop {
            let found = self.find()?;
            if found.is_empty() {
                return Ok(());
            }
            found.into_iter().for_each(|number| self.kill(number, deadline));
            if Instant::now() > deadline {
                return Err(HostsError::LivesOn { namespace: name.to_owned(), limit: tool::LIMIT });
            }
        }
    }

    /// All of them but this process.
    fn find(&self) -> Result<Vec<u32>, HostsError> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").map_err(HostsError::io("listing", "/proc"))? {
            let entry = entry.map_err(HostsError::io("listing", "/proc"))?;
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            found.extend(number.filter(|number| self.contain(*number)));
        }
        found.retain(|number| *number != std::process::id());
        Ok(found)
    }

    /// Kills a process if it is one of them, and waits for its end.
    fn kill(&self, number: u32, deadline: Instant) {
        // What fails here has ended already; whoever has not is found again.
        let Ok(process) = process::handle(number) else { return };
        // The number may have been another's before the handle was there, but not after.
        if self.contain(number) && pidfd_send_signal(&process, Signal::KILL).is_ok() {
            let _ = process::ended_by(process.as_fd(), deadline);
        }
    }

    fn contain(&self, number: u32) -> bool {
        // In this order: who is no `nsenter` any more has the network already.
        self.enters(number) || self.has_entered(number)
    }

    /// True of an `nsenter` that may not have the network yet.
    fn enters(&self, number: u32) -> bool {
        let words = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(self.entry.as_bytes())
    }

    fn has_entered(&self, number: u32) -> bool {
        fs::metadata(format!("/proc/{number}/ns/net"))
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.network)
    }
}
