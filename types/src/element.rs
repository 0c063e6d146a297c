//! What travels through a channel.

use crate::{CheckpointId, Timestamp};

/// Many records that move through an exchange as one.
///
/// The exchange knows a batch only by this trait, so rows and columns travel alike. A batch is
/// cleared and returned to its sender once it has been consumed, so that its memory is used again:
/// `clear` keeps what was allocated.
pub trait Batch: Send + 'static {
    /// The number of records.
    fn len(&self) -> usize;

    /// True if there are no records.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the records and keeps the memory.
    fn clear(&mut self);
}

/// A checkpoint barrier: what precedes it belongs to the checkpoint, what follows does not
/// (Carbone et al., arXiv:1506.08603).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint that this barrier delimits.
    pub checkpoint: CheckpointId,
}

/// Sent by a source at intervals and recorded by sinks: how long a record waits on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyMarker {
    /// When the source emitted it (wall clock).
    pub emitted: Timestamp,
}

/// An element of a channel: records in batches and, between them, the signals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element<B> {
    /// Records.
    Batch(B),
    /// No record with a timestamp at or before this one follows (late ones excepted).
    Watermark(Timestamp),
    /// A checkpoint barrier.
    Barrier(Barrier),
    /// A latency probe.
    LatencyMarker(LatencyMarker),
    /// The sender has nothing to read and must not hold back the receiver's watermark.
    Idle,
    /// The sender, idle before, counts again.
    Active,
    /// The sender is done; nothing follows.
    EndOfInput,
}
