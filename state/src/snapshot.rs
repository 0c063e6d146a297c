//! The state of subtasks as bytes: what is written whole at a checkpoint.
//!
//! A snapshot is a sequence of *sections*, each the entries of one table or the list of one operator,
//! of one subtask. The form does not depend on the backend, nor on the number of subtasks: the
//! entries of a table stand in the order of their key groups, and an index says where each begins,
//! so that any range of groups can be taken out. `docs/formats/snapshot.md` has it byte by byte.
//!
//! Bytes come from disk, so nothing of them is believed: every length is checked against what there
//! is, and each section against its checksum.

use crate::{StateError, StoredEntry, TableSpec};
use millstream_types::{KeyGroup, KeyGroupRange, SubtaskIndex, Timestamp};
use std::ops::Range;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"MSSNAPSH";
/// The version of the format that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 12;

const END: u8 = 0;
const TABLE: u8 = 1;
const LIST: u8 = 2;

/// Bytes that are no snapshot, or none that this program can read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// They begin otherwise.
    #[error("this is no snapshot of state")]
    NotASnapshot,
    /// They come from a newer program.
    #[error(
        "the snapshot has format {found}, and this program reads formats up to {VERSION}; use the version of the program that wrote it, or a newer one"
    )]
    Newer {
        /// The format's version.
        found: u32,
    },
    /// They end too early.
    #[error("the snapshot is cut off at byte {at}")]
    Truncated {
        /// Where something is missing.
        at: usize,
    },
    /// They are not what was written.
    #[error("the snapshot is damaged: the section at byte {at} does not match its checksum")]
    Checksum {
        /// Where the section begins.
        at: usize,
    },
    /// They do not have the structure that they should.
    #[error("the snapshot is malformed at byte {at}: {reason}")]
    Malformed {
        /// Where.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Writes a snapshot into memory.
pub struct SnapshotWriter {
    bytes: Vec<u8>,
}

impl Default for SnapshotWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotWriter {
    /// A snapshot without sections.
    pub fn new() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        Self { bytes }
    }

    /// Adds a section with the entries that `visit` hands to its argument, which must come in the
    /// order of their key groups.
    ///
    /// # Errors
    /// Those of `visit`; then the snapshot is of no use.
    pub(crate) fn table(
        &mut self,
        spec: &TableSpec,
        subtask: SubtaskIndex,
        visit: impl FnOnce(
            &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
        ) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let start = self.begin(TABLE, &spec.operator, &spec.name, subtask);
        self.text(&spec.schema);
        self.number(spec.max_parallelism);
        let sizes = self.reserve(16);
        let entries = self.bytes.len();
        let mut groups: Vec<(u16, u64)> = Vec::new();
        let bytes = &mut self.bytes;
        visit(&mut |entry| {
            if groups.last().is_none_or(|(group, _)| *group != entry.group.0) {
                debug_assert!(groups.last().is_none_or(|(group, _)| *group < entry.group.0));
                groups.push((entry.group.0, (bytes.len() - entries) as u64));
            }
            bytes.extend_from_slice(&entry.namespace.as_nanos().to_le_bytes());
            bytes.extend_from_slice(&(entry.key.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&(entry.value.len() as u64).to_le_bytes());
            bytes.extend_from_slice(entry.key);
            bytes.extend_from_slice(entry.value);
            Ok(())
        })?;
        let len = (self.bytes.len() - entries) as u64;
        self.bytes[sizes.start..sizes.start + 8].copy_from_slice(&len.to_le_bytes());
        let count = groups.len() as u64;
        self.bytes[sizes.start + 8..sizes.end].copy_from_slice(&count.to_le_bytes());
        for (group, at) in groups {
            self.number(group);
            self.bytes.extend_from_slice(&at.to_le_bytes());
        }
        self.end(start);
        Ok(())
    }

    /// Adds a section with the items of an operator's list.
    pub(crate) fn list(
        &mut self,
        operator: &str,
        name: &str,
        subtask: SubtaskIndex,
        items: &[Vec<u8>],
    ) {
        let start = self.begin(LIST, operator, name, subtask);
        self.bytes.extend_from_slice(&(items.len() as u64).to_le_bytes());
        for item in items {
            self.bytes.extend_from_slice(&(item.len() as u64).to_le_bytes());
            self.bytes.extend_from_slice(item);
        }
        self.end(start);
    }

    /// The whole snapshot.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        self.bytes
    }

    fn begin(&mut self, kind: u8, operator: &str, name: &str, subtask: SubtaskIndex) -> usize {
        let start = self.bytes.len();
        self.bytes.push(kind);
        let len = self.reserve(8);
        debug_assert_eq!(len.end, start + SECTION_HEAD_BYTES);
        self.text(operator);
        self.text(name);
        self.bytes.extend_from_slice(&subtask.0.to_le_bytes());
        start
    }

    /// Fills in the section's length and adds its checksum.
    fn end(&mut self, start: usize) {
        let body = (self.bytes.len() - start - SECTION_HEAD_BYTES) as u64;
        self.bytes[start + 1..start + SECTION_HEAD_BYTES].copy_from_slice(&body.to_le_bytes());
        let checksum = crc_fast::crc32_iscsi(&self.bytes[start..]);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u16) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn reserve(&mut self, len: usize) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        start..start + len
    }
}

