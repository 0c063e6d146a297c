//! Files in a directory, a new one for each checkpoint.
//!
//! # Invariants
//! - A part is hidden until the checkpoint with which it ended is complete. Then it takes its name in
//!   one step and never changes again.
//! - A transaction names all parts of its writer that have not been seen under their names. So what a
//!   failed checkpoint left is committed with the next that completes.
//! - No two parts have ever the same number and subtask: writers go on behind the greatest number that
//!   any writer had.

use crate::block_writer::Output;
use crate::compress::Stream;
use crate::encoder::Encoder;
use crate::error::WriteError;
use crate::file_sink::{nonce, sync_directory};
use crate::io_thread::Stop;
use crate::listing::Compression;
use crate::record_writer::{FlushPolicy, RecordWriter};
use millstream::connector::{
    BoxError, PreCommit, Prepared, Sink, SinkContext, SinkWriter, Timestamp, decode_item,
    encode_item,
};
use rustix::fs::Access;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Writes records to files in a directory, `part-SUBTASK-NUMBER`. A part appears when the checkpoint
/// completes up to which it reaches, the last one when the job ends; without checkpoints that is all
/// there is. Each record is in one part, however often the job was killed and resumed.
///
/// The directory holds the parts of one job: a new one refuses to begin where there are parts already,
/// and a resumed one where there are parts that were written after its checkpoint. Who reads the parts
/// may move or delete them. What killed jobs leave is hidden, and removed when the next one begins.
#[derive(Clone, Debug)]
pub struct RollingFileSink<E> {
    directory: PathBuf,
    suffix: String,
    encoder: E,
}

impl<E> RollingFileSink<E> {
    /// Writes to a directory, which is made if only it itself is missing.
    pub fn new(directory: impl Into<PathBuf>, encoder: E) -> Self {
        Self { directory: directory.into(), suffix: String::new(), encoder }
    }

    /// Ends the names of all parts with this, such as `.csv`. One that ends in `.gz` or `.zst`
    /// compresses.
    ///
    /// # Panics
    /// If it contains a `/`.
    pub fn suffix(mut self, suffix: impl Into<String>) -> Self {
        self.suffix = suffix.into();
        assert!(!self.suffix.contains('/'), "{:?} cannot end the name of a file", self.suffix);
        self
    }

    /// The parts in the directory, hidden ones too.
    fn list(&self) -> Result<Vec<Found>, WriteError> {
        let name = self.directory.display().to_string();
        let failed = |error| WriteError::io(&name, "list the directory", error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            found.extend(entry.file_name().to_str().and_then(Found::parse));
        }
        Ok(found)
    }

    /// Removes what killed writers left, those that this one stands for.
    fn remove_leftovers(&self, found: &[Found], context: &SinkContext) -> Result<(), WriteError> {
        let hidden = found.iter().filter(|part| part.is_hidden);
        for part in hidden.filter(|part| part.subtask % context.parallelism == context.subtask.0) {
            let path = self.directory.join(&part.name);
            fs::remove_file(&path).map_err(|error| {
                let name = path.display().to_string();
                WriteError::io(&name, "remove it, which an earlier job has left", error)
            })?;
        }
        Ok(())
    }
}

/// A file in the directory, by its name.
struct Found {
    name: String,
    is_hidden: bool,
    subtask: u32,
    number: u64,
}

impl Found {
    fn parse(name: &str) -> Option<Self> {
        let visible = name.strip_prefix('.');
        let is_hidden = visible.is_some() && name.contains(".inprogress-");
        let rest = visible.unwrap_or(name).strip_prefix("part-")?;
        let (subtask, rest) = rest.split_once('-')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (subtask, number) = (subtask.parse().ok()?, rest[..end].parse().ok()?);
        Some(Self { name: name.to_owned(), is_hidden, subtask, number })
    }
}

/// A part as it is stored.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    name: String,
    hidden_name: String,
    /// Its size, if it is not compressed.
    bytes: Option<u64>,
}

