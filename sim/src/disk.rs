//! A disk with one directory, and what disks do when they fail.
//!
//! # What is promised, and what is not
//! - What was appended is visible at once and durable after the file's sync; what was not synced may
//!   be lost, kept, kept in part or kept as garbage when the power fails.
//! - A created, renamed or removed name is durable after the directory's sync; without it, it may
//!   survive or not.
//! - A failed sync has dropped the pages: they are never written, and the next sync says that all is
//!   well (Rebello et al., "Can applications recover from fsync failures?", ATC 2020).
//! - A process that is killed loses nothing of what it had handed over, but an append may be cut.
//!
//! Operations run in scripts, one after the other, each of which takes a while; the first that fails
//! ends its script.

use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that is done to the disk.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Makes an empty file; fails if there is one of this name.
    Create(String),
    /// Adds to a file's end.
    Append(String, Vec<u8>),
    /// Writes at a place of a file that grows, which is made if there is none; fails if it ends before.
    Write(String, usize, Vec<u8>),
    /// Makes a file's content durable.
    Sync(String),
    /// Makes all names durable.
    SyncDirectory,
    /// Gives a file another name; fails if there is one of the new name.
    Publish(String, String),
    /// Takes a name away; it need not exist.
    Remove(String),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("no space left on device")]
    NoSpace,
    #[error("input/output error")]
    Io,
    #[error("file exists")]
    Exists,
    #[error("no such file")]
    Missing,
}

/// What goes wrong by itself, each once in so many operations; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskFaults {
    /// An append or a sync fails.
    pub(crate) io_error: u64,
    /// The disk becomes full for a while.
    pub(crate) full: u64,
    /// The disk becomes slow for a while.
    pub(crate) slow: u64,
}

type InodeId = u64;

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    /// The first so many bytes are durable.
    durable_len: usize,
    /// A sync has failed: nothing more becomes durable, and nobody is told.
    poisoned: bool,
}

/// A change of the directory that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Add(String, InodeId),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone, Debug)]
struct Script<T> {
    token: T,
    /// Reversed: the next one is the last.
    operations: Vec<Operation>,
    /// When the next operation is done.
    due: u64,
}

/// A disk whose scripts carry tokens of type `T`.
#[derive(Clone, Debug)]
pub(crate) struct Disk<T> {
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    visible: BTreeMap<String, InodeId>,
    durable: BTreeMap<String, InodeId>,
    changes: Vec<Change>,
    scripts: Vec<Script<T>>,
    pub(crate) faults: DiskFaults,
    full_until: u64,
    slow_until: u64,
    /// Counts the changes of names and of what is durable.
    version: u64,
}

/// How many bytes the simulated pages have that are lost one by one.
const PAGE_BYTES: usize = 16;

impl<T> Disk<T> {
    pub(crate) fn new() -> Self {
        Self {
            inodes: BTreeMap::new(),
            next_inode: 0,
            visible: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: Vec::new(),
            scripts: Vec::new(),
            faults: DiskFaults::default(),
            full_until: 0,
            slow_until: 0,
            version: 0,
        }
    }

    /// Begins a script.
    pub(crate) fn submit(
        &mut self,
        now: u64,
        token: T,
        mut operations: Vec<Operation>,
        random: &mut Random,
    ) {
        operations.reverse();
        let due = now + self.latency(now, random);
        self.scripts.push(Script { token, operations, due });
    }

    /// True if no script runs.
    pub(crate) fn is_quiet(&self) -> bool {
        self.scripts.is_empty()
    }

    /// Does what is due and returns the scripts that have ended.
    pub(crate) fn step(
        &mut self,
        now: u64,
        random: &mut Random,
    ) -> Vec<(T, Result<(), DiskError>)> {
        if random.one_in(self.faults.full * 50) {
            self.full_until = now + random.between(5, 60);
        }
        if random.one_in(self.faults.slow * 50) {
            self.slow_until = now + random.between(10, 100);
        }
        let mut ended = Vec::new();
        for mut script in std::mem::take(&mut self.scripts) {
            if script.due > now {
                self.scripts.push(script);
                continue;
            }
            let done = script.operations.pop().map(|next| self.perform(now, next, random));
            match done {
                Some(Ok(())) if !script.operations.is_empty() => {
                    script.due = now + self.latency(now, random);
                    self.scripts.push(script);
                }
                done => ended.push((script.token, done.unwrap_or(Ok(())))),
            }
        }
        ended
    }

