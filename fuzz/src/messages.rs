//! The frame of what members of a job say to each other: a length, a checksum, and an archived value.

use crate::put;

const HEAD: usize = 8;

/// The bytes with the length and the checksum of those behind them. Shorter ones than these get zeros.
pub fn reframed_message(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().max(HEAD), 0);
    let (len, checksum) = ((bytes.len() - HEAD) as u32, crc_fast::crc32_iscsi(&bytes[HEAD..]));
    put(&mut bytes, 0, &len.to_le_bytes());
    put(&mut bytes, 4, &checksum.to_le_bytes());
    bytes
}
