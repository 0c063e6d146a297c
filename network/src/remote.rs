//! The exchange between hosts: what its connections carry, who may open one, and the channels that go by
//! them.
//!
//! [`frame`]s, how they are cut out of what is received, and the [`handshake`] that comes before the first
//! of them are what both ends of a connection agree on; there is no I/O in them. [`links`] are a slot's
//! connections, by a [`Transport`](crate::transport::Transport), with the ends of channels that are on
//! this side.

pub mod cutter;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
mod incoming;
pub mod links;
mod outbox;
mod outgoing;
mod reader;
mod signal;

#[cfg(test)]
mod tests;

pub use links::{LinkError, LinkStats, Links, PeerId, Window};
pub use outgoing::RemoteSender;
pub use reader::FramePayload;

use millstream_types::Batch;
use thiserror::Error;

/// How batches are written to frames and read from them.
pub trait Codec<B: Batch>: 'static {
    /// Tells whether both ends mean the same type of batch, archived in the same way.
    fn schema(&self) -> u64;

    /// Prepares a batch to be written, and returns how many bytes it takes.
    ///
    /// # Errors
    /// If it cannot be written.
    fn prepare(&mut self, batch: &B) -> Result<usize, CodecError>;

    /// Writes the batch that was prepared last to so many bytes, all of them.
    fn write(&mut self, batch: &B, payload: &mut [u8]);

    /// Reads a batch, into an empty one whose memory can be used. The bytes have passed the frame's
    /// checks, and may be anything all the same.
    ///
    /// # Errors
    /// If they are no batch.
    fn read(&mut self, payload: FramePayload, batch: &mut B) -> Result<(), CodecError>;
}

/// A batch that cannot be written or read.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct CodecError(pub Box<dyn std::error::Error + Send + Sync>);
