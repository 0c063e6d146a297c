//! Decisions, without the deeds: when a checkpoint begins, what it waits for, when it is complete,
//! which ones are kept, and when a failed job starts again.
//!
//! Everything here is a state machine: events in, commands out. No I/O, no clock, no thread; time
//! comes in as an argument. The runtime performs the commands on real channels and disks, the
//! simulation on simulated ones.
#![forbid(unsafe_code)]

pub mod manifest;

pub use manifest::{
    CheckpointKind, FileEntry, MANIFEST_FORMAT_VERSION, Manifest, ManifestError, OperatorEntry,
    SlotEntry, StateFileEntry,
};
