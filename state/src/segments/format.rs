//! The bytes of a segment's file: `docs/formats/segments.md`.
//!
//! Pure functions from values to bytes and back. Whatever the bytes are, decoding ends with a value
//! or with an error that says where they are wrong.

use super::error::SegmentError;
use super::memory::prefetch;
use super::record::{HEADER_BYTES, KIND_AT, Kind, Record};
use crate::StateError;
use std::ops::Range;

/// Files are written in multiples of this, as direct I/O wants it.
pub(super) const PAGE: usize = 4096;
/// The bytes under one checksum.
pub(super) const BLOCK: usize = 64 << 10;
/// The newest version of the format, which is the one written.
pub(super) const VERSION: u32 = 2;
/// The version of trailers, which is in each of them.
const TRAILER_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MSSEGMNT";
const EXTENT_MAGIC: [u8; 8] = *b"MSEXTENT";
/// The fixed part at the end of an extent's trailer.
const FOOTER: usize = 40;
/// Bytes of the header that its checksum covers.
const HEADER: usize = 28;

/// The first page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    /// Names the store that wrote the file, for ever.
    pub run: u64,
    /// The segment's number in it.
    pub number: u32,
}

impl FileHeader {
    pub fn encode(self, page: &mut [u8]) {
        page.fill(0);
        page[..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..20].copy_from_slice(&self.run.to_le_bytes());
        page[20..24].copy_from_slice(&self.number.to_le_bytes());
        page[24..28].copy_from_slice(&(PAGE as u32).to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&page[..HEADER]);
        page[HEADER..HEADER + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads and checks the header of a file that begins with these bytes.
    pub fn decode(file: &str, bytes: &[u8]) -> Result<Self, SegmentError> {
        let no_header = || damaged(file, 0, "it has no header");
        let page = bytes.get(..PAGE).ok_or_else(no_header)?;
        let mut fields = Reader::new(page);
        let magic = fields.bytes(8).ok_or_else(no_header)?;
        let version = fields.u32().ok_or_else(no_header)?;
        let (run, number) = fields.u64().zip(fields.u32()).ok_or_else(no_header)?;
        if magic != MAGIC {
            return Err(damaged(file, 0, "it does not begin as a segment does"));
        }
        if version > VERSION {
            return Err(SegmentError::Version {
                file: file.into(),
                found: version,
                known: VERSION,
            });
        }
        if crc_fast::crc32_iscsi(&page[..HEADER]).to_le_bytes() != page[HEADER..HEADER + 4] {
            return Err(damaged(file, 0, "the header's checksum does not match"));
        }
        Ok(Self { run, number })
    }
}

/// What a file says about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    pub operator: String,
    pub name: String,
    pub schema: String,
    /// The key groups of the table's member: first and end.
    pub groups: (u16, u16),
}

/// The tables of a store, by id, as bytes.
pub(super) fn encode_tables(tables: &[TableEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(tables.len() as u32).to_le_bytes());
    for table in tables {
        out.extend_from_slice(&table.groups.0.to_le_bytes());
        out.extend_from_slice(&table.groups.1.to_le_bytes());
        for text in [&table.operator, &table.name, &table.schema] {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// Reads numbers and texts off the front of a slice.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }
    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }
    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
    pub fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        Some(std::str::from_utf8(self.bytes(len)?).ok()?.to_owned())
    }
}

fn decode_tables(bytes: &[u8]) -> Option<Vec<TableEntry>> {
    let mut reader = Reader(bytes);
    let count = reader.u32()?;
    let mut tables = Vec::new();
    for _ in 0..count {
        let groups = (reader.u16()?, reader.u16()?);
        let (operator, name, schema) = (reader.text()?, reader.text()?, reader.text()?);
        tables.push(TableEntry { operator, name, schema, groups });
    }
    Some(tables)
}

/// An extent, as its trailer describes it: records from `start` to `end`, which is where the
/// trailer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: usize,
    pub end: usize,
    /// Where the trailer ends, and the next extent begins.
    pub trailer_end: usize,
    /// The number of its records.
    pub records: u32,
    /// The greatest epoch of its records.
    pub epoch_max: u32,
    pub tables: Vec<TableEntry>,
}

/// The length of the trailer of an extent with so many bytes of data and of encoded tables.
pub(super) fn trailer_len(data_len: usize, tables_len: usize) -> usize {
    (data_len.div_ceil(BLOCK) * 4 + tables_len + FOOTER).next_multiple_of(PAGE)
}

/// Writes the trailer of an extent with these bytes of data into `out`, which is as long as the
/// trailer.
pub(super) fn encode_trailer(
    data: &[u8],
    start: usize,
    records: u32,
    epoch_max: u32,
    tables: &[u8],
    out: &mut [u8],
) {
    debug_assert_eq!(out.len(), trailer_len(data.len(), tables.len()));
    out.fill(0);
    let mut at = 0;
    for block in data.chunks(BLOCK) {
        out[at..at + 4].copy_from_slice(&crc_fast::crc32_iscsi(block).to_le_bytes());
        at += 4;
    }
    out[at..at + tables.len()].copy_from_slice(tables);
    let footer = out.len() - FOOTER;
    let end = start + data.len();
    let fields = [
        start as u32,
        end as u32,
        (end + out.len()) as u32,
        tables.len() as u32,
        records,
        epoch_max,
    ];
    for (i, field) in fields.into_iter().enumerate() {
        out[footer + 4 * i..][..4].copy_from_slice(&field.to_le_bytes());
    }
    out[footer + 24..footer + 32].copy_from_slice(&EXTENT_MAGIC);
    // Eight bytes from the end: the version, so that trailers may change without the header.
    out[footer + 32..footer + 36].copy_from_slice(&TRAILER_VERSION.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&out[..footer + 36]);
    out[footer + 36..].copy_from_slice(&crc.to_le_bytes());
}