/// The kind of a section and the length of what follows up to its checksum.
const SECTION_HEAD_BYTES: usize = 9;

/// A snapshot that was read back: its sections, over bytes that it shares.
#[derive(Clone, Debug)]
pub struct Snapshot {
    bytes: Arc<[u8]>,
    tables: Vec<TableSection>,
    lists: Vec<ListSection>,
}

/// The entries of one table of one subtask.
#[derive(Clone, Debug)]
pub(crate) struct TableSection {
    pub operator: String,
    pub name: String,
    pub schema: String,
    pub max_parallelism: u16,
    entries: Range<usize>,
    /// Each key group with an entry, ascending, and where its entries begin.
    groups: Vec<(u16, usize)>,
}

/// The list of one operator of one subtask.
#[derive(Clone, Debug)]
pub(crate) struct ListSection {
    pub operator: String,
    pub name: String,
    pub subtask: SubtaskIndex,
    pub items: Vec<Vec<u8>>,
}

impl Snapshot {
    /// Takes bytes that [`SnapshotWriter::finish`] gave.
    ///
    /// Complexity: linear in the bytes, for the checksums, and in the number of sections, key groups
    /// and list items; entries are looked at when they are restored.
    ///
    /// # Errors
    /// If the bytes are anything else.
    pub fn read(bytes: impl Into<Arc<[u8]>>) -> Result<Self, SnapshotError> {
        let bytes = bytes.into();
        let (mut tables, mut lists) = (Vec::new(), Vec::new());
        if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let mut reader = Reader { bytes: &bytes, at: 8 };
        let version = u32::from_le_bytes(reader.array()?);
        if version == 0 || version > VERSION {
            return Err(SnapshotError::Newer { found: version });
        }
        loop {
            let start = reader.at;
            let [kind] = reader.array()?;
            if kind == END {
                break;
            }
            let len = reader.length()?;
            let body = reader.take(len)?;
            let checksum = u32::from_le_bytes(reader.array()?);
            if crc_fast::crc32_iscsi(&bytes[start..body.end]) != checksum {
                return Err(SnapshotError::Checksum { at: start });
            }
            let mut section = Reader { bytes: &bytes[..body.end], at: body.start };
            match kind {
                TABLE => tables.push(TableSection::read(&mut section)?),
                LIST => lists.push(ListSection::read(&mut section)?),
                _ => return Err(section.malformed("a section is of no known kind")),
            }
            if section.at != body.end {
                return Err(section.malformed("a section is longer than its content"));
            }
        }
        if reader.at != bytes.len() {
            return Err(reader.malformed("something follows the end"));
        }
        Ok(Self { bytes: Arc::clone(&bytes), tables, lists })
    }

    /// Visits every entry of every table, and counts them: what [`read`](Self::read) leaves for later.
    ///
    /// # Errors
    /// If an entry is none.
    pub fn check_entries(&self) -> Result<u64, StateError> {
        let mut count = 0;
        for section in &self.tables {
            self.visit(section, &KeyGroupRange(0..u16::MAX), &mut |_| {
                count += 1;
                Ok(())
            })?;
        }
        Ok(count)
    }

