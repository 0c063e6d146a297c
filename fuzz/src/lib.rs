//! Gets mutated bytes past the checksums of the formats in `docs/formats`.
//!
//! A mutation of a file that has a checksum is all but always refused for the checksum, and what lies
//! behind is never reached. So such a target decodes an input twice: as it is, and again after the
//! functions here have set right what a writer would have computed: marks, versions, the lengths of
//! frames, checksums. Nothing else is changed; what the frames hold stays as it was mutated.
//!
//! # Invariants
//! - Whatever the bytes are, nothing here panics: a panic is a finding in a decoder.
//! - What a program of this version wrote is not changed (`fuzz/tests/frames.rs`).
#![forbid(unsafe_code)]

mod frames;
mod manifest;
mod messages;
mod segment;
mod snapshot;

pub use frames::reframed_frames;
pub use manifest::reframed_manifest;
pub use messages::reframed_message;
pub use segment::{reframed_segment, segment_of_extents};
pub use snapshot::reframed_snapshot;

/// Overwrites bytes at an offset that is there.
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// The number in the four bytes from `at` on, which are there.
fn u32_at(bytes: &[u8], at: usize) -> usize {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field) as usize
}

/// Overwrites the last four bytes of `range` with the checksum of those before.
fn seal(bytes: &mut [u8], range: std::ops::Range<usize>) {
    let at = range.end - 4;
    let checksum = crc_fast::crc32_iscsi(&bytes[range.start..at]);
    put(bytes, at, &checksum.to_le_bytes());
}
