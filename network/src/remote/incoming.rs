//! The receiving end of a channel from another host: feeds a channel within the host.

use super::frame::{FrameHeader, FrameKind};
use super::reader::FramePayload;
use super::signal;
use super::{Codec, CodecError};
use crate::Sender;
use millstream_protocol::{CreditViolation, ReceiveCredits};
use millstream_types::{Batch, Element};
use std::collections::VecDeque;
use thiserror::Error;

/// What is wrong with a frame of a channel.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The peer does not keep to the protocol.
    #[error(transparent)]
    Credit(#[from] CreditViolation),
    /// The batch cannot be read.
    #[error("a batch cannot be read: {0}")]
    Batch(#[source] CodecError),
    /// The batch is of another type.
    #[error(
        "records of another type (schema {found:016x}, not {expected:016x}); all hosts must run the same executable"
    )]
    Schema {
        /// In the frame.
        found: u64,
        /// The receiver's.
        expected: u64,
    },
    /// A signal that is none, or a credit for nothing.
    #[error("a frame of kind {0:?} whose content makes no sense")]
    Content(FrameKind),
}

/// A channel, whatever its batches are.
pub(super) trait Incoming {
    /// A batch or signal has come.
    fn on_frame(&mut self, header: &FrameHeader, payload: FramePayload)
    -> Result<(), ChannelError>;

    /// What was consumed since, if enough to tell the sender: batches and signals granted in all.
    fn grants(&mut self) -> Option<(u64, u64)>;

    /// The sender has nothing more to send.
    fn has_ended(&self) -> bool;
}

pub(super) struct Feed<B: Batch, C: Codec<B>> {
    into: Sender<B>,
    codec: C,
    data: ReceiveCredits,
    control: ReceiveCredits,
    /// The totals that were granted last.
    granted: (u64, u64),
    /// For each element in the channel, whether it is a signal.
    queued: VecDeque<bool>,
    has_ended: bool,
}

impl<B: Batch, C: Codec<B>> Feed<B, C> {
    /// The other end of `into` has as many credits as there may be batches and signals.
    pub fn new(into: Sender<B>, codec: C, data: u32, control: u32) -> Self {
        Self {
            into,
            codec,
            data: ReceiveCredits::new(data),
            control: ReceiveCredits::new(control),
            granted: (u64::from(data), u64::from(control)),
            queued: VecDeque::new(),
            has_ended: false,
        }
    }
}

impl<B: Batch + Default, C: Codec<B>> Incoming for Feed<B, C> {
    fn on_frame(
        &mut self,
        header: &FrameHeader,
        payload: FramePayload,
    ) -> Result<(), ChannelError> {
        let nonsense = || ChannelError::Content(header.kind);
        match header.kind {
            FrameKind::Batch => {
                self.data.receive(header.number)?;
                let (found, expected) = (header.schema, self.codec.schema());
                if found != expected {
                    return Err(ChannelError::Schema { found, expected });
                }
                let mut batch = self.into.acquire(B::default).ok_or_else(nonsense)?;
                self.codec.read(payload, &mut batch).map_err(ChannelError::Batch)?;
                self.queued.push_back(false);
                self.into.send(Element::Batch(batch));
            }
            FrameKind::Signal => {
                self.control.receive(header.number)?;
                let signal = signal::decode(&payload).ok_or_else(nonsense)?;
                self.has_ended |= matches!(signal, Element::EndOfInput);
                self.queued.push_back(true);
                self.into.send(signal);
            }
            FrameKind::Overtaking => {
                let Some(Element::Barrier(barrier)) = signal::decode::<B>(&payload) else {
                    return Err(nonsense());
                };
                // The credits leave nothing that has found no room in the ring.
                let behind = self.into.overtake(barrier).count();
                debug_assert_eq!(behind, 0, "the ring has room for all that was granted");
            }
            FrameKind::Credit => return Err(nonsense()),
        }
        self.into.notify();
        Ok(())
    }

    fn grants(&mut self) -> Option<(u64, u64)> {
        if self.data.held() == 0 && self.queued.is_empty() {
            return None;
        }
        let (mut data, mut control) = self.granted;
        let waiting = self.into.queued();
        while self.queued.len() > waiting {
            if self.queued.pop_front() == Some(true) {
                control = self.control.consume().unwrap_or(control);
            }
        }
        let out = self.into.batches_out() as u64;
        while self.data.held() > out {
            data = self.data.consume().unwrap_or(data);
        }
        if (data, control) == self.granted {
            return None;
        }
        // What has gathered of the other goes with it.
        data = self.data.announce().unwrap_or(data);
        control = self.control.announce().unwrap_or(control);
        self.granted = (data, control);
        Some(self.granted)
    }

    fn has_ended(&self) -> bool {
        self.has_ended
    }
}
