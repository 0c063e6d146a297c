//! The frame of a manifest: `docs/formats/checkpoints.md`.

use crate::{put, seal};

const HEAD: usize = 20;
const CHECKSUM: usize = 4;

/// The bytes in a frame of version 1 that fits them. Shorter ones than a frame get zeros.
pub fn reframed_manifest(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().max(HEAD + CHECKSUM), 0);
    let len = bytes.len();
    put(&mut bytes, 0, b"MSCKPMAN");
    put(&mut bytes, 8, &1u32.to_le_bytes());
    put(&mut bytes, 12, &((len - HEAD - CHECKSUM) as u64).to_le_bytes());
    seal(&mut bytes, 0..len);
    bytes
}
