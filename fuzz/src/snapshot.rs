//! The sections of a snapshot: `docs/formats/snapshot.md`.

use crate::{put, seal};

const HEADER: usize = 12;
const SECTION_HEAD: usize = 9;
const CHECKSUM: usize = 4;
/// The byte after the last section.
const END: u8 = 0;

/// The bytes with the header of version 1, each section with its checksum, and the end where the
/// sections end. A section that is longer than the rest ends with it.
pub fn reframed_snapshot(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().max(HEADER + 1), END);
    put(&mut bytes, 0, b"MSSNAPSH");
    put(&mut bytes, 8, &1u32.to_le_bytes());
    let mut at = HEADER;
    // The end needs its byte too.
    while bytes[at] != END
        && let Some(body_max) = bytes.len().checked_sub(at + SECTION_HEAD + CHECKSUM + 1)
    {
        let mut len = [0; 8];
        len.copy_from_slice(&bytes[at + 1..at + SECTION_HEAD]);
        let body = usize::try_from(u64::from_le_bytes(len)).unwrap_or(body_max).min(body_max);
        put(&mut bytes, at + 1, &(body as u64).to_le_bytes());
        let end = at + SECTION_HEAD + body + CHECKSUM;
        seal(&mut bytes, at..end);
        at = end;
    }
    bytes.truncate(at + 1);
    bytes[at] = END;
    bytes
}
