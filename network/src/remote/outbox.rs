//! What goes to one peer: frames, one behind the other in buffers.
//!
//! Frames gather in the open buffer while the connection is busy, so that under load they travel in few
//! large sends, and at a low rate each at once. What finds no buffer is kept aside, in order; who has
//! batches to send asks [`Outbox::has_room`] before, so that this is bounded by what one pass over the
//! slot's subtasks makes.
//!
//! Credits need no order, and the peer may be waiting for them while much is to be sent to it: they go before
//! all that is still here.

use super::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use crate::transport::{SendBuffer, SendBuffers};
use std::collections::VecDeque;

/// Buffers that one peer may have at the least: one to be sent, one to be filled.
const SHARE_MIN: usize = 2;

/// So small a part of a buffer is not worth overtaking, as each buffer is a send of its own.
const OVERTAKEN_MIN: usize = 16;

/// A frame without its payload.
#[derive(Clone, Copy)]
pub(super) struct Envelope {
    pub kind: FrameKind,
    pub channel: u32,
    pub schema: u64,
    pub number: u64,
}

pub(super) struct Outbox {
    attempt: u64,
    buffers: SendBuffers,
    /// How many buffers the peer may have at once, so that one that takes nothing holds up no other.
    share: usize,
    /// Of those, how many the transport has.
    with_transport: usize,
    /// Full, to be handed to the transport.
    full: VecDeque<SendBuffer>,
    open: Option<SendBuffer>,
    /// What goes first.
    urgent: Option<SendBuffer>,
    /// What found no buffer; `spilled` of it has been moved since.
    spill: Vec<u8>,
    spilled: usize,
    /// The next buffer may begin amid a frame, one that was spilled.
    is_ragged: bool,
}

impl Outbox {
    pub fn new(attempt: u64, buffers: SendBuffers) -> Self {
        Self {
            attempt,
            buffers,
            share: SHARE_MIN,
            with_transport: 0,
            full: VecDeque::new(),
            open: None,
            urgent: None,
            spill: Vec::new(),
            spilled: 0,
            is_ragged: false,
        }
    }

    /// How many peers share the buffers.
    pub fn share_with(&mut self, peers: usize) {
        self.share = (self.buffers.count() / peers.max(1)).max(SHARE_MIN);
    }

    /// True if a batch may be sent now.
    pub fn has_room(&self) -> bool {
        self.spill.is_empty()
    }

    fn take_buffer(&mut self) -> Option<SendBuffer> {
        if self.used() < self.share { self.buffers.take() } else { None }
    }

    /// How many buffers the peer has.
    fn used(&self) -> usize {
        let here = usize::from(self.open.is_some()) + usize::from(self.urgent.is_some());
        self.with_transport + self.full.len() + here
    }

    /// Adds a small frame that may overtake others, whose payload of so many bytes `fill` writes.
    pub fn urgent_frame(&mut self, envelope: Envelope, len: usize, fill: impl FnOnce(&mut [u8])) {
        let ahead =
            self.full.len() * self.buffers.capacity() + self.open.as_deref().map_or(0, <[u8]>::len);
        // One is left for what is not urgent.
        let may_take = !self.is_ragged && self.used() + 1 < self.share;
        if self.urgent.is_none() && ahead >= self.buffers.capacity() / OVERTAKEN_MIN && may_take {
            self.urgent = self.take_buffer();
        }
        let attempt = self.attempt;
        match self.urgent.as_mut().and_then(|urgent| urgent.room(frame_bytes(len))) {
            Some(room) => write(attempt, envelope, room, len, fill),
            None => self.frame(envelope, len, fill),
        }
    }

    /// Adds a frame, whose payload of so many bytes `fill` writes.
    pub fn frame(&mut self, envelope: Envelope, len: usize, fill: impl FnOnce(&mut [u8])) {
        let (attempt, bytes) = (self.attempt, frame_bytes(len));
        if self.has_room() && bytes <= self.buffers.capacity() {
            if self.open.as_ref().is_none_or(|open| open.capacity() - open.len() < bytes) {
                self.full.extend(self.open.take());
                self.open = self.take_buffer();
            }
            if let Some(room) = self.open.as_mut().and_then(|open| open.room(bytes)) {
                return write(attempt, envelope, room, len, fill);
            }
        }
        self.is_ragged = true;
        let begin = self.spill.len();
        self.spill.resize(begin + bytes, 0);
        write(attempt, envelope, &mut self.spill[begin..], len, fill);
    }

    /// What is to be handed to the transport now, of which it has `with_transport` buffers already.
    pub fn next(&mut self, with_transport: usize) -> Option<SendBuffer> {
        self.with_transport = with_transport;
        self.unspill();
        if let Some(urgent) = self.urgent.take() {
            return Some(urgent);
        }
        // While one is being sent and one waits, more gathers in the open one, and what is urgent can still
        // overtake.
        if with_transport >= SHARE_MIN {
            return None;
        }
        let next = self.full.pop_front().or_else(|| self.open.take());
        self.is_ragged &= !(self.spill.is_empty() && self.full.is_empty() && self.open.is_none());
        next
    }

