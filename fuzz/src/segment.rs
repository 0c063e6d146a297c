//! The frames of a segment, which are its header and the trailers of its extents:
//! `docs/formats/segments.md`.

use crate::{put, seal, u32_at};

const PAGE: usize = 4096;
const BLOCK: usize = 64 << 10;
const FOOTER: usize = 40;
/// The part of the header that has a checksum, and the checksum.
const HEADER: usize = 32;

/// The bytes with the header of version 1, and each trailer that can be found from the end on with its
/// mark, its version and its checksums. Bounds that contradict each other stay: they are refused.
pub fn reframed_segment(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().max(PAGE), 0);
    reframe_header(&mut bytes);
    let mut end = bytes.len();
    while end >= PAGE + FOOTER {
        let footer = end - FOOTER;
        let (start, data_end) = (u32_at(&bytes, footer), u32_at(&bytes, footer + 4));
        if start < PAGE || data_end <= start || data_end >= footer {
            break;
        }
        put(&mut bytes, footer + 8, &(end as u32).to_le_bytes());
        reframe_trailer(&mut bytes, start, data_end, end);
        end = start;
    }
    bytes
}

/// A segment of as many extents as the input describes, with all that is in the frames right but their
/// lists of tables. This is for mutations of records, which in a file lie far apart.
///
/// Each extent is described by the length of its data, in 16 bytes, and the length of its tables, in
/// bytes (two bytes each); by the number of its records and its greatest epoch (four bytes each); then
/// come the data and the tables. What is longer than the input ends with it.
pub fn segment_of_extents(mut input: &[u8]) -> Vec<u8> {
    const DESCRIPTION: usize = 12;
    let mut bytes = vec![0; PAGE];
    put(&mut bytes, 12, &7u64.to_le_bytes());
    put(&mut bytes, 24, &(PAGE as u32).to_le_bytes());
    reframe_header(&mut bytes);
    while let Some((description, rest)) = input.split_at_checked(DESCRIPTION) {
        let lens = u32_at(description, 0);
        let (data, rest) = rest.split_at(((lens & 0xffff) * 16).min(rest.len()));
        let (tables, rest) = rest.split_at((lens >> 16).min(rest.len()));
        input = rest;
        let start = bytes.len();
        let data_end = start + data.len().max(1).next_multiple_of(PAGE);
        let crcs = (data_end - start).div_ceil(BLOCK) * 4;
        let end = data_end + (crcs + tables.len() + FOOTER).next_multiple_of(PAGE);
        bytes.extend_from_slice(data);
        bytes.resize(end, 0);
        put(&mut bytes, data_end + crcs, tables);
        let fields = [start, data_end, end, tables.len()];
        for (i, field) in fields.into_iter().enumerate() {
            put(&mut bytes, end - FOOTER + 4 * i, &(field as u32).to_le_bytes());
        }
        put(&mut bytes, end - FOOTER + 16, &description[4..]);
        reframe_trailer(&mut bytes, start, data_end, end);
    }
    bytes
}

fn reframe_header(bytes: &mut [u8]) {
    put(bytes, 0, b"MSSEGMNT");
    // Of the versions that are read.
    let version = u32_at(bytes, 8).clamp(1, 2) as u32;
    put(bytes, 8, &version.to_le_bytes());
    seal(bytes, 0..HEADER);
}

/// Sets the blocks' checksums, as far as there is room, and the trailer's mark, version and checksum.
fn reframe_trailer(bytes: &mut [u8], start: usize, data_end: usize, end: usize) {
    let footer = end - FOOTER;
    let crcs: Vec<u8> = bytes[start..data_end]
        .chunks(BLOCK)
        .flat_map(|block| crc_fast::crc32_iscsi(block).to_le_bytes())
        .take(footer - data_end)
        .collect();
    put(bytes, data_end, &crcs);
    put(bytes, footer + 24, b"MSEXTENT");
    put(bytes, footer + 32, &1u32.to_le_bytes());
    seal(bytes, data_end..end);
}
