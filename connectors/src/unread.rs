//! What a reader of files has not read yet: what a checkpoint keeps of it.
//!
//! # Invariants
//! - A position is that of a record's first byte, in what a compressed file contains.
//! - What is restored is what is left of all readers' splits, in the order of the files' names and of
//!   their positions. As many readers as before go on with their own, as each has a watermark of its own.
//!   Among others it is dealt out anew.

use crate::error::ReadError;
use crate::listing::{self, InputFile};
use crate::split::{self, Part, Split};
use millstream::connector::{BoxError, decode_item, encode_item};
use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

/// A part of a file, as it is stored.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    path: Vec<u8>,
    /// Of the whole file, as it was listed; as it is stored, for a compressed one.
    size_bytes: u64,
    is_splittable: bool,
    is_regular: bool,
    start: u64,
    end: Option<u64>,
}

#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    /// What a reader has emitted. Each reader has one such item, also when all is read.
    Emitted(u64),
    Unread(Unread),
}

/// The splits of a reader, from the one that is being read on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    splits: VecDeque<Unread>,
    has_begun: bool,
}

impl Position {
    /// The next split begins, at this position.
    pub(crate) fn begin(&mut self, start: u64) {
        if self.has_begun {
            self.splits.pop_front();
        }
        self.has_begun = true;
        self.reach(start);
    }

    /// The split that is being read has been read up to there.
    pub(crate) fn reach(&mut self, position: u64) {
        // What waits (a pipe) is not read again: it goes on with what comes next.
        if let Some(split) = self.splits.front_mut().filter(|split| split.is_regular) {
            split.start = position;
        }
    }

    /// Everything has been read.
    pub(crate) fn end(&mut self) {
        self.splits.clear();
    }

    /// As it is stored, with the number of records emitted so far.
    pub(crate) fn items(&self, emitted: u64) -> Result<Vec<Vec<u8>>, BoxError> {
        let splits = self.splits.iter().cloned().map(Item::Unread);
        std::iter::once(Item::Emitted(emitted))
            .chain(splits)
            .map(|item| encode_item(&item))
            .collect()
    }
}

/// What a reader is to read.
pub(crate) struct Share {
    pub(crate) files: Arc<[InputFile]>,
    pub(crate) splits: Vec<Split>,
    pub(crate) position: Position,
    /// How many records it counts from: its own, or the first of another number of readers those of all.
    pub(crate) emitted: u64,
}

impl Share {
    /// Splits of these files that nobody has begun to read.
    pub(crate) fn new(
        files: Arc<[InputFile]>,
        splits: Vec<Split>,
        is_splittable: impl Fn(&InputFile) -> bool,
    ) -> Self {
        let unread = splits.iter().map(|split| {
            let file = &files[split.file];
            Unread {
                path: file.path.clone().into_os_string().into_vec(),
                size_bytes: file.size_bytes,
                is_splittable: is_splittable(file),
                is_regular: file.is_regular,
                start: split.start,
                end: split.end,
            }
        });
        let position = Position { splits: unread.collect(), has_begun: false };
        Self { files, splits, position, emitted: 0 }
    }

    /// What reader `reader` of `readers` takes over of what all readers had left.
    pub(crate) fn restored(
        items: &[Vec<u8>],
        reader: u32,
        readers: u32,
        range_bytes: Option<u64>,
    ) -> Result<Self, BoxError> {
        // Who had it, in the order of the readers, and what.
        let mut unread: Vec<(u32, Unread)> = Vec::new();
        let mut emitted = Vec::new();
        for item in items {
            match decode_item(item)? {
                Item::Emitted(records) => emitted.push(records),
                Item::Unread(part) => {
                    let owner = emitted.len().checked_sub(1);
                    let owner = owner.ok_or("what is left of a file is no reader's")?;
                    unread.push((owner as u32, part));
                }
            }
        }
        unread.sort_by(|(_, a), (_, b)| (&a.path, a.start).cmp(&(&b.path, b.start)));
        let as_before = readers as usize == emitted.len();
        let emitted = match reader {
            _ if as_before => emitted[reader as usize],
            0 => emitted.iter().sum(),
            _ => 0,
        };
        let mut splits: Vec<Split> = if as_before {
            let own = unread.iter().enumerate().filter(|(_, (owner, _))| *owner == reader);
            own.map(|(file, (_, part))| Split { file, start: part.start, end: part.end }).collect()
        } else {
            let parts: Vec<_> = unread
                .iter()
                .enumerate()
                .map(|(file, (_, part))| Part {
                    file,
                    size_bytes: part.size_bytes,
                    is_splittable: part.is_splittable,
                    start: part.start,
                    end: part.end,
                })
                .collect();
            let mut all = split::deal(&parts, readers, range_bytes);
            all.drain(..).nth(reader as usize).unwrap_or_default()
        };
        let (mut files, mut indices) = (Vec::new(), BTreeMap::new());
        let mut position = Position::default();
        for split in &mut splits {
            let (_, part) = &unread[split.file];
            split.file = match indices.entry(&part.path) {
                Entry::Occupied(index) => *index.get(),
                Entry::Vacant(entry) => {
                    files.push(part.find()?);
                    *entry.insert(files.len() - 1)
                }
            };
            position.splits.push_back(Unread {
                start: split.start,
                end: split.end,
                ..part.clone()
            });
        }
        Ok(Self { files: files.into(), splits, position, emitted })
    }
}

