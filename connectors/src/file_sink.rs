//! Files, complete under their final name or not there at all.
//!
//! # Invariants
//! - A subtask writes to a hidden temporary file beside its final one and syncs it at its end.
//! - [`Sink::commit`] renames, after all subtasks have ended; until then nothing has changed under
//!   a final name, and [`Sink::abort`] removes what there is.

use crate::block_writer::Output;
use crate::encoder::Encoder;
use crate::error::WriteError;
use crate::io_thread::Stop;
use crate::listing::Compression;
use crate::record_writer::{FlushPolicy, RecordWriter};
use flate2::write::GzEncoder;
use millstream::connector::{BoxError, Sink, SinkContext};
use rustix::fs::Access;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes records to a file, which appears under its name when the job has ended well; a file of
/// that name is replaced then, in one step.
///
/// With one subtask, the file has the name given. With several, each writes a file of its own,
/// `NAME.0`, `NAME.1` and so on; files that an earlier job with more subtasks left are not
/// touched. A name that ends in `.gz` or `.zst` compresses.
///
/// A job that fails, is cancelled or killed leaves nothing under the final name (killed: only a
/// hidden `.NAME.inprogress-N`, overwritten by the next run). With several subtasks, a crash
/// during the commit itself may leave some of the files new and some old.
#[derive(Clone, Debug)]
pub struct FileSink<E> {
    path: PathBuf,
    encoder: E,
}

impl<E> FileSink<E> {
    /// Writes to `path`, which lies in a directory that exists.
    pub fn new(path: impl Into<PathBuf>, encoder: E) -> Self {
        Self { path: path.into(), encoder }
    }

    fn target(&self, subtask: u32, parallelism: u32) -> Target {
        // Through a link to what it stands for: a rename would replace the link itself.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut name = path.file_name().unwrap_or_default().to_owned();
        if parallelism > 1 {
            name.push(format!(".{subtask}"));
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(&name);
        temporary.push(format!(".inprogress-{subtask}"));
        Target { final_path: path.with_file_name(name), temporary: path.with_file_name(temporary) }
    }
}

/// The paths of one subtask's file.
struct Target {
    final_path: PathBuf,
    temporary: PathBuf,
}

impl Target {
    fn name(&self) -> String {
        self.final_path.display().to_string()
    }
}

/// The directory of a path; `.` for a bare name.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl<T: 'static, E: Encoder<T>> Sink<T> for FileSink<E> {
    type Writer = RecordWriter<E>;

    fn validate(&self) -> Result<(), BoxError> {
        let name = self.path.display().to_string();
        let directory = directory(&self.path);
        let failed = |action, error| WriteError::Io { name: name.clone(), action, error };
        match fs::metadata(&self.path) {
            Ok(there) if there.is_dir() => {
                return Err(WriteError::NotAFile { path: name, what: "a directory" }.into());
            }
            Ok(there) if !there.is_file() => {
                return Err(WriteError::NotAFile { path: name, what: "a device or pipe" }.into());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !directory.exists() {
                    let directory = directory.display().to_string();
                    return Err(WriteError::NoDirectory { path: name, directory }.into());
                }
                if self.path.file_name().is_none() {
                    return Err(WriteError::NotAFile { path: name, what: "a directory" }.into());
                }
            }
            Err(error) => return Err(failed("write it", error).into()),
        }
        rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| failed("create it in its directory", error.into()))?;
        Ok(())
    }

    fn open(self, context: &SinkContext) -> Result<Self::Writer, BoxError> {
        let target = self.target(context.subtask.0, context.parallelism);
        let name = target.name();
        let failed = |error| WriteError::Io { name: name.clone(), action: "create it", error };
        let file = File::create(&target.temporary).map_err(failed)?;
        let output = FileOutput {
            name: name.clone(),
            stream: Stream::new(file, Compression::of_path(&self.path)).map_err(failed)?,
        };
        // Nobody sees the file before it is complete, so records wait until a block is full.
        RecordWriter::open(name, output, self.encoder, FlushPolicy::FullBlocks, context)
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let parallelism = transactions.len() as u32;
        for subtask in 0..parallelism {
            let target = self.target(subtask, parallelism);
            fs::rename(&target.temporary, &target.final_path).map_err(|error| WriteError::Io {
                name: target.name(),
                action: "rename it to its final name",
                error,
            })?;
        }
        let final_path = self.target(0, parallelism).final_path;
        let directory = directory(&final_path);
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| {
            let name = directory.display().to_string();
            WriteError::Io { name, action: "sync the directory", error }
        })?;
        Ok(())
    }

    fn abort(&self, parallelism: u32) {
        for subtask in 0..parallelism {
            // Nothing can be done about a failure, and nothing is visible under a final name.
            let _ = fs::remove_file(self.target(subtask, parallelism).temporary);
        }
    }
}

struct FileOutput {
    name: String,
    stream: Stream,
}

enum Stream {
    Plain(File),
    Gzip(GzEncoder<File>),
    Zstd(zstd::stream::write::Encoder<'static, File>),
    Finished,
}

impl Stream {
    fn new(file: File, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(file),
            Compression::Gzip => Self::Gzip(GzEncoder::new(file, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(
                file,
                zstd::DEFAULT_COMPRESSION_LEVEL,
            )?),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Finished => unreachable!("nothing is written after the end"),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let file = match std::mem::replace(self, Self::Finished) {
            Self::Plain(file) => file,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Finished => unreachable!("finished once"),
        };
        file.sync_all()
    }
}

impl Output for FileOutput {
    fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<bool, WriteError> {
        if stop.is_set() {
            return Ok(false);
        }
        let failed = |error| WriteError::io(&self.name, "write it", error);
        self.stream.write_all(bytes).map(|()| true).map_err(failed)
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.stream.finish().map_err(|error| WriteError::io(&self.name, "write and sync it", error))
    }
}
