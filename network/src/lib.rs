//! The exchange: channels of batches between subtasks.
//!
//! A [`channel`] carries the elements of one sending subtask to one receiving subtask of the same
//! process and the emptied batches back. It is built of two [`ring`]s, which two threads share
//! without a lock, and of the [`Doorbell`]s of the two task slots, which wake a slot that sleeps.
//!
//! Between hosts, a slot's [`transport`] carries what [`remote`] describes.
//!
//! The exchange ships batches and signals, not meanings: it knows a batch by
//! [`millstream_types::Batch`] alone, so rows and columns travel alike.
//!
//! # Invariants of channels
//! - Elements arrive in the order in which they were sent, whatever their kind; only a barrier may
//!   overtake.
//! - No call blocks or performs I/O (but for the [`Wake`] that the slot supplies), and none takes a
//!   lock, unless it is for a barrier that overtakes.
//! - A channel never has more batches than it has credits, and allocates none in steady state.
//! - A slot that follows the parking protocol of [`Doorbell`] sleeps through no element, no
//!   returned credit and no disconnection.
#![deny(unsafe_code)]

mod channel;
mod doorbell;
#[cfg(not(loom))]
pub mod remote;
pub mod ring;
mod sync;
#[cfg(not(loom))]
pub mod transport;

pub use channel::{ChannelStats, Overtaking, Receiver, Sender, channel, channel_bytes};
pub use doorbell::{Doorbell, Wake};
