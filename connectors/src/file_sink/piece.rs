//! Pieces: hidden files beside the target, each written by one writer of one attempt of a job.
//!
//! # Invariants
//! - A piece is created under a name that no other piece has ever had, and is only appended to. So
//!   what a checkpoint says of its beginning stays true, however often the job is restored.
//! - A position in a piece is counted in bytes before compression. Where that is in a compressed piece,
//!   is told by its *cuts*, a file beside it of two little-endian 64-bit numbers per cut: bytes before
//!   and after compression. A cut is written after the piece has been synced up to there.

use crate::block_writer::Output;
use crate::compress::Stream;
use crate::error::WriteError;
use crate::io_thread::Stop;
use crate::listing::Compression;
use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CUT_BYTES: usize = 16;

/// A piece as it is stored.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// What its name ends with.
    pub(super) suffix: String,
    /// How much of it counts, in bytes before compression.
    pub(super) text_bytes: u64,
    /// By which it is recognised under its final name.
    pub(super) inode: u64,
}

/// The directory of a path; `.` for a bare name.
pub(super) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs the names in a directory.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), WriteError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| {
        let name = directory.display().to_string();
        WriteError::Io { name, action: "sync the directory", error }
    })
}

/// Eight bytes that nothing else has drawn, as text.
pub(crate) fn nonce() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// What the names of all pieces of a target begin with.
fn prefix(target: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".inprogress-");
    prefix
}

/// Removes all pieces of a target.
pub(super) fn remove_all(
    target: &Path,
    before_step: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let prefix = prefix(target);
    for entry in fs::read_dir(directory(target))? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            before_step()?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Piece {
    /// Creates a piece of `target` for this subtask.
    pub(super) fn create(target: &Path, subtask: u32) -> io::Result<(Self, File)> {
        let suffix = format!("{subtask}-{}", nonce());
        let mut piece = Self { suffix, text_bytes: 0, inode: 0 };
        let file = OpenOptions::new().append(true).create_new(true).open(piece.path(target))?;
        piece.inode = file.metadata()?.ino();
        Ok((piece, file))
    }

    pub(super) fn path(&self, target: &Path) -> PathBuf {
        let mut name = prefix(target);
        name.push(&self.suffix);
        target.with_file_name(name)
    }

    pub(super) fn cuts_path(&self, target: &Path) -> PathBuf {
        let mut path = self.path(target).into_os_string();
        path.push(OsStr::new(".cuts"));
        path.into()
    }

    /// How much of the file counts, in bytes as it is stored.
    ///
    /// # Errors
    /// If the file is missing or holds less.
    pub(super) fn stored_bytes(&self, target: &Path, name: &str) -> Result<u64, WriteError> {
        let path = self.path(target);
        let piece = path.display().to_string();
        let present = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(WriteError::PieceMissing { name: name.to_owned(), piece });
            }
            Err(error) => return Err(WriteError::io(&piece, "read it", error)),
        };
        let damaged = |reason| WriteError::PieceDamaged {
            name: name.to_owned(),
            piece: piece.clone(),
            reason,
        };
        let counts = match Compression::of_path(target) {
            Compression::None => self.text_bytes,
            _ => self.cut(target)?.ok_or_else(|| {
                let text_bytes = self.text_bytes;
                damaged(format!("nothing tells where its first {text_bytes} bytes of text end"))
            })?,
        };
        if present < counts {
            return Err(damaged(format!("it has {present} bytes, and {counts} were written")));
        }
        Ok(counts)
    }

    /// Where the text ends that counts, according to the cuts.
    fn cut(&self, target: &Path) -> Result<Option<u64>, WriteError> {
        let path = self.cuts_path(target);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                return Err(WriteError::io(&path.display().to_string(), "read it", error));
            }
        };
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let cuts = bytes.as_chunks::<CUT_BYTES>().0.iter();
        let mut cuts = cuts.map(|cut| (number(&cut[..8]), number(&cut[8..])));
        let found = cuts.find(|(text_bytes, _)| *text_bytes == self.text_bytes);
        Ok(found.map(|(_, stored)| stored).or_else(|| (self.text_bytes == 0).then_some(0)))
    }
}

/// Writes a piece.
pub(super) struct PieceOutput {
    /// What errors call the target.
    name: String,
    directory: PathBuf,
    stream: Stream,
    text_bytes: u64,
    /// The bytes of text at the last pre-commit, of which there was none yet if `None`.
    durable_bytes: Option<u64>,
    cuts_path: PathBuf,
    cuts: Option<File>,
}

impl PieceOutput {
    pub(super) fn new(name: String, target: &Path, (piece, file): (&Piece, File)) -> Self {
        Self {
            name,
            directory: directory(target).to_owned(),
            stream: Stream::new(file, Compression::of_path(target)),
            text_bytes: 0,
            durable_bytes: None,
            cuts_path: piece.cuts_path(target),
            cuts: None,
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let is_compressed = self.stream.is_compressed();
        let file = self.stream.end_member()?;
        file.sync_data()?;
        if is_compressed {
            let stored_bytes = file.stream_position()?;
            let cuts = match &mut self.cuts {
                Some(cuts) => cuts,
                none => none.insert(
                    OpenOptions::new().append(true).create_new(true).open(&self.cuts_path)?,
                ),
            };
            cuts.write_all(&[self.text_bytes.to_le_bytes(), stored_bytes.to_le_bytes()].concat())?;
            cuts.sync_data()?;
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), WriteError> {
        self.sync().map_err(|error| WriteError::io(&self.name, "write and sync it", error))?;
        if self.durable_bytes.is_none() {
            sync_directory(&self.directory)?;
        }
        self.durable_bytes = Some(self.text_bytes);
        Ok(())
    }
}

impl Output for PieceOutput {
    fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<bool, WriteError> {
        if stop.is_set() {
            return Ok(false);
        }
        let failed = |error| WriteError::io(&self.name, "write it", error);
        self.stream.write_all(bytes).map_err(failed)?;
        self.text_bytes += bytes.len() as u64;
        Ok(true)
    }

    fn pre_commit(&mut self) -> Result<(), WriteError> {
        if self.durable_bytes == Some(self.text_bytes) {
            return Ok(());
        }
        self.make_durable()
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.pre_commit()
    }
}