impl Unread {
    /// The file, which must still be there and hold what was to be read.
    fn find(&self) -> Result<InputFile, ReadError> {
        let path = Path::new(OsStr::from_bytes(&self.path));
        let file = listing::inspect(path.to_owned()).map_err(|error| match error {
            ReadError::Io { name, error, .. } => {
                ReadError::Io { name, action: "open it to go on where the checkpoint was", error }
            }
            other => other,
        })?;
        if file.is_regular != self.is_regular || file.size_bytes < self.size_bytes {
            return Err(ReadError::Changed {
                name: file.name.to_string(),
                before_bytes: self.size_bytes,
                now_bytes: file.size_bytes,
            });
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What readers had left of files of ten bytes, from where.
    fn items(folder: &Path, left: &[&[(&str, u64)]]) -> Vec<Vec<u8>> {
        let unread = |&(name, start): &(&str, u64)| {
            let path = folder.join(name);
            std::fs::write(&path, "123456789\n").unwrap();
            let path = path.into_os_string().into_vec();
            let (is_splittable, is_regular) = (true, true);
            Unread { path, size_bytes: 10, is_splittable, is_regular, start, end: None }
        };
        let of_reader = |splits: &&[(&str, u64)]| {
            let splits = splits.iter().map(unread).collect();
            Position { splits, has_begun: true }.items(7).unwrap()
        };
        left.iter().flat_map(of_reader).collect()
    }

    fn shares(items: &[Vec<u8>], readers: u32) -> Vec<Vec<(String, u64)>> {
        let share = |reader| {
            let share = Share::restored(items, reader, readers, None).unwrap();
            let counted = if readers == 2 { 7 } else { [14, 0, 0][reader as usize] };
            assert_eq!(share.emitted, counted);
            let named = |split: &Split| {
                let path = &share.files[split.file].path;
                (path.file_name().unwrap().to_string_lossy().into_owned(), split.start)
            };
            share.splits.iter().map(named).collect()
        };
        (0..readers).map(share).collect()
    }

    #[test]
    fn as_many_readers_as_before_go_on_with_their_own_and_others_with_all() {
        let folder = tempfile::tempdir().unwrap();
        let left: &[&[(&str, u64)]] = &[&[("b", 5), ("c", 0)], &[("a", 8)]];
        let items = items(folder.path(), left);
        let owned = |splits: &[(&str, u64)]| -> Vec<_> {
            splits.iter().map(|(name, start)| ((*name).to_owned(), *start)).collect()
        };
        let expected: Vec<_> = left.iter().map(|splits| owned(splits)).collect();
        assert_eq!(shares(&items, 2), expected);
        for readers in [1, 3] {
            let mut all = shares(&items, readers).concat();
            all.sort_unstable();
            assert_eq!(all, owned(&[("a", 8), ("b", 5), ("c", 0)]));
        }
    }

    #[test]
    fn one_that_had_read_all_goes_on_with_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let items = items(folder.path(), &[&[], &[("a", 3), ("b", 0)]]);
        let expected = [vec![], vec![("a".to_owned(), 3), ("b".to_owned(), 0)]];
        assert_eq!(shares(&items, 2), expected);
    }
}
