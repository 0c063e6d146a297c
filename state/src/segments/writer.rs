//! The thread that writes a store's segments.
//!
//! # Invariants
//! - What is asked for is done in order, so what a checkpoint needs is written before it is synced.
//! - A file is synced, and its directory, before anyone is told that it is durable.
//! - What there is no room for on the disk waits, in memory, and all that comes after it; it is tried
//!   again at the next occasion. Until then nothing is reported durable.
//! - After any other failure, and if the store cannot wait, nothing is written or reported durable any
//!   more: the store is poisoned.
//! - A file is mapped after its last write.

use super::disk::Disk;
use super::error::SegmentError;
use super::format::{FileHeader, PAGE, encode_trailer, trailer_len};
use super::mapping;
use super::memory::{Buffer, Sealed};
use crate::{FileChange, FileWatcher, PersistDone, StateFile};
use memmap2::Mmap;
use millstream_tuning::BackgroundCores;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// What the thread is asked for.
enum Job {
    Extent(ExtentJob),
    /// The segment is complete: map its first bytes.
    Map {
        number: u32,
        name: String,
        len: usize,
    },
    Sync {
        files: Vec<StateFile>,
        done: PersistDone,
    },
    /// Have the host provide this memory, and hand it back.
    Prepare(Buffer),
    /// Let go of a mapping, which may be the last that keeps a deleted file.
    Unmap(Mmap),
    /// The store waits for what was asked for before.
    Urge,
    /// Say when all that was asked for before is done, or cannot be.
    Settle(Sender<()>),
    Delete {
        number: u32,
        name: String,
    },
}

impl Job {
    /// The segment that is written or mapped.
    fn number(&self) -> Option<u32> {
        match self {
            Self::Extent(extent) => Some(extent.header.number),
            Self::Map { number, .. } => Some(*number),
            Self::Sync { .. }
            | Self::Urge
            | Self::Prepare(_)
            | Self::Unmap(_)
            | Self::Settle(_)
            | Self::Delete { .. } => None,
        }
    }
}

/// An extent to write, and all that its trailer says.
pub(super) struct ExtentJob {
    pub file: String,
    pub header: FileHeader,
    pub data: Sealed,
    pub records: u32,
    pub epoch_max: u32,
    pub tables: Arc<[u8]>,
}

/// What both threads see.
#[derive(Debug, Default)]
struct Shared {
    failure: OnceLock<SegmentError>,
    bytes_written: AtomicU64,
}

