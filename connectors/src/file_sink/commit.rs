//! From pieces to files under their final names.
//!
//! # Invariants
//! - Until all writers have ended nothing is done: their files appear together.
//! - All pieces are checked before anything is changed.
//! - Each step can be repeated: the first piece of a file is cut to what counts of it, the others are
//!   appended, and it takes the final name in one step. It is known there by its inode. Pieces are
//!   removed when all files have their names.

use super::piece::{self, Piece, directory, sync_directory};
use crate::compress::Stream;
use crate::error::WriteError;
use crate::listing::Compression;
use millstream::connector::{BoxError, decode_item};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file of a sink: what has been written of it.
#[millstream::record]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// The subtask that began it.
    pub(super) index: u32,
    /// True if its writer has ended.
    pub(super) has_ended: bool,
    /// In their order; empty for a share that is being set up.
    pub(super) pieces: Vec<Piece>,
}

/// What one writer has to commit.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    /// How many shares the writers have together.
    pub(super) total: u32,
    pub(super) shares: Vec<Share>,
}

/// The final path of one of `total` shares.
pub(super) fn final_path(target: &Path, index: u32, total: u32) -> PathBuf {
    if total == 1 {
        return target.to_owned();
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{index}"));
    target.with_file_name(name)
}

/// See [`Sink::commit`](millstream::connector::Sink::commit).
pub(super) fn commit(target: &Path, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
    commit_in_steps(target, transactions, &mut || Ok(()))
}

/// The same, with a call before each step that changes something.
fn commit_in_steps(
    target: &Path,
    transactions: &[Vec<u8>],
    before_step: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(), BoxError> {
    let (mut shares, mut total) = (BTreeMap::new(), 0);
    for transaction in transactions {
        let Transaction { total: all, shares: own } = decode_item(transaction)?;
        total = all;
        shares.extend(own.into_iter().map(|share| (share.index, share)));
    }
    if shares.is_empty() || shares.len() < total as usize {
        return Ok(());
    }
    let mut assemblies = Vec::new();
    for share in shares.into_values() {
        let assembly = Assembly::new(target, final_path(target, share.index, total), share)?;
        if !assembly.is_done()? {
            assemblies.push(assembly.checked()?);
        }
    }
    for assembly in &assemblies {
        assembly.perform(before_step)?;
    }
    before_step()?;
    sync_directory(directory(target))?;
    piece::remove_all(target, before_step).map_err(|error| WriteError::Io {
        name: target.display().to_string(),
        action: "remove the pieces that it was put together from",
        error,
    })?;
    Ok(())
}

/// One file to be put together.
struct Assembly<'a> {
    target: &'a Path,
    final_path: PathBuf,
    name: String,
    first: Piece,
    rest: Vec<Piece>,
    /// How much counts of each piece, as it is stored.
    stored_bytes: Vec<u64>,
}

impl<'a> Assembly<'a> {
    fn new(target: &'a Path, final_path: PathBuf, share: Share) -> Result<Self, BoxError> {
        let mut pieces = share.pieces.into_iter();
        let first = pieces.next().ok_or("a transaction without pieces is none of this sink's")?;
        let name = final_path.display().to_string();
        let rest = pieces.collect();
        Ok(Self { target, final_path, name, first, rest, stored_bytes: Vec::new() })
    }

    fn is_done(&self) -> Result<bool, WriteError> {
        if self.first.path(self.target).exists() {
            return Ok(false);
        }
        match fs::metadata(&self.final_path) {
            Ok(there) => Ok(there.ino() == self.first.inode),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(WriteError::io(&self.name, "look at it", error)),
        }
    }

    fn checked(mut self) -> Result<Self, WriteError> {
        self.stored_bytes = std::iter::once(&self.first)
            .chain(&self.rest)
            .map(|piece| piece.stored_bytes(self.target, &self.name))
            .collect::<Result<_, _>>()?;
        Ok(self)
    }

    fn perform(&self, before_step: &mut dyn FnMut() -> io::Result<()>) -> Result<(), WriteError> {
        let path = self.first.path(self.target);
        self.put_together(&path, before_step)
            .map_err(|error| WriteError::io(&self.name, "put it together", error))?;
        before_step()
            .and_then(|()| fs::rename(&path, &self.final_path))
            .map_err(|error| WriteError::io(&self.name, "rename it to its final name", error))
    }

    fn put_together(
        &self,
        path: &Path,
        before_step: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let [first_bytes, rest_bytes @ ..] = &*self.stored_bytes else { return Ok(()) };
        // Not in append mode, in which the kernel cannot copy from file to file.
        let mut file = OpenOptions::new().write(true).open(path)?;
        before_step()?;
        file.set_len(*first_bytes)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        for (piece, bytes) in self.rest.iter().zip(rest_bytes) {
            before_step()?;
            let piece = File::open(piece.path(self.target))?;
            let copied = io::copy(&mut piece.take(*bytes), &mut file)?;
            if copied < *bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if file.metadata()?.len() == 0 {
            // Nothing at all is no compressed file, but nothing compressed is.
            let mut stream = Stream::new(file, Compression::of_path(self.target));
            stream.begin_member()?;
            return stream.end_member()?.sync_all();
        }
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::connector::encode_item;
    use std::io::Write;

    /// A transaction of two files, of three pieces and of one, with bytes behind what counts.
    fn written(target: &Path) -> Vec<Vec<u8>> {
        let share = |index: u32, texts: &[&str]| {
            let pieces = texts.iter().map(|text| {
                let (mut piece, mut file) = Piece::create(target, index).unwrap();
                file.write_all(format!("{text}uncommitted").as_bytes()).unwrap();
                piece.text_bytes = text.len() as u64;
                piece
            });
            Share { index, has_ended: true, pieces: pieces.collect() }
        };
        let transactions = [
            Transaction { total: 2, shares: vec![share(0, &["a", "bb", "ccc"])] },
            Transaction { total: 2, shares: vec![share(1, &["d"])] },
        ];
        transactions.iter().map(|transaction| encode_item(transaction).unwrap()).collect()
    }

    #[test]
    fn a_commit_that_is_cut_short_at_any_step_is_completed_by_the_next() {
        for steps in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            let transactions = written(&target);
            let mut left = steps;
            let cut_short = commit_in_steps(&target, &transactions, &mut || {
                left -= 1;
                if left < 0 { Err(io::Error::other("killed")) } else { Ok(()) }
            });
            for _ in 0..2 {
                commit(&target, &transactions).unwrap();
                let text = |index| fs::read_to_string(final_path(&target, index, 2)).unwrap();
                assert_eq!((text(0).as_str(), text(1).as_str()), ("abbccc", "d"), "{steps} steps");
                assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "{steps} steps");
            }
            if cut_short.is_ok() {
                assert!(steps > 8, "each step was cut short");
                return;
            }
        }
    }

    #[test]
    fn nothing_is_committed_before_all_have_ended() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let transactions = written(&target);
        commit(&target, &transactions[..1]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "the pieces alone");
    }

    #[test]
    fn a_piece_that_is_gone_or_shorter_is_named_and_nothing_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let transactions = written(&target);
        let last = folder.path().join(
            fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .find(|name| name.starts_with(".out.inprogress-1"))
                .unwrap(),
        );
        let error = || commit(&target, &transactions).unwrap_err().to_string();
        fs::write(&last, "").unwrap();
        let damaged = error();
        assert!(damaged.contains(&*last.to_string_lossy()), "{damaged}");
        assert!(damaged.contains("it has 0 bytes, and 1 were written"), "{damaged}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "the pieces alone");
        fs::remove_file(&last).unwrap();
        let missing = error();
        assert!(missing.contains("is not there; resume with the same output path"), "{missing}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "the other pieces");
    }
}
