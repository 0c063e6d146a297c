//! Files, complete under their final name or not there at all.
//!
//! # Invariants
//! - A subtask writes to hidden *pieces* beside its final file, a new one whenever the job is
//!   restored. A checkpoint keeps the names of a file's pieces and how much of each counts.
//! - [`Sink::commit`] puts the pieces together, after all subtasks have ended; until then nothing has
//!   changed under a final name, and no piece is removed: any checkpoint can be restored.

mod commit;
mod piece;

pub(crate) use piece::{nonce, sync_directory};

use crate::encoder::Encoder;
use crate::error::WriteError;
use crate::record_writer::{FlushPolicy, RecordWriter};
use commit::{Share, Transaction, final_path};
use millstream::connector::{
    BoxError, PreCommit, Prepared, Sink, SinkContext, SinkWriter, Timestamp, decode_item,
    encode_item,
};
use piece::{Piece, PieceOutput, directory};
use rustix::fs::Access;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Writes records to a file, which appears under its name when the job has ended well; a file of
/// that name is replaced then, in one step. Each record is in it once, however often the job was
/// killed and resumed from a checkpoint.
///
/// With one subtask, the file has the name given. With several, each writes a file of its own,
/// `NAME.0`, `NAME.1` and so on; files that an earlier job with more subtasks left are not
/// touched. A job that is resumed with another number of subtasks ends with as many files as it ever
/// had subtasks. A name that ends in `.gz` or `.zst` compresses.
///
/// Until then, what was written is in hidden files `.NAME.inprogress-…` beside it. A job that fails
/// or is cancelled, and that nothing can be resumed from, removes those; what killed ones leave is
/// removed when a job of the same target ends well. To see results at each checkpoint, use
/// [`RollingFileSink`](crate::RollingFileSink).
#[derive(Clone, Debug)]
pub struct FileSink<E> {
    path: PathBuf,
    encoder: E,
    /// The pieces that this process has created.
    created: Arc<Mutex<Vec<PathBuf>>>,
}

impl<E> FileSink<E> {
    /// Writes to `path`, which lies in a directory that exists.
    pub fn new(path: impl Into<PathBuf>, encoder: E) -> Self {
        Self { path: path.into(), encoder, created: Arc::default() }
    }

    /// Through a link to what it stands for: a rename would replace the link itself.
    fn target(&self) -> PathBuf {
        fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())
    }
}

/// The files that one writer has to do with, and of how many.
struct Shares {
    /// The one that it writes; `None` if the job had ended before it was restored.
    own: Option<Share>,
    /// Those that it only keeps, because there are fewer writers than before.
    kept: Vec<Share>,
    total: u32,
}

impl Shares {
    fn new(context: &SinkContext) -> Result<Self, BoxError> {
        let (subtask, parallelism) = (context.subtask.0, context.parallelism);
        let restored: Vec<Share> = match &context.restored {
            Some(items) => items.iter().map(|item| decode_item(item)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let count = restored.len() as u32;
        let had_ended = count > 0 && restored.iter().all(|share| share.has_ended);
        let (own, mut kept): (Vec<_>, Vec<_>) = restored
            .into_iter()
            .filter(|share| share.index % parallelism == subtask)
            .partition(|share| share.index == subtask);
        if had_ended {
            kept.extend(own);
            return Ok(Self { own: None, kept, total: count });
        }
        let mut own =
            own.into_iter().next().unwrap_or(Share { index: subtask, ..Share::default() });
        own.has_ended = false;
        own.pieces.retain(|piece| piece.text_bytes > 0);
        Ok(Self { own: Some(own), kept, total: count.max(parallelism) })
    }

    /// All that must still be there.
    fn check(&self, target: &Path) -> Result<(), WriteError> {
        for share in self.own.iter().chain(&self.kept) {
            let name = final_path(target, share.index, self.total).display().to_string();
            for piece in &share.pieces {
                piece.stored_bytes(target, &name)?;
            }
        }
        Ok(())
    }
}

impl<T: 'static, E: Encoder<T>> Sink<T> for FileSink<E> {
    type Writer = FileWriter<E>;

    fn restores_alone(&self) -> bool {
        true
    }

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

    fn open(mut self, context: &SinkContext) -> Result<Self::Writer, BoxError> {
        let target = self.target();
        let Shares { own, mut kept, total } = {
            let shares = Shares::new(context)?;
            if shares.own.is_some() {
                shares.check(&target)?;
            }
            shares
        };
        let index = own.as_ref().map_or(context.subtask.0, |share| share.index);
        let name = final_path(&target, index, total).display().to_string();
        let Some(mut own) = own else {
            return Ok(FileWriter { name, writer: None, own: None, kept, total });
        };
        let failed = |error| WriteError::Io { name: name.clone(), action: "create it", error };
        let (piece, file) = Piece::create(&target, index).map_err(failed)?;
        let paths = [piece.path(&target), piece.cuts_path(&target)];
        self.created.lock().unwrap_or_else(PoisonError::into_inner).extend(paths);
        if !own.pieces.is_empty() {
            self.encoder.resume();
        }
        let output = PieceOutput::new(name.clone(), &target, (&piece, file));
        own.pieces.push(piece);
        // One that had ended goes on: it is not the last that was written.
        kept.iter_mut().for_each(|share| share.has_ended = false);
        // Nobody sees the file before it is complete, so records wait until a block is full.
        let policy = FlushPolicy::FullBlocks;
        let writer = RecordWriter::open(name.clone(), output, self.encoder, policy, context)?;
        Ok(FileWriter { name, writer: Some(writer), own: Some(own), kept, total })
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        commit::commit(&self.target(), transactions)
    }

    fn abort(&self, _: u32) {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        for path in created.drain(..) {
            // Nothing can be done about a failure, and nothing is visible under a final name.
            let _ = fs::remove_file(path);
        }
    }
}

/// The writer of a [`FileSink`].
pub struct FileWriter<E> {
    /// What errors call its file.
    name: String,
    /// `None` if the job had ended before it was restored: then there is nothing to write.
    writer: Option<RecordWriter<E>>,
    own: Option<Share>,
    kept: Vec<Share>,
    total: u32,
}

impl<T, E: Encoder<T>> SinkWriter<T> for FileWriter<E> {
    #[inline]
    fn write(&mut self, value: T, timestamp: Timestamp) -> Result<(), BoxError> {
        match &mut self.writer {
            Some(writer) => writer.write(value, timestamp),
            None => Err(WriteError::Completed { name: self.name.clone() }.into()),
        }
    }

    fn is_blocked(&mut self) -> bool {
        self.writer.as_mut().is_some_and(SinkWriter::<T>::is_blocked)
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        self.writer.as_mut().map_or(Ok(true), SinkWriter::<T>::finish)
    }

    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        let has_ended = self.writer.as_ref().is_none_or(|writer| !writer.is_writing());
        match &mut self.writer {
            Some(writer) => {
                SinkWriter::<T>::pre_commit(writer, prepared)?;
                let piece = self.own.as_mut().and_then(|own| own.pieces.last_mut());
                if let Some(piece) = piece {
                    piece.text_bytes = writer.position();
                }
            }
            None => prepared.ready(),
        }
        let mut shares: Vec<Share> = self.own.iter().chain(&self.kept).cloned().collect();
        shares.iter_mut().for_each(|share| share.has_ended = has_ended);
        let state = shares.iter().map(encode_item).collect::<Result<_, _>>()?;
        let transaction = match has_ended {
            true => Some(encode_item(&Transaction { total: self.total, shares })?),
            false => None,
        };
        Ok(PreCommit { state, transaction })
    }
}
