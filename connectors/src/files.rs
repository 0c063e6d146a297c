//! Files, read in parallel.

use crate::block_reader::{Input, Inputs, Origin, RECORD_BYTES_MAX};
use crate::emission::{Emission, Named, Records, Results};
use crate::error::ReadError;
use crate::format::{Format, OnMalformed};
use crate::io_thread::{Stop, StoppableRead};
use crate::listing::{self, Compression, InputFile};
use crate::record_reader::{ReadOptions, RecordReader};
use crate::split::{self, FileFacts, Split};
use crate::unread::Share;
use flate2::read::MultiGzDecoder;
use millstream::connector::{BoxError, Source, SourceContext};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What is read at once of what a restored job passes over.
const PASSED_CHUNK_BYTES: usize = 256 << 10;

/// Reads the records of one file, of all files in a directory, or of all that match a pattern.
///
/// Compressed files (gzip, zstd; also of several members or frames) are recognised by their
/// extension, `.gz` or `.zst`, or else by their first bytes. Hidden files are skipped.
///
/// With several subtasks, files are divided among them, large uncompressed ones in ranges that
/// the subtasks read in turn. Within a subtask, records come in the order of the files' names and
/// of their position; [`FileSource::in_order`] gives this order to the whole source, with one
/// subtask.
///
/// The files are listed once, before the job starts; what is added or appended later may be
/// missed.
///
/// A job that is resumed from a checkpoint goes on at the next record of each part, with any number of
/// subtasks; the files must still be there, no shorter than they were. Compressed files are read again
/// up to that record. What came through a pipe is lost.
#[derive(Debug)]
pub struct FileSource<F, E = Records> {
    path: PathBuf,
    options: ReadOptions<F>,
    range_bytes: Option<u64>,
    in_order: bool,
    /// Shared by the clones of all subtasks, so that they agree on what there is to read.
    listing: Arc<Mutex<Option<Arc<[InputFile]>>>>,
    emission: PhantomData<fn() -> E>,
}

impl<F: Clone, E> Clone for FileSource<F, E> {
    fn clone(&self) -> Self {
        Self {
            path: self.path.clone(),
            options: self.options.clone(),
            range_bytes: self.range_bytes,
            in_order: self.in_order,
            listing: self.listing.clone(),
            emission: PhantomData,
        }
    }
}

impl<F: Format> FileSource<F> {
    /// Reads `path`: a file, a directory, or a pattern (`*`, `?`, `[…]`, `**`).
    pub fn new(path: impl Into<PathBuf>, format: F) -> Self {
        Self {
            path: path.into(),
            options: ReadOptions { format, on_malformed: OnMalformed::Fail, limit: None },
            range_bytes: None,
            in_order: false,
            listing: Arc::default(),
            emission: PhantomData,
        }
    }

    /// Says what becomes of malformed records; [`OnMalformed::Fail`] if never called.
    pub fn on_malformed(mut self, policy: OnMalformed) -> Self {
        self.options.on_malformed = policy;
        self
    }

    /// Emits `Result<record, Malformed>`, so that malformed records can be processed too.
    pub fn with_malformed(self) -> FileSource<F, Results> {
        self.emitting()
    }

    /// Emits `(file name, record)`, the name as the path was given or found.
    pub fn with_file_name(self) -> FileSource<F, Named> {
        self.emitting()
    }

    fn emitting<E>(self) -> FileSource<F, E> {
        let Self { path, options, range_bytes, in_order, listing, emission: _ } = self;
        FileSource { path, options, range_bytes, in_order, listing, emission: PhantomData }
    }
}

impl<F: Format, E> FileSource<F, E> {
    /// Reads everything with one subtask, in the order of the files' names.
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Emits only the first `records`, in order (see [`FileSource::in_order`]).
    pub fn limit(mut self, records: u64) -> Self {
        self.options.limit = Some(records);
        self.in_order()
    }

    /// Divides files into ranges of about `bytes` each, in place of a size chosen from the input:
    /// smaller ones keep the subtasks closer together, larger ones are read with fewer seeks.
    pub fn range_bytes(mut self, bytes: u64) -> Self {
        self.range_bytes = Some(bytes);
        self
    }

    /// The files, as they were listed first.
    fn list(&self) -> Result<Arc<[InputFile]>, ReadError> {
        let mut listing = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*listing {
            return Ok(files.clone());
        }
        Ok(listing.insert(listing::list(&self.path)?.into()).clone())
    }

    fn is_splittable(&self, file: &InputFile) -> bool {
        file.is_regular
            && file.compression == Compression::None
            && self.options.format.is_splittable()
    }

    /// What reader `reader` of `readers` reads of files that nobody has begun to read.
    fn share(&self, reader: u32, readers: u32) -> Result<Share, ReadError> {
        let files = self.list()?;
        let facts: Vec<_> = files
            .iter()
            .map(|file| FileFacts {
                size_bytes: file.size_bytes,
                is_splittable: self.is_splittable(file),
            })
            .collect();
        let mut plan = split::plan(&facts, readers, self.range_bytes);
        // A subtask too many reads nothing.
        let splits = plan.drain(..).nth(reader as usize).unwrap_or_default();
        Ok(Share::new(files, splits, |file| self.is_splittable(file)))
    }
}

impl<F: Format, E: Emission<F::Record>> Source for FileSource<F, E> {
    type Out = E::Out;
    type Reader = RecordReader<F, E>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn validate(&self) -> Result<(), BoxError> {
        // What an earlier job of the same description has listed may have changed.
        *self.listing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.list()?;
        Ok(())
    }

