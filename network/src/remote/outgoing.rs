//! The sending end of a channel to another host.

use super::frame::{FrameKind, PAYLOAD_MAX};
use super::outbox::{Envelope, Outbox};
use super::signal;
use super::{Codec, CodecError};
use crate::ChannelStats;
use millstream_protocol::SendCredits;
use millstream_types::{Barrier, Batch, Element};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What a sender and the slot's links share.
pub(super) struct Outgoing {
    pub data: Cell<SendCredits>,
    pub control: Cell<SendCredits>,
    /// Why nothing more can be sent.
    pub failure: RefCell<Option<CodecError>>,
    /// The end of the input has been sent.
    pub has_ended: Cell<bool>,
}

impl Outgoing {
    fn send(credits: &Cell<SendCredits>) -> Option<u64> {
        let mut now = credits.get();
        let number = now.send();
        credits.set(now);
        number
    }
}

/// The sending end of a channel to another host: the counterpart of [`Sender`](crate::Sender), whose
/// rules it keeps, with frames for batches. It belongs to the slot of its [`Links`](super::Links), and
/// what it sends leaves at their next [tick](super::Links::tick).
///
/// A batch that is sent is written to a buffer at once and can be filled again. So a credit is no batch
/// here, but the right to send one, which the receiver grants.
pub struct RemoteSender<B: Batch, C: Codec<B>> {
    channel: u32,
    codec: C,
    shared: Rc<Outgoing>,
    peer: Rc<RefCell<Outbox>>,
    /// Batches to be filled.
    spare: Vec<B>,
    /// Batches that the subtask has acquired and not sent.
    held: u64,
    /// What waits for a credit or for room, in order.
    overflow: VecDeque<Element<B>>,
    stats: ChannelStats,
    blocked_since: Option<Instant>,
}

impl<B: Batch, C: Codec<B>> RemoteSender<B, C> {
    pub(super) fn new(
        channel: u32,
        codec: C,
        shared: Rc<Outgoing>,
        peer: Rc<RefCell<Outbox>>,
    ) -> Self {
        Self {
            channel,
            codec,
            shared,
            peer,
            spare: Vec::new(),
            held: 0,
            overflow: VecDeque::new(),
            stats: ChannelStats::default(),
            blocked_since: None,
        }
    }

    /// True if [`acquire`](Self::acquire) would return a batch.
    #[inline]
    pub fn has_credit(&self) -> bool {
        self.shared.data.get().available() > self.held && self.peer.borrow().has_room()
    }

    /// An empty batch to fill, which `make` makes if there is none to be used again; `None` without a
    /// credit. See [`Sender::acquire`](crate::Sender::acquire).
    #[inline]
    pub fn acquire(&mut self, make: impl FnOnce() -> B) -> Option<B> {
        if !self.flush_overflow() || !self.has_credit() {
            return None;
        }
        self.held += 1;
        Some(self.spare.pop().unwrap_or_else(make))
    }

    /// Sends `element`. A signal without a credit, and all that follows on it, waits here.
    ///
    /// # Panics
    /// If more batches are sent than were acquired.
    pub fn send(&mut self, element: Element<B>) {
        if let Element::Batch(batch) = &element {
            assert!(self.held > 0, "a batch was sent that was not acquired from this channel");
            self.held -= 1;
            self.stats.batches += 1;
            self.stats.records += batch.len() as u64;
        }
        if !self.flush_overflow() {
            return self.overflow(element);
        }
        if let Err(element) = self.write(element) {
            self.overflow(element);
        }
    }

    #[cold]
    fn overflow(&mut self, element: Element<B>) {
        match (self.overflow.back_mut(), &element) {
            (Some(Element::Watermark(last)), Element::Watermark(newer)) => *last = *newer,
            _ => self.overflow.push_back(element),
        }
    }

    fn write(&mut self, element: Element<B>) -> Result<(), Element<B>> {
        let Self { channel, shared, .. } = self;
        let channel = *channel;
        match element {
            Element::Batch(mut batch) => {
                // The credit was there when the batch was acquired, and nobody else uses it.
                let Some(number) = Outgoing::send(&shared.data) else {
                    return Err(Element::Batch(batch));
                };
                match self.codec.prepare(&batch) {
                    Ok(len) if len > PAYLOAD_MAX => {
                        let error = format!(
                            "{} records take {len} bytes, where {PAYLOAD_MAX} are the most; set batch_bytes lower",
                            batch.len()
                        );
                        *shared.failure.borrow_mut() = Some(CodecError(error.into()));
                    }
                    Ok(len) => {
                        let schema = self.codec.schema();
                        let envelope = Envelope { kind: FrameKind::Batch, channel, schema, number };
                        let mut peer = self.peer.borrow_mut();
                        peer.frame(envelope, len, |payload| self.codec.write(&batch, payload));
                    }
                    Err(error) => *shared.failure.borrow_mut() = Some(error),
                }
                batch.clear();
                self.spare.push(batch);
            }
            signal => {
                let Some(payload) = signal::encode(&signal) else { return Ok(()) };
                let Some(number) = Outgoing::send(&shared.control) else { return Err(signal) };
                shared.has_ended.set(matches!(signal, Element::EndOfInput));
                let envelope = Envelope { kind: FrameKind::Signal, channel, schema: 0, number };
                let fill = |out: &mut [u8]| out.copy_from_slice(&payload);
                self.peer.borrow_mut().frame(envelope, payload.len(), fill);
            }
        }
        Ok(())
    }

    /// Sends a barrier ahead of everything that the receiving subtask has not taken. What it has
    /// overtaken on this side is returned, in order; it is sent behind it. What was sent before reaches
    /// the other side before the barrier does, and is found there.
    pub fn overtake(&mut self, barrier: Barrier) -> impl Iterator<Item = &Element<B>> {
        self.flush_overflow();
        if let Some(payload) = signal::encode::<B>(&Element::Barrier(barrier)) {
            let kind = FrameKind::Overtaking;
            let envelope = Envelope { kind, channel: self.channel, schema: 0, number: 0 };
            let fill = |out: &mut [u8]| out.copy_from_slice(&payload);
            self.peer.borrow_mut().frame(envelope, payload.len(), fill);
        }
        self.overflow.iter()
    }

    /// Sends what waits as far as credits go. True if nothing is left.
    #[inline]
    pub fn flush_overflow(&mut self) -> bool {
        self.overflow.is_empty() || self.flush_some()
    }

    #[cold]
    fn flush_some(&mut self) -> bool {
        while let Some(element) = self.overflow.pop_front() {
            if let Err(element) = self.write(element) {
                self.overflow.push_front(element);
                return false;
            }
        }
        true
    }

    /// As [`Sender::is_blocked`](crate::Sender::is_blocked).
    pub fn is_blocked(&mut self) -> bool {
        let blocked = !self.flush_overflow() || !self.has_credit();
        if blocked {
            self.stats.blocked_checks += 1;
            self.blocked_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.blocked_since.take() {
            self.stats.blocked_time += since.elapsed();
        }
        blocked
    }

    /// What was counted so far; the time blocked includes the present wait.
    pub fn stats(&self) -> ChannelStats {
        let waiting = self.blocked_since.map_or(Duration::ZERO, |since| since.elapsed());
        ChannelStats { blocked_time: self.stats.blocked_time + waiting, ..self.stats }
    }
}

impl<B: Batch, C: Codec<B>> fmt::Debug for RemoteSender<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSender")
            .field("channel", &self.channel)
            .field("data", &self.shared.data.get())
            .field("control", &self.shared.control.get())
            .field("overflow", &self.overflow.len())
            .finish_non_exhaustive()
    }
}