/// What the parts of one writer are called.
#[derive(Clone, Debug)]
struct Names {
    directory: PathBuf,
    subtask: u32,
    suffix: String,
    nonce: String,
}

impl Names {
    fn part(&self, number: u64, bytes: Option<u64>) -> Part {
        let Self { subtask, suffix, nonce, .. } = self;
        let name = format!("part-{subtask}-{number}{suffix}");
        Part { hidden_name: format!(".{name}.inprogress-{nonce}"), name, bytes }
    }

    fn compression(&self) -> Compression {
        Compression::of_path(Path::new(&format!("part{}", self.suffix)))
    }
}

/// Parts that have not been seen under their names, by number.
type Unseen = Arc<Mutex<Vec<(u64, Part)>>>;

impl<T: 'static, E: Encoder<T>> Sink<T> for RollingFileSink<E> {
    type Writer = RollingFileWriter<E>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), BoxError> {
        let path = self.directory.display().to_string();
        let checked = match fs::metadata(&self.directory) {
            Ok(there) if there.is_dir() => &self.directory,
            Ok(_) => return Err(WriteError::NotADirectory { path }.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match self.directory.parent() {
                    Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                    Some(parent) if parent.exists() => parent,
                    parent => {
                        let directory = parent.unwrap_or(&self.directory).display().to_string();
                        return Err(WriteError::NoDirectory { path, directory }.into());
                    }
                }
            }
            Err(error) => return Err(WriteError::io(&path, "look at it", error).into()),
        };
        rustix::fs::access(checked, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| WriteError::io(&path, "write to it", error.into()))?;
        Ok(())
    }

    fn open(self, context: &SinkContext) -> Result<Self::Writer, BoxError> {
        let directory = self.directory.display().to_string();
        match fs::create_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(WriteError::io(&directory, "create it", error).into());
            }
            _ => {}
        }
        let mut next = 0;
        for item in context.restored.iter().flat_map(|items| items.iter()) {
            next = next.max(decode_item(item)?);
        }
        let found = self.list()?;
        let others = found.iter().find(|part| !part.is_hidden && part.number >= next);
        if let Some(Found { name, .. }) = others {
            return Err(WriteError::OtherParts { directory, part: name.clone() }.into());
        }
        self.remove_leftovers(&found, context)?;
        let names = Names {
            directory: self.directory,
            subtask: context.subtask.0,
            suffix: self.suffix,
            nonce: nonce(),
        };
        let unseen = Unseen::default();
        let output =
            PartsOutput { names: names.clone(), next, current: None, unseen: unseen.clone() };
        let encoder = self.encoder.clone();
        let policy = FlushPolicy::FullBlocks;
        let writer = RecordWriter::open(directory, output, self.encoder, policy, context)?;
        Ok(RollingFileWriter { writer, encoder, names, next, written_bytes: 0, unseen })
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let mut has_changed = false;
        for transaction in transactions {
            for part in decode_item::<Vec<Part>>(transaction)? {
                has_changed |= self.publish(&part)?;
            }
        }
        if has_changed {
            sync_directory(&self.directory)?;
        }
        Ok(())
    }

    fn abort(&self, _: u32) {
        // Nothing can be done about a failure, and nothing of it is visible.
        for part in self.list().unwrap_or_default().into_iter().filter(|part| part.is_hidden) {
            let _ = fs::remove_file(self.directory.join(part.name));
        }
    }
}

impl<E> RollingFileSink<E> {
    /// Gives a part its name; false if it has had it before, and may have been taken away since.
    fn publish(&self, part: &Part) -> Result<bool, WriteError> {
        let (hidden, path) =
            (self.directory.join(&part.hidden_name), self.directory.join(&part.name));
        let name = path.display().to_string();
        let present = match fs::metadata(&hidden) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(WriteError::io(&name, "look at it", error)),
        };
        if let Some(bytes) = part.bytes.filter(|bytes| *bytes != present) {
            let reason = format!("it has {present} bytes, and {bytes} were written");
            let piece = hidden.display().to_string();
            return Err(WriteError::PieceDamaged { name, piece, reason });
        }
        fs::rename(&hidden, &path)
            .map_err(|error| WriteError::io(&name, "rename it to its final name", error))?;
        Ok(true)
    }
}

