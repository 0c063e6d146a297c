//! The frames of a connection: `docs/formats/frames.md`.

use crate::{put, seal, u32_at};

const HEADER: usize = 48;
const ALIGNMENT: usize = 16;

/// The bytes as frames of version 1 and attempt 0, one after the other, of which the last may not be
/// whole: what each header says of its length is made less if it reaches beyond the end.
pub fn reframed_frames(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let mut at = 0;
    while bytes.len() - at >= HEADER {
        let rest = bytes.len() - at - HEADER;
        let payload = u32_at(&bytes, at + 8) % (rest + 1);
        let begin = at + HEADER;
        let checksum = crc_fast::crc32_iscsi(&bytes[begin..begin + payload]);
        put(&mut bytes, at, b"MSF\x01");
        put(&mut bytes, at + 5, &[0; 3]);
        put(&mut bytes, at + 8, &(payload as u32).to_le_bytes());
        put(&mut bytes, at + 16, &[0; 8]);
        put(&mut bytes, at + 40, &checksum.to_le_bytes());
        seal(&mut bytes, at..begin);
        at = (begin + payload.next_multiple_of(ALIGNMENT)).min(bytes.len());
    }
    bytes
}
