//! The receiving end of a channel without a connection, for whoever feeds it any frames (`fuzz/`). Not part of
//! the interface.

use super::Codec;
use super::frame::{FrameHeader, FrameKind};
use super::incoming::{ChannelError, Feed, Incoming};
use super::reader::FramePayload;
use crate::{Doorbell, Receiver, Wake, channel};
use millstream_types::{Batch, Element};
use std::sync::Arc;

/// Nobody sleeps.
struct Awake;

impl Wake for Awake {
    fn wake(&self) {}
}

/// The receiving end of a channel, and who reads from it.
pub struct FedChannel<B: Batch + Default, C: Codec<B>> {
    feed: Feed<B, C>,
    receiver: Receiver<B>,
    schema: u64,
    /// Of the next batch, and of the next signal.
    numbers: [u64; 2],
}

impl<B: Batch + Default, C: Codec<B>> FedChannel<B, C> {
    /// With so many credits for batches, and for signals.
    pub fn new(codec: C, credits: u32) -> Self {
        let slot = Doorbell::new(Arc::new(Awake));
        let (into, receiver) = channel(credits as usize, &slot, &slot);
        let schema = codec.schema();
        let feed = Feed::new(into, codec, credits, credits);
        Self { feed, receiver, schema, numbers: [0; 2] }
    }

    /// Takes a frame with this payload, of which all else is right, and then reads what there is: each
    /// element is shown to `each`.
    ///
    /// # Errors
    /// If the payload makes no sense.
    pub fn receive(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        mut each: impl FnMut(&Element<B>),
    ) -> Result<(), ChannelError> {
        let mut next = |budget: usize| {
            self.numbers[budget] += 1;
            self.numbers[budget] - 1
        };
        let (schema, number) = match kind {
            FrameKind::Batch => (self.schema, next(0)),
            FrameKind::Signal => (0, next(1)),
            FrameKind::Credit | FrameKind::Overtaking => (0, 0),
        };
        let header = FrameHeader::new(kind, 0, 0, schema, number, payload);
        self.feed.on_frame(&header, FramePayload::from_bytes(payload))?;
        while let Some(overtaking) = self.receiver.take_overtaking() {
            each(&Element::Barrier(overtaking.barrier));
        }
        while let Some(element) = self.receiver.receive() {
            each(&element);
            if let Element::Batch(batch) = element {
                self.receiver.give_back(batch);
            }
        }
        self.feed.grants();
        Ok(())
    }
}