/// The writer of a [`RollingFileSink`].
pub struct RollingFileWriter<E> {
    writer: RecordWriter<E>,
    /// At the beginning of a part.
    encoder: E,
    names: Names,
    /// The number of the part that is being written, or of the next.
    next: u64,
    /// Bytes in the parts before it, before any compression.
    written_bytes: u64,
    unseen: Unseen,
}

impl<T, E: Encoder<T>> SinkWriter<T> for RollingFileWriter<E> {
    #[inline]
    fn write(&mut self, value: T, timestamp: Timestamp) -> Result<(), BoxError> {
        self.writer.write(value, timestamp)
    }

    fn is_blocked(&mut self) -> bool {
        SinkWriter::<T>::is_blocked(&mut self.writer)
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        SinkWriter::<T>::finish(&mut self.writer)
    }

    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        SinkWriter::<T>::pre_commit(&mut self.writer, prepared)?;
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.writer.position() - self.written_bytes;
        if bytes > 0 {
            let is_plain = self.names.compression() == Compression::None;
            unseen.push((self.next, self.names.part(self.next, is_plain.then_some(bytes))));
            self.next += 1;
            self.written_bytes += bytes;
            self.writer.restart_encoder(self.encoder.clone());
        }
        let parts: Vec<Part> = unseen.iter().map(|(_, part)| part.clone()).collect();
        let transaction = if parts.is_empty() { None } else { Some(encode_item(&parts)?) };
        Ok(PreCommit { state: vec![encode_item(&self.next)?], transaction })
    }
}

/// Writes the parts, one after the other.
struct PartsOutput {
    names: Names,
    /// The number of the part that is being written, or of the next.
    next: u64,
    current: Option<Stream>,
    unseen: Unseen,
}

impl PartsOutput {
    /// Forgets the parts that have got their names.
    fn look_for_names(&self) {
        let unseen = || self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        // Not while the writer may wait for the lock. Those with a later number may be named before
        // they are created.
        let mut ended = unseen().clone();
        ended.retain(|(number, _)| *number < self.next);
        ended.retain(|(_, part)| !self.names.directory.join(&part.hidden_name).exists());
        unseen().retain(|part| !ended.contains(part));
    }

    /// The part that is being written, a new one if there is none.
    fn open(&mut self) -> io::Result<&mut Stream> {
        let stream = match self.current.take() {
            Some(stream) => stream,
            None => {
                let path = self.names.directory.join(self.names.part(self.next, None).hidden_name);
                let file = OpenOptions::new().append(true).create_new(true).open(path)?;
                Stream::new(file, self.names.compression())
            }
        };
        Ok(self.current.insert(stream))
    }

    /// What errors call it.
    fn name(&self) -> String {
        self.names.directory.join(self.names.part(self.next, None).name).display().to_string()
    }
}

impl Output for PartsOutput {
    fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<bool, WriteError> {
        if stop.is_set() {
            return Ok(false);
        }
        let written = self.open().and_then(|stream| stream.write_all(bytes));
        written.map_err(|error| WriteError::io(&self.name(), "write it", error))?;
        Ok(true)
    }

    fn pre_commit(&mut self) -> Result<(), WriteError> {
        if let Some(mut stream) = self.current.take() {
            stream
                .end_member()
                .and_then(|file| file.sync_all())
                .map_err(|error| WriteError::io(&self.name(), "write and sync it", error))?;
            sync_directory(&self.names.directory)?;
            self.next += 1;
        }
        self.look_for_names();
        Ok(())
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.pre_commit()
    }
}
