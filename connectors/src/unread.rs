//! What a reader of files has not read yet: what a checkpoint keeps of it.
//!
//! # Invariants
//! - A position is that of a record's first byte, in what a compressed file contains.
//! - What is restored is what is left of all readers' splits, in the order of the files' names and of
//!   their positions, and is dealt out anew.

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
    /// What all readers had emitted before.
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
        let (mut unread, mut emitted) = (Vec::new(), 0);
        for item in items {
            match decode_item(item)? {
                Item::Emitted(records) => emitted += records,
                Item::Unread(part) => unread.push(part),
            }
        }
        unread.sort_by(|a, b| (&a.path, a.start).cmp(&(&b.path, b.start)));
        let parts: Vec<_> = unread
            .iter()
            .enumerate()
            .map(|(index, part)| Part {
                file: index,
                size_bytes: part.size_bytes,
                is_splittable: part.is_splittable,
                start: part.start,
                end: part.end,
            })
            .collect();
        let mut own = split::deal(&parts, readers, range_bytes);
        let mut splits = own.drain(..).nth(reader as usize).unwrap_or_default();
        let (mut files, mut indices) = (Vec::new(), BTreeMap::new());
        let mut position = Position::default();
        for split in &mut splits {
            let part = &unread[split.file];
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