    /// Moves what was kept aside into buffers, as far as there are any.
    fn unspill(&mut self) {
        while self.spilled < self.spill.len() {
            if self.open.as_ref().is_none_or(|open| open.len() == open.capacity()) {
                self.full.extend(self.open.take());
                self.open = self.take_buffer();
            }
            let Some(open) = &mut self.open else { return };
            let len = (self.spill.len() - self.spilled).min(open.capacity() - open.len());
            open.extend(&self.spill[self.spilled..self.spilled + len]);
            self.spilled += len;
        }
        self.spill.clear();
        self.spilled = 0;
    }
}

/// The bytes of a frame with so many of payload.
fn frame_bytes(payload: usize) -> usize {
    HEADER_BYTES + payload.next_multiple_of(super::frame::ALIGNMENT)
}

fn write(
    attempt: u64,
    envelope: Envelope,
    room: &mut [u8],
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let (head, rest) = room.split_at_mut(HEADER_BYTES);
    let (payload, padding) = rest.split_at_mut(len);
    fill(payload);
    padding.fill(0);
    let Envelope { kind, channel, schema, number } = envelope;
    let header = FrameHeader::new(kind, channel, attempt, schema, number, payload);
    head.copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::super::cutter::FrameCutter;
    use super::*;
    use crate::transport::{Transport, TransportSettings};
    use proptest::prelude::*;

    #[test]
    fn what_is_urgent_overtakes_what_takes_long() {
        let Ok(transport) = Transport::open(TransportSettings::default()) else { return };
        let mut outbox = Outbox::new(1, transport.buffers());
        outbox.share_with(1);
        let envelope = Envelope { kind: FrameKind::Batch, channel: 2, schema: 3, number: 0 };
        let credit = Envelope { kind: FrameKind::Credit, schema: 0, ..envelope };
        let mut leave = |batch: usize| {
            outbox.frame(envelope, batch, |payload| payload.fill(1));
            outbox.urgent_frame(credit, 16, |payload| payload.fill(9));
            let buffers = std::iter::from_fn(|| outbox.next(0));
            buffers.map(|buffer| buffer.len()).collect::<Vec<_>>()
        };
        assert_eq!(leave(100_000), [frame_bytes(16), frame_bytes(100_000)]);
        assert_eq!(leave(1_000), [frame_bytes(1_000) + frame_bytes(16)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the sizes, and whenever buffers come back. Credits may overtake.
        #[test]
        fn frames_leave_in_order_and_whole(
            sizes in prop::collection::vec((0usize..6_000, 0usize..4), 1..60),
            credits in prop::collection::vec(0usize..3, 60),
            peers in 1usize..4,
        ) {
            let settings = TransportSettings {
                send_buffers: 8,
                send_buffer_bytes: 4 << 10,
                ..TransportSettings::default()
            };
            let Ok(transport) = Transport::open(settings) else { return Ok(()) };
            let mut outbox = Outbox::new(1, transport.buffers());
            outbox.share_with(peers);
            let (mut with_transport, mut stream) = (VecDeque::new(), Vec::new());
            for (number, (len, done)) in (0..).zip(&sizes) {
                let envelope =
                    Envelope { kind: FrameKind::Batch, channel: 2, schema: 3, number };
                outbox.frame(envelope, *len, |payload| payload.fill(number as u8));
                for _ in 0..credits[number as usize] {
                    let envelope = Envelope { kind: FrameKind::Credit, schema: 0, ..envelope };
                    outbox.urgent_frame(envelope, 16, |payload| payload.fill(9));
                }
                while let Some(buffer) = outbox.next(with_transport.len()) {
                    stream.extend_from_slice(&buffer);
                    with_transport.push_back(buffer);
                }
                with_transport.drain(..with_transport.len().min(*done));
            }
            loop {
                with_transport.clear();
                let Some(buffer) = outbox.next(0) else { break };
                stream.extend_from_slice(&buffer);
                with_transport.push_back(buffer);
            }
            prop_assert!(outbox.has_room());
            let (mut cutter, mut at, mut found) = (FrameCutter::new(1), 0, 0);
            let mut granted = 0;
            cutter.set_aside(&stream, &mut { stream.len() }).unwrap();
            while let Some(frame) = cutter.next(&stream, &mut at).unwrap() {
                if frame.header.kind == FrameKind::Credit {
                    granted += 1;
                    prop_assert_eq!(frame.bytes(&stream), [9; 16]);
                    continue;
                }
                let (len, _) = sizes[found];
                prop_assert_eq!(frame.header.number, found as u64);
                prop_assert_eq!(frame.bytes(&stream), vec![found as u8; len]);
                found += 1;
            }
            prop_assert_eq!(found, sizes.len());
            prop_assert_eq!(granted, credits[..sizes.len()].iter().sum::<usize>());
            prop_assert!(at == stream.len() && !cutter.is_amid_a_frame());
        }
    }
}