    pub(crate) fn tables(&self) -> &[TableSection] {
        &self.tables
    }

    pub(crate) fn lists(&self) -> &[ListSection] {
        &self.lists
    }

    /// Visits the entries of a section whose key groups lie in `groups`.
    pub(crate) fn visit(
        &self,
        section: &TableSection,
        groups: &KeyGroupRange,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for (i, (group, start)) in section.groups.iter().enumerate() {
            let group = KeyGroup(*group);
            if !groups.contains(group) {
                continue;
            }
            let end = section.groups.get(i + 1).map_or(section.entries.end, |(_, next)| *next);
            let mut reader = Reader { bytes: &self.bytes[..end], at: *start };
            while reader.at < end {
                let entry = reader.entry(group).map_err(|error| StateError::Snapshot {
                    table: format!("{}/{}", section.operator, section.name),
                    source: error,
                })?;
                visit(entry)?;
            }
        }
        Ok(())
    }
}

impl TableSection {
    fn read(reader: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let operator = reader.text()?;
        let name = reader.text()?;
        let _subtask: [u8; 4] = reader.array()?;
        let schema = reader.text()?;
        let max_parallelism = u16::from_le_bytes(reader.array()?);
        let len = reader.length()?;
        let count = reader.length()?;
        let entries = reader.take(len)?;
        let mut groups: Vec<(u16, usize)> = Vec::new();
        for _ in 0..count {
            let group = u16::from_le_bytes(reader.array()?);
            let at = reader.length()?;
            let start = entries
                .start
                .checked_add(at)
                .filter(|start| *start < entries.end)
                .ok_or_else(|| reader.malformed("a key group begins outside of its section"))?;
            if groups.last().is_some_and(|(g, s)| *g >= group || *s >= start) {
                return Err(reader.malformed("key groups are out of order"));
            }
            groups.push((group, start));
        }
        if groups.first().map_or(entries.end, |(_, first)| *first) != entries.start {
            return Err(reader.malformed("entries without a key group"));
        }
        Ok(Self { operator, name, schema, max_parallelism, entries, groups })
    }
}

impl ListSection {
    fn read(reader: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let operator = reader.text()?;
        let name = reader.text()?;
        let subtask = SubtaskIndex(u32::from_le_bytes(reader.array()?));
        let count = reader.length()?;
        let mut items = Vec::new();
        for _ in 0..count {
            let len = reader.length()?;
            let item = reader.take(len)?;
            items.push(reader.bytes[item].to_vec());
        }
        Ok(Self { operator, name, subtask, items })
    }
}

/// A position in bytes that may end anywhere.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, reason: &'static str) -> SnapshotError {
        SnapshotError::Malformed { at: self.at, reason }
    }

    fn take(&mut self, len: usize) -> Result<Range<usize>, SnapshotError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(SnapshotError::Truncated { at: self.at })?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut array = [0; N];
        let range = self.take(N)?;
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    /// A length or a count; one that this machine cannot address is certainly cut off.
    fn length(&mut self) -> Result<usize, SnapshotError> {
        let at = self.at;
        usize::try_from(u64::from_le_bytes(self.array()?))
            .map_err(|_| SnapshotError::Truncated { at })
    }

    fn text(&mut self) -> Result<String, SnapshotError> {
        let len = self.length()?;
        let range = self.take(len)?;
        String::from_utf8(self.bytes[range].to_vec())
            .map_err(|_| self.malformed("a name is no text"))
    }

    fn entry(&mut self, group: KeyGroup) -> Result<StoredEntry<'a>, SnapshotError> {
        let namespace = Timestamp::from_nanos(i64::from_le_bytes(self.array()?));
        let (key_len, value_len) = (self.length()?, self.length()?);
        let key = self.take(key_len)?;
        let value = self.take(value_len)?;
        let bytes = self.bytes;
        Ok(StoredEntry { namespace, group, key: &bytes[key], value: &bytes[value] })
    }
}

#[cfg(test)]
mod tests;