    /// Does one operation, with whatever fault befalls it.
    pub(crate) fn perform(
        &mut self,
        now: u64,
        operation: Operation,
        random: &mut Random,
    ) -> Result<(), DiskError> {
        let fails = random.one_in(self.faults.io_error);
        self.version += 1;
        match operation {
            Operation::Create(name) => {
                if self.visible.contains_key(&name) {
                    return Err(DiskError::Exists);
                }
                self.next_inode += 1;
                self.inodes.insert(self.next_inode, Inode::default());
                self.visible.insert(name.clone(), self.next_inode);
                self.changes.push(Change::Add(name, self.next_inode));
            }
            Operation::Append(name, bytes) => {
                let full = now < self.full_until && !bytes.is_empty();
                let fails = fails && !bytes.is_empty();
                let inode = self.inode_mut(&name)?;
                let len = if full || fails { random.index(bytes.len() + 1) } else { bytes.len() };
                inode.content.extend_from_slice(&bytes[..len]);
                if full {
                    return Err(DiskError::NoSpace);
                }
                if fails {
                    return Err(DiskError::Io);
                }
            }
            Operation::Write(name, offset, bytes) => {
                if offset == 0 && !self.visible.contains_key(&name) {
                    self.perform(now, Operation::Create(name.clone()), random)?;
                }
                let inode = self.inode_mut(&name)?;
                let old = inode.content.get(offset..).ok_or(DiskError::Missing)?;
                // Whoever sends something twice sends the same.
                let there = old.iter().zip(&bytes).take_while(|(old, new)| old == new).count();
                let bytes = bytes[there..].to_vec();
                inode.content.truncate(if bytes.is_empty() { usize::MAX } else { offset + there });
                inode.durable_len = inode.durable_len.min(inode.content.len());
                return self.perform(now, Operation::Append(name, bytes), random);
            }
            Operation::Sync(name) => {
                let inode = self.inode_mut(&name)?;
                // Where nothing is to be written, nothing fails.
                if fails && inode.durable_len < inode.content.len() {
                    inode.poisoned = true;
                    return Err(DiskError::Io);
                }
                if !inode.poisoned {
                    inode.durable_len = inode.content.len();
                }
            }
            Operation::SyncDirectory => {
                if fails {
                    return Err(DiskError::Io);
                }
                self.durable.clone_from(&self.visible);
                self.changes.clear();
            }
            Operation::Publish(from, to) => {
                if self.visible.contains_key(&to) {
                    return Err(DiskError::Exists);
                }
                let inode = self.visible.remove(&from).ok_or(DiskError::Missing)?;
                self.visible.insert(to.clone(), inode);
                self.changes.push(Change::Rename(from, to));
            }
            Operation::Remove(name) => {
                if self.visible.remove(&name).is_some() {
                    self.changes.push(Change::Remove(name));
                }
            }
        }
        Ok(())
    }

    /// The process is killed: its scripts end, perhaps in the middle of an operation.
    pub(crate) fn kill(&mut self, now: u64, random: &mut Random) {
        for mut script in std::mem::take(&mut self.scripts) {
            match script.operations.pop() {
                Some(Operation::Append(name, mut bytes)) => {
                    bytes.truncate(random.index(bytes.len() + 1));
                    // Nobody is left to hear of a failure.
                    let _ = self.perform(now, Operation::Append(name, bytes), random);
                }
                Some(operation) if random.one_in(2) => {
                    let _ = self.perform(now, operation, random);
                }
                _ => {}
            }
        }
    }

    /// The power fails, after [`kill`](Self::kill): what is not durable may be lost.
    pub(crate) fn lose_power(&mut self, random: &mut Random) {
        let mut lost = BTreeSet::new();
        let mut names = std::mem::take(&mut self.durable);
        let in_order = random.one_in(2);
        let mut all_lost = false;
        for change in std::mem::take(&mut self.changes) {
            // A journal keeps the order; without one, only changes of the same name keep theirs.
            all_lost |= in_order && random.one_in(2);
            let (from, to) = match &change {
                Change::Add(name, _) | Change::Remove(name) => (name, name),
                Change::Rename(from, to) => (from, to),
            };
            if all_lost || lost.contains(from) || lost.contains(to) || random.one_in(2) {
                lost.extend([from.clone(), to.clone()]);
                continue;
            }
            match change {
                Change::Add(name, inode) => drop(names.insert(name, inode)),
                Change::Remove(name) => drop(names.remove(&name)),
                Change::Rename(from, to) => {
                    if let Some(inode) = names.remove(&from) {
                        names.insert(to, inode);
                    }
                }
            }
        }
        let used: BTreeSet<_> = names.values().copied().collect();
        self.inodes.retain(|id, _| used.contains(id));
        for inode in self.inodes.values_mut() {
            inode.lose_power(random);
        }
        (self.visible, self.durable) = (names.clone(), names);
        self.version += 1;
    }

    /// Flips one bit of a file.
    pub(crate) fn rot(&mut self, name: &str, random: &mut Random) {
        let Ok(inode) = self.inode_mut(name) else { return };
        if inode.content.is_empty() {
            return;
        }
        let at = random.index(inode.content.len());
        inode.content[at] ^= 1 << random.below(8);
    }

    /// A file's content as a reader sees it now.
    pub(crate) fn read(&self, name: &str) -> Option<&[u8]> {
        let inode = self.visible.get(name)?;
        self.inodes.get(inode).map(|inode| inode.content.as_slice())
    }

    /// The part of a file that would be left for sure if the power failed now.
    pub(crate) fn read_durable(&self, name: &str) -> Option<&[u8]> {
        let inode = self.inodes.get(self.durable.get(name)?)?;
        Some(&inode.content[..inode.durable_len])
    }