/// Checks a file's bytes, all of them, except what is inside records: structure and checksums.
/// Gives the extents in the order of the log.
///
/// # Errors
/// The first thing that is wrong, with the file's name and the place.
pub(super) fn decode(file: &str, bytes: &[u8]) -> Result<(FileHeader, Vec<Extent>), SegmentError> {
    let header = FileHeader::decode(file, bytes)?;
    let mut extents = Vec::new();
    let mut end = bytes.len();
    while end > PAGE {
        let extent = decode_trailer(bytes, end).map_err(|reason| damaged(file, end, reason))?;
        let blocks = bytes[extent.start..extent.end].chunks(BLOCK);
        for (i, (block, crc)) in blocks.zip(bytes[extent.end..].chunks_exact(4)).enumerate() {
            if crc_fast::crc32_iscsi(block).to_le_bytes() != crc {
                let offset = extent.start + i * BLOCK;
                return Err(damaged(file, offset, "a block's checksum does not match"));
            }
        }
        end = extent.start;
        extents.push(extent);
    }
    extents.reverse();
    Ok((header, extents))
}

/// Visits the records of an extent with their offsets in the file, in order. `tables` is the number
/// of tables that the file knows.
///
/// # Errors
/// The visitor's, or that of a record that is none.
pub(super) fn records<'a>(
    file: &str,
    bytes: &'a [u8],
    extent: Range<usize>,
    tables: usize,
    mut visit: impl FnMut(usize, Record<'a>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    /// Where a record begins is known only when the one before it is there.
    const AHEAD: usize = 1 << 10;
    let mut at = extent.start;
    while at < extent.end {
        let Some(rest) = bytes.get(at..extent.end).filter(|rest| rest.len() >= HEADER_BYTES) else {
            break;
        };
        if rest[KIND_AT] == 0 {
            // Padding to the end of the extent.
            break;
        }
        let wrong = |reason| damaged(file, at, reason).during("read a segment");
        prefetch(rest.as_ptr().wrapping_add(AHEAD));
        let record = Record::decode(rest).map_err(wrong)?;
        if usize::from(record.header.table) >= tables {
            return Err(wrong("a record of an unknown table"));
        }
        if record.header.kind == Kind::NamespaceRemoved && record.value().len() != 4 {
            return Err(wrong("a removed namespace without key groups"));
        }
        visit(at, record)?;
        at += record.bytes().len();
    }
    Ok(())
}

fn damaged(file: &str, offset: usize, reason: &'static str) -> SegmentError {
    SegmentError::Damaged { file: file.to_owned(), offset: offset as u64, reason }
}

/// The trailer that ends at `end`, all of it checked but the blocks' checksums.
fn decode_trailer(bytes: &[u8], end: usize) -> Result<Extent, &'static str> {
    let footer_at = end.checked_sub(FOOTER).ok_or("it ends within an extent")?;
    let footer = &bytes[footer_at..end];
    let mut fields = Reader(footer);
    let mut field = || fields.u32().map_or(0, |field| field as usize);
    let (start, data_end, trailer_end, tables_len, records, epoch_max) =
        (field(), field(), field(), field(), field(), field());
    if footer[24..32] != EXTENT_MAGIC {
        return Err("no extent ends here: it is cut off, or was never finished");
    }
    if trailer_end != end || start < PAGE || data_end <= start || data_end >= footer_at {
        return Err("an extent's bounds contradict each other");
    }
    let data_len = data_end - start;
    let crcs_len = data_len.div_ceil(BLOCK) * 4;
    if crcs_len + tables_len > footer_at - data_end {
        return Err("an extent's bounds contradict each other");
    }
    if crc_fast::crc32_iscsi(&bytes[data_end..end - 4]).to_le_bytes() != footer[FOOTER - 4..] {
        return Err("an extent's description has another checksum");
    }
    let tables = decode_tables(&bytes[data_end + crcs_len..][..tables_len])
        .ok_or("an extent's list of tables cannot be read")?;
    let (records, epoch_max) = (records as u32, epoch_max as u32);
    Ok(Extent { start, end: data_end, trailer_end, records, epoch_max, tables })
}

/// Decodes a whole file, record by record, and counts the records: what a fuzzer calls.
///
/// # Errors
/// What is wrong with the bytes, and where.
pub fn check_segment(file: &str, bytes: &[u8]) -> Result<u64, StateError> {
    let (_, extents) = decode(file, bytes).map_err(|error| error.during("read a segment"))?;
    let mut count = 0;
    for extent in &extents {
        records(file, bytes, extent.start..extent.end, extent.tables.len(), |_, record| {
            let _ = (record.key(), record.value(), record.namespace(), record.removed_groups());
            count += 1;
            Ok(())
        })?;
    }
    Ok(count)
}
