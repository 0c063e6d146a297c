//! Which cores a process may pin its slots to.
//!
//! Each core has a file, and who has locked it has the core: so several agents on a host, and processes
//! that outlive their agent for a while, never share one. The process inherits the locked file, so
//! that the core is free only when both are gone.

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::FdFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Cores that are taken until this is dropped, and the process that has inherited it has ended.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    taken: Vec<(usize, File)>,
}

impl Lease {
    /// Takes so many cores of those that this process may run on, the last first: the first are for
    /// what is not pinned. None if there are not enough: then slots are not pinned.
    pub(crate) fn take(directory: &Path, count: usize) -> Self {
        let mut lease = Self::default();
        lease.grow(directory, count);
        lease
    }

    /// Takes more, if so many are to be had.
    pub(crate) fn grow(&mut self, directory: &Path, count: usize) {
        let before = self.taken.len();
        match take(directory, &allowed(), count.saturating_sub(before)) {
            Ok(more) => self.taken.extend(more),
            Err(error) => {
                let directory = directory.display();
                tracing::warn!("cores cannot be taken in {directory}, nothing is pinned: {error}");
            }
        }
        if self.taken.len() < count {
            self.taken.clear();
        }
    }

    pub(crate) fn cores(&self) -> Vec<usize> {
        self.taken.iter().map(|(core, _)| *core).collect()
    }

    /// While `start` runs, a process that is started inherits the locks, and no other.
    pub(crate) fn inherited<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let set = |flags| {
            self.taken.iter().try_for_each(|(_, file)| rustix::io::fcntl_setfd(file, flags))
        };
        set(FdFlags::empty())?;
        let started = start();
        set(FdFlags::CLOEXEC)?;
        started
    }
}

/// The cores that this process may run on.
fn allowed() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let set = set.unwrap_or_else(|_| rustix::thread::CpuSet::new());
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// How many there are.
pub(crate) fn count() -> usize {
    allowed().len()
}

fn take(directory: &Path, cores: &[usize], count: usize) -> io::Result<Vec<(usize, File)>> {
    let mut taken = Vec::new();
    if count == 0 || cores.len() < count {
        return Ok(taken);
    }
    open_directory(directory)?;
    for core in cores.iter().rev() {
        let file = open(&directory.join(format!("core-{core}")))?;
        let locks = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if taken.len() < count && locks() {
            taken.push((*core, file));
        }
    }
    Ok(taken)
}

/// Makes the directory, in a place where anybody may make one.
///
/// # Errors
/// If it is another user's, or others may write to it: who can put links there has the agent open what they
/// lead to.
fn open_directory(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let found = std::fs::symlink_metadata(directory)?;
    let own = rustix::process::geteuid().as_raw();
    if found.is_dir() && [0, own].contains(&found.uid()) && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let words = "it must be a directory of root or of this user that no other may write to; remove it, or name another by --core-lease-dir";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, words))
}

/// Opens a core's file. Whoever makes it lets agents of other users take part.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = File::options();
    options.write(true).custom_flags(flags);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match options.create_new(true).open(path) {
        // Another agent was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create_new(false).open(path)
        }
        created => {
            let created = created?;
            created.set_permissions(PermissionsExt::from_mode(0o666))?;
            Ok(created)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A process that another test starts at this moment has all files, until it is another program.
    fn eventually(holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end);
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[test]
    fn no_core_is_taken_twice_and_all_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let one = take(&path, &[0, 1, 2], 2).unwrap();
        assert_eq!(one.iter().map(|(core, _)| *core).collect::<Vec<_>>(), [2, 1]);
        let other = take(&path, &[0, 1, 2], 2).unwrap();
        assert_eq!(other.iter().map(|(core, _)| *core).collect::<Vec<_>>(), [0]);
        drop(one);
        eventually(|| take(&path, &[0, 1, 2], 2).unwrap().len() == 2);
    }

    #[test]
    fn what_others_may_write_to_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
        let error = take(&open, &[0], 1).unwrap_err();
        assert!(error.to_string().contains("no other may write to"), "{error}");
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let own = directory.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::symlink(&secret, own.join("core-0")).unwrap();
        take(&own, &[0], 1).unwrap_err();
        assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(&own, directory.path().join("link")).unwrap();
        take(&directory.path().join("link"), &[1], 1).unwrap_err();
    }

    #[test]
    fn who_gets_too_few_gets_none() {
        let directory = tempfile::tempdir().unwrap();
        let lease = Lease::take(directory.path(), count() + 1);
        assert!(lease.cores().is_empty());
        let lease = Lease::take(directory.path(), count());
        assert_eq!(lease.cores().len(), count());
        assert!(Lease::take(directory.path(), 1).cores().is_empty());
    }

    #[test]
    fn a_core_is_free_when_its_process_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let lease = Lease::take(directory.path(), count());
        let start = || {
            let mut command = std::process::Command::new("cat");
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn()
        };
        let mut child = lease.inherited(start).unwrap();
        drop(lease);
        assert!(Lease::take(directory.path(), 1).cores().is_empty(), "the process has it");
        drop(child.stdin.take());
        child.wait().unwrap();
        eventually(|| Lease::take(directory.path(), 1).cores().len() == 1);
    }
}