    fn is_replayable(&self) -> bool {
        // What cannot be listed is for `validate` to tell.
        self.list().is_ok_and(|files| files.iter().all(|file| file.is_regular))
    }

    fn parallelism(&self) -> Option<u32> {
        self.in_order.then_some(1)
    }

    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError> {
        let readers = if self.in_order { 1 } else { context.parallelism };
        let reader = context.subtask.0;
        let Share { files, splits, position, emitted } = match &context.restored {
            Some(items) => Share::restored(items, reader, readers, self.range_bytes)?,
            None => self.share(reader, readers)?,
        };
        let inputs =
            SplitInputs { files, splits: splits.into_iter(), format: self.options.format.clone() };
        let name = self.path.display().to_string();
        RecordReader::open_at(position, emitted, inputs, &name, self.options, context)
    }
}

/// Opens the splits of one subtask.
struct SplitInputs<F> {
    files: Arc<[InputFile]>,
    splits: std::vec::IntoIter<Split>,
    format: F,
}

impl<F: Format> Inputs for SplitInputs<F> {
    fn next(&mut self, stop: &Stop) -> Option<Result<Input, ReadError>> {
        let split = self.splits.next()?;
        let file = &self.files[split.file];
        Some(open(file, split, &self.format, stop))
    }
}

fn open<F: Format>(
    file: &InputFile,
    Split { start, end, .. }: Split,
    format: &F,
    stop: &Stop,
) -> Result<Input, ReadError> {
    let explain = match file.compression {
        Compression::None => explain_plain,
        Compression::Gzip => explain_gzip,
        Compression::Zstd => explain_zstd,
    };
    let cannot_open =
        |error| ReadError::Io { name: file.name.to_string(), action: "open it", error };
    let (mut head, mut lines_before) = (None, (start == 0).then_some(0));
    let read: Box<dyn Read + Send> = if !file.is_regular {
        // Without O_NONBLOCK the opening of a pipe waits for its writer, deaf to `stop`.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&file.path, flags, Mode::empty());
        let opened = File::from(opened.map_err(|error| cannot_open(error.into()))?);
        let read = StoppableRead::new(opened, stop.clone());
        decoded(read, file.compression).map_err(cannot_open)?
    } else {
        let opened = || decoded(File::open(&file.path)?, file.compression);
        if start > 0 && format.needs_first_record() {
            let read = opened().and_then(|mut read| read_head(&mut read, format));
            head = Some(read.map_err(|error| explain(&file.name, error))?);
        }
        match start.checked_sub(1) {
            None => opened().map_err(cannot_open)?,
            Some(before) if file.compression == Compression::None => {
                let mut opened = File::open(&file.path).map_err(cannot_open)?;
                opened.seek(SeekFrom::Start(before)).map_err(cannot_open)?;
                Box::new(opened)
            }
            Some(before) => {
                let mut read = opened().map_err(cannot_open)?;
                let lines = pass_over(&mut read, before, stop);
                // The byte before the first record ends a line too.
                lines_before = Some(lines.map_err(|error| explain(&file.name, error))? + 1);
                read
            }
        }
    };
    let path = file.is_regular.then(|| file.path.clone());
    Ok(Input {
        origin: Arc::new(Origin { name: file.name.clone(), path }),
        read,
        start,
        end,
        lines_before,
        head,
        is_interactive: !file.is_regular,
        explain,
    })
}

fn decoded(
    read: impl Read + Send + 'static,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => Box::new(read),
        Compression::Gzip => Box::new(MultiGzDecoder::new(read)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(read)?),
    })
}

/// Reads so many bytes and returns the number of line ends among them. Ends early once the owner is
/// gone.
fn pass_over(read: &mut impl Read, bytes: u64, stop: &Stop) -> io::Result<u64> {
    let mut chunk = vec![0; PASSED_CHUNK_BYTES];
    let (mut left, mut lines) = (bytes, 0);
    while left > 0 && !stop.is_set() {
        let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match read.read(&mut chunk[..most]) {
            Ok(0) => {
                let reason = "it ends before the record where the checkpoint was";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
            Ok(count) => {
                lines += memchr::memchr_iter(b'\n', &chunk[..count]).count() as u64;
                left -= count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}

/// The beginning of a file up to the end of some record, not all of it blank lines.
fn read_head<F: Format>(file: &mut impl Read, format: &F) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    for wanted in [4 << 10, 64 << 10, 1 << 20, RECORD_BYTES_MAX] {
        file.by_ref().take((wanted - head.len()) as u64).read_to_end(&mut head)?;
        if head.len() < wanted {
            return Ok(head); // the whole file
        }
        let complete = format.complete_prefix(&head);
        if head[..complete].iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            head.truncate(complete);
            return Ok(head);
        }
    }
    let limit_mib = RECORD_BYTES_MAX >> 20;
    Err(io::Error::other(format!(
        "no record ends in its first {limit_mib} MiB; is this the right format for the file?"
    )))
}

fn explain_plain(name: &str, error: io::Error) -> ReadError {
    ReadError::Io { name: name.to_owned(), action: "read it", error }
}

fn explain_gzip(name: &str, error: io::Error) -> ReadError {
    explain_compressed(name, Compression::Gzip, error)
}

fn explain_zstd(name: &str, error: io::Error) -> ReadError {
    explain_compressed(name, Compression::Zstd, error)
}

fn explain_compressed(name: &str, compression: Compression, error: io::Error) -> ReadError {
    let (name, compression) = (name.to_owned(), compression.name());
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Truncated { name, compression },
        // Of the file itself, not of what it contains.
        _ if error.raw_os_error().is_some() => explain_plain(&name, error),
        _ => ReadError::Corrupt { name, compression, error },
    }
}