    /// The visible names that begin so, in order.
    pub(crate) fn list<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.visible
            .range(prefix.to_owned()..)
            .map(|(name, _)| name.as_str())
            .take_while(move |name| name.starts_with(prefix))
    }

    /// A number that changes whenever a name or something durable does.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    fn inode_mut(&mut self, name: &str) -> Result<&mut Inode, DiskError> {
        let inode = self.visible.get(name).ok_or(DiskError::Missing)?;
        self.inodes.get_mut(inode).ok_or(DiskError::Missing)
    }

    fn latency(&self, now: u64, random: &mut Random) -> u64 {
        if now < self.slow_until { random.between(5, 40) } else { random.between(1, 3) }
    }
}

impl Inode {
    fn lose_power(&mut self, random: &mut Random) {
        match random.below(4) {
            0 => self.content.truncate(self.durable_len),
            1 => {
                let tail = self.content.len() - self.durable_len;
                self.content.truncate(self.durable_len + random.index(tail + 1));
            }
            2 => {
                for page in self.content[self.durable_len..].chunks_mut(PAGE_BYTES) {
                    if random.one_in(2) {
                        page.fill(0);
                    }
                }
            }
            _ => {}
        }
        (self.durable_len, self.poisoned) = (self.content.len(), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation::*;

    fn disk() -> (Disk<u32>, Random) {
        (Disk::new(), Random::new(7))
    }

    fn name() -> String {
        "file".to_owned()
    }

    fn perform(disk: &mut Disk<u32>, random: &mut Random, operations: Vec<Operation>) {
        for operation in operations {
            disk.perform(0, operation, random).unwrap();
        }
    }

    #[test]
    fn what_is_synced_survives_a_power_failure() {
        for seed in 0..50 {
            let (mut disk, mut random) = (Disk::<u32>::new(), Random::new(seed));
            let bytes = vec![7; 40];
            let synced = vec![Create(name()), Append(name(), bytes.clone()), Sync(name())];
            perform(&mut disk, &mut random, synced);
            perform(&mut disk, &mut random, vec![SyncDirectory, Append(name(), vec![8; 40])]);
            assert_eq!(disk.read_durable("file"), Some(&bytes[..]));
            disk.lose_power(&mut random);
            assert_eq!(&disk.read("file").unwrap()[..40], &bytes[..]);
        }
    }

    #[test]
    fn what_is_not_synced_may_be_lost_kept_or_torn() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let (mut disk, mut random) = (Disk::<u32>::new(), Random::new(seed));
            perform(&mut disk, &mut random, vec![Create(name()), Append(name(), vec![7; 40])]);
            assert_eq!(disk.read_durable("file"), None);
            disk.lose_power(&mut random);
            outcomes.insert(disk.read("file").map(|content| match content {
                [] => "empty",
                full if full.len() == 40 && full.iter().all(|byte| *byte == 7) => "whole",
                part if part.len() < 40 => "cut",
                _ => "garbage",
            }));
        }
        let expected = [None, Some("cut"), Some("empty"), Some("garbage"), Some("whole")];
        assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_failed_sync_is_followed_by_one_that_lies() {
        let (mut disk, mut random) = disk();
        let written = vec![Create(name()), SyncDirectory, Append(name(), vec![7; 4])];
        perform(&mut disk, &mut random, written);
        disk.faults.io_error = 1;
        assert_eq!(disk.perform(0, Sync(name()), &mut random), Err(DiskError::Io));
        disk.faults.io_error = 0;
        assert_eq!(disk.perform(0, Sync(name()), &mut random), Ok(()));
        assert_eq!(disk.read_durable("file"), Some(&[][..]));
    }

    #[test]
    fn a_name_is_given_once() {
        let (mut disk, mut random) = disk();
        perform(&mut disk, &mut random, vec![Create(name()), Create("other".to_owned())]);
        assert_eq!(disk.perform(0, Create(name()), &mut random), Err(DiskError::Exists));
        let publish = Publish("other".to_owned(), name());
        assert_eq!(disk.perform(0, publish, &mut random), Err(DiskError::Exists));
    }

    #[test]
    fn a_killed_process_leaves_its_files_and_half_an_append() {
        let mut lens = BTreeSet::new();
        for seed in 0..100 {
            let (mut disk, mut random) = (Disk::new(), Random::new(seed));
            perform(&mut disk, &mut random, vec![Create(name())]);
            disk.submit(0, 1, vec![Append(name(), vec![7; 3]), Sync(name())], &mut random);
            disk.kill(0, &mut random);
            assert!(disk.is_quiet());
            lens.insert(disk.read("file").unwrap().len());
        }
        assert_eq!(lens.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn the_first_failure_ends_a_script() {
        let (mut disk, mut random) = disk();
        let script = vec![Create(name()), Create(name()), Remove(name())];
        disk.submit(0, 5, script, &mut random);
        let ended: Vec<_> = (1..20).flat_map(|now| disk.step(now, &mut random)).collect();
        assert_eq!(ended, [(5, Err(DiskError::Exists))]);
        assert!(disk.read("file").is_some());
    }
}
