//! Files, read in parallel.

use crate::block_reader::{Explain, Input, Inputs, Origin, RECORD_BYTES_MAX};
use crate::emission::{Emission, Named, Records, Results};
use crate::error::ReadError;
use crate::format::{Format, OnMalformed};
use crate::io_thread::{Stop, StoppableRead};
use crate::listing::{self, Compression, InputFile};
use crate::record_reader::{ReadOptions, RecordReader};
use crate::split::{self, FileFacts, Split};
use flate2::read::MultiGzDecoder;
use millstream::connector::{BoxError, Source, SourceContext};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

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

    fn list(&self) -> Result<Arc<[InputFile]>, ReadError> {
        Ok(listing::list(&self.path)?.into())
    }
}

impl<F: Format, E: Emission<F::Record>> Source for FileSource<F, E> {
    type Out = E::Out;
    type Reader = RecordReader<F, E>;

    fn validate(&self) -> Result<(), BoxError> {
        let files = self.list()?;
        *self.listing.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(files);
        Ok(())
    }

    fn parallelism(&self) -> Option<u32> {
        self.in_order.then_some(1)
    }

    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError> {
        let files = {
            let mut listing = self.listing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match &*listing {
                Some(files) => files.clone(),
                None => listing.insert(self.list()?).clone(),
            }
        };
        let facts: Vec<_> = files
            .iter()
            .map(|file| FileFacts {
                size_bytes: file.size_bytes,
                is_splittable: file.is_regular
                    && file.compression == Compression::None
                    && self.options.format.is_splittable(),
            })
            .collect();
        let readers = if self.in_order { 1 } else { context.parallelism };
        let mut plan = split::plan(&facts, readers, self.range_bytes);
        // A subtask too many reads nothing.
        let splits = plan.drain(..).nth(context.subtask.0 as usize).unwrap_or_default();
        let inputs =
            SplitInputs { files, splits: splits.into_iter(), format: self.options.format.clone() };
        RecordReader::open(inputs, &self.path.display().to_string(), self.options, context)
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
        let Split { file, range } = self.splits.next()?;
        let file = &self.files[file];
        Some(open(file, range, &self.format, stop).map_err(|error| ReadError::Io {
            name: file.name.to_string(),
            action: "open it",
            error,
        }))
    }
}

fn open<F: Format>(
    file: &InputFile,
    range: Option<Range<u64>>,
    format: &F,
    stop: &Stop,
) -> io::Result<Input> {
    let mut head = None;
    let read: Box<dyn Read + Send> = if file.is_regular {
        let mut opened = File::open(&file.path)?;
        if let Some(range) = &range
            && range.start > 0
        {
            if format.needs_first_record() {
                head = Some(read_head(&mut opened, format)?);
            }
            opened.seek(SeekFrom::Start(range.start - 1))?;
        }
        Box::new(opened)
    } else {
        // Without O_NONBLOCK the opening of a pipe waits for its writer, deaf to `stop`.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = File::from(rustix::fs::open(&file.path, flags, Mode::empty())?);
        Box::new(StoppableRead::new(opened, stop.clone()))
    };
    let (read, explain): (Box<dyn Read + Send>, Explain) = match file.compression {
        Compression::None => (read, explain_plain),
        Compression::Gzip => (Box::new(MultiGzDecoder::new(read)), explain_gzip),
        Compression::Zstd => (Box::new(zstd::stream::read::Decoder::new(read)?), explain_zstd),
    };
    Ok(Input {
        origin: Arc::new(Origin { name: file.name.clone(), path: Some(file.path.clone()) }),
        read,
        range,
        head,
        is_interactive: !file.is_regular,
        explain,
    })
}

/// The beginning of a file up to the end of some record, not all of it blank lines.
fn read_head<F: Format>(file: &mut File, format: &F) -> io::Result<Vec<u8>> {
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