/// The store's end.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    mapped: Receiver<(u32, Mmap)>,
    prepared: Receiver<Buffer>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread, on one of these cores, which writes to this directory.
    pub fn start(
        directory: PathBuf,
        cores: BackgroundCores,
        watcher: Option<FileWatcher>,
    ) -> Result<Self, SegmentError> {
        let (jobs, asked) = channel();
        let (mappings, mapped) = channel();
        let (buffers, prepared) = channel();
        let shared = Arc::new(Shared::default());
        let own = Thread {
            directory,
            disk: Disk::new(),
            open: BTreeMap::new(),
            directory_changed: false,
            waiting: VecDeque::new(),
            mappings,
            buffers,
            shared: Arc::clone(&shared),
            watcher,
        };
        let thread = std::thread::Builder::new()
            .name("ms-segments".into())
            .spawn(move || {
                // Where that is refused it works all the same, in the slot's time.
                let _ = cores.leave_slots();
                own.run(&asked);
            })
            .map_err(|source| SegmentError::io("a thread", "start", source))?;
        Ok(Self { jobs: Some(jobs), mapped, prepared, shared, thread: Some(thread) })
    }

    fn ask(&self, job: Job) {
        // The thread ends only after this sender; if it has panicked, waiting for it says so.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Writes an extent.
    pub fn write(&self, extent: ExtentJob) {
        self.ask(Job::Extent(extent));
    }

    /// Prepares memory for [`Self::prepared`].
    pub fn prepare(&self, memory: Buffer) {
        self.ask(Job::Prepare(memory));
    }

    /// Memory that was [asked for](Self::prepare), if it is ready, or when it is.
    pub fn prepared(&self, wait: bool) -> Option<Buffer> {
        if wait { self.prepared.recv().ok() } else { self.prepared.try_recv().ok() }
    }

    /// Maps a segment that will not be written any more.
    pub fn map(&self, number: u32, name: String, len: usize) {
        self.ask(Job::Map { number, name, len });
    }

    /// Lets go of a mapping. What keeps a deleted file until then has its blocks freed with it, which
    /// takes milliseconds for a segment.
    pub fn unmap(&self, mapping: Mmap) {
        self.ask(Job::Unmap(mapping));
    }

    /// Calls `done` with the files when everything asked for before is durable.
    pub fn sync(&self, files: Vec<StateFile>, done: PersistDone) {
        self.ask(Job::Sync { files, done });
    }

    /// Deletes a segment to which no checkpoint refers.
    pub fn delete(&self, number: u32, name: String) {
        self.ask(Job::Delete { number, name });
    }

    /// A segment that has been mapped, if there is one.
    pub fn mapped(&self) -> Option<(u32, Mmap)> {
        self.mapped.try_recv().ok()
    }

    /// Waits for the next segment to be mapped; `None` if none will be.
    pub fn wait_mapped(&self) -> Option<(u32, Mmap)> {
        self.ask(Job::Urge);
        self.mapped.recv().ok()
    }

    /// Waits until the writer has let go of the memory of what it was asked to write before.
    pub fn settle(&self) {
        let (done, settled) = channel();
        self.ask(Job::Settle(done));
        let _ = settled.recv();
    }

    /// The failure that has poisoned the store.
    #[inline]
    pub fn failure(&self) -> Option<&SegmentError> {
        self.shared.failure.get()
    }

    /// All bytes written to files.
    pub fn bytes_written(&self) -> u64 {
        self.shared.bytes_written.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct OpenFile {
    file: File,
    has_header: bool,
    synced: bool,
}

/// The thread's end.
struct Thread {
    directory: PathBuf,
    disk: Disk,
    /// Files that may be written again, by number.
    open: BTreeMap<u32, OpenFile>,
    /// A file was made since the directory was synced.
    directory_changed: bool,
    /// Extents and mappings that could not be made yet, in order.
    waiting: VecDeque<Job>,
    mappings: Sender<(u32, Mmap)>,
    buffers: Sender<Buffer>,
    shared: Arc<Shared>,
    watcher: Option<FileWatcher>,
}

impl Thread {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Sync { files, done } => {
                    let result = self.catch_up().and_then(|()| self.unless_failed(Self::sync));
                    done(
                        result.map(|()| files).map_err(|error| error.during("write a checkpoint")),
                    );
                }
                Job::Extent(_) | Job::Map { .. } => {
                    self.waiting.push_back(job);
                    // A failure is told to who asks whether it is durable.
                    let _ = self.catch_up();
                }
                Job::Urge => {
                    let caught_up = self.catch_up();
                    let _ = self.unless_failed(|_| caught_up);
                }
                Job::Prepare(mut buffer) => {
                    buffer.prefault();
                    // The store may be gone.
                    let _ = self.buffers.send(buffer);
                }
                Job::Unmap(mapping) => drop(mapping),
                Job::Settle(done) => {
                    let _ = self.catch_up();
                    let _ = done.send(());
                }
                Job::Delete { number, name } => {
                    self.waiting.retain(|job| job.number() != Some(number));
                    self.open.remove(&number);
                    // A file that stays behind costs space; what collects orphans will find it.
                    let _ = std::fs::remove_file(self.directory.join(&name));
                    self.tell(|| FileChange::Deleted { name });
                }
            }
        }
    }

    /// Does what waits, as far as there is room.
    fn catch_up(&mut self) -> Result<(), SegmentError> {
        while let Some(job) = self.waiting.pop_front() {
            let mut no_room = None;
            self.unless_failed(|own| match &job {
                Job::Extent(extent) => match own.write(extent) {
                    Err(error) if error.is_no_room() => {
                        no_room = Some(error);
                        Ok(())
                    }
                    result => result,
                },
                Job::Map { number, name, len } => own.map(*number, name, *len),
                Job::Sync { .. }
                | Job::Urge
                | Job::Prepare(_)
                | Job::Unmap(_)
                | Job::Settle(_)
                | Job::Delete { .. } => Ok(()),
            })?;
            if let Some(error) = no_room {
                self.waiting.push_front(job);
                return Err(error);
            }
        }
        Ok(())
    }

    fn unless_failed(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        if let Some(error) = self.shared.failure.get() {
            return Err(SegmentError::Poisoned(Box::new(error.clone())));
        }
        f(self).inspect_err(|error| {
            // Cannot be set already: only this thread sets it.
            let _ = self.shared.failure.set(error.clone());
            // Waiting for mappings would never end.
            self.mappings = channel().0;
        })
    }

    fn write(&mut self, extent: &ExtentJob) -> Result<(), SegmentError> {
        let path = self.directory.join(&extent.file);
        let failed = |operation| {
            let path = path.display().to_string();
            move |source| SegmentError::io(path, operation, source)
        };
        let (data, start) = (extent.data.bytes(), extent.data.start());
        let trailer_bytes = trailer_len(data.len(), extent.tables.len()).max(PAGE);
        let mut scratch = Buffer::new(trailer_bytes).map_err(failed("allocate memory to write"))?;
        let scratch = scratch.as_mut_slice();
        if !self.open.contains_key(&extent.header.number) {
            let file = Disk::create(&path).map_err(failed("create"))?;
            self.directory_changed = true;
            let open = OpenFile { file, has_header: false, synced: false };
            self.open.insert(extent.header.number, open);
        }
        let Some(open) = self.open.get_mut(&extent.header.number) else { return Ok(()) };
        open.synced = false;
        if !open.has_header {
            extent.header.encode(&mut scratch[..PAGE]);
            self.disk.write(&open.file, &scratch[..PAGE], 0).map_err(failed("write"))?;
            open.has_header = true;
        }
        let trailer = &mut scratch[..trailer_len(data.len(), extent.tables.len())];
        encode_trailer(data, start, extent.records, extent.epoch_max, &extent.tables, trailer);
        let len = data.len() + trailer.len();
        // One allocation on disk for the extent. A file system that cannot does so as it is
        // written.
        let _ = rustix::fs::fallocate(
            &open.file,
            rustix::fs::FallocateFlags::empty(),
            start as u64,
            len as u64,
        );
        self.disk.write(&open.file, data, start as u64).map_err(failed("write"))?;
        let end = (start + data.len()) as u64;
        self.disk.write(&open.file, trailer, end).map_err(failed("write"))?;
        self.shared.bytes_written.fetch_add(len as u64, Ordering::Relaxed);
        let len = (start + len) as u64;
        self.tell(|| FileChange::Grown { name: extent.file.clone(), len });
        Ok(())
    }

    fn tell(&self, change: impl FnOnce() -> FileChange) {
        if let Some(watcher) = &self.watcher {
            watcher.tell(change());
        }
    }

    fn map(&mut self, number: u32, name: &str, len: usize) -> Result<(), SegmentError> {
        if let Some(open) = self.open.remove(&number)
            && !open.synced
        {
            open.file.sync_data().map_err(|source| {
                SegmentError::io(self.directory.join(name).display().to_string(), "sync", source)
            })?;
        }
        let mapping = mapping::map(&self.directory.join(name), len as u64)?;
        mapping::read_at_random(&mapping);
        // The store may be gone.
        let _ = self.mappings.send((number, mapping));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SegmentError> {
        let path = self.directory.display().to_string();
        for open in self.open.values_mut().filter(|open| !open.synced) {
            open.file
                .sync_data()
                .map_err(|source| SegmentError::io(path.as_str(), "sync a segment in", source))?;
            open.synced = true;
        }
        if self.directory_changed {
            File::open(&self.directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|source| SegmentError::io(path.as_str(), "sync", source))?;
            self.directory_changed = false;
        }
        Ok(())
    }
}
