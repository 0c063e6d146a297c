//! What goes to one peer: frames, one behind the other in buffers.
//!
//! Frames gather in the open buffer while the connection is busy, so that under load they travel in few
//! large sends, and at a low rate each at once. What finds no buffer is kept aside, in order; who has
//! batches to send asks [`Outbox::has_room`] before, so that this is bounded by what one pass over the
//! slot's subtasks makes.

use super::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use crate::transport::{SendBuffer, SendBuffers};
use std::collections::VecDeque;

/// Buffers that one peer may have at the least: one to be sent, one to be filled.
const SHARE_MIN: usize = 2;
/// How much room for what found no buffer stays when there is nothing of it.
const SPILL_KEPT_MAX: usize = 1 << 20;

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
    /// Full, to be handed to the transport.
    full: VecDeque<SendBuffer>,
    open: Option<SendBuffer>,
    /// What found no buffer; `spilled` of it has been moved since.
    spill: Vec<u8>,
    spilled: usize,
}

impl Outbox {
    pub fn new(attempt: u64, buffers: SendBuffers) -> Self {
        Self {
            attempt,
            buffers,
            share: SHARE_MIN,
            full: VecDeque::new(),
            open: None,
            spill: Vec::new(),
            spilled: 0,
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
        if self.buffers.taken() < self.share { self.buffers.take() } else { None }
    }

    /// Adds a frame, whose payload of so many bytes `fill` writes.
    pub fn frame(&mut self, envelope: Envelope, len: usize, fill: impl FnOnce(&mut [u8])) {
        let bytes = HEADER_BYTES + len.next_multiple_of(super::frame::ALIGNMENT);
        let attempt = self.attempt;
        let write = |room: &mut [u8]| {
            let (head, rest) = room.split_at_mut(HEADER_BYTES);
            let (payload, padding) = rest.split_at_mut(len);
            fill(payload);
            padding.fill(0);
            let Envelope { kind, channel, schema, number } = envelope;
            let header = FrameHeader::new(kind, channel, attempt, schema, number, payload);
            head.copy_from_slice(&header.encode());
        };
        if self.has_room() && bytes <= self.buffers.capacity() {
            if self.open.as_ref().is_none_or(|open| open.capacity() - open.len() < bytes) {
                self.full.extend(self.open.take());
                self.open = self.take_buffer();
            }
            if let Some(room) = self.open.as_mut().and_then(|open| open.room(bytes)) {
                return write(room);
            }
        }
        let begin = self.spill.len();
        self.spill.resize(begin + bytes, 0);
        write(&mut self.spill[begin..]);
    }

    /// What is to be handed to the transport now, where so many buffers are `queued` already.
    pub fn next(&mut self, queued: usize) -> Option<SendBuffer> {
        self.unspill();
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        // While one is being sent and one waits, more gathers in the open one.
        if queued < SHARE_MIN { self.open.take() } else { None }
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
        // What was longest must not be kept for ever.
        if self.spill.capacity() > SPILL_KEPT_MAX {
            self.spill = Vec::new();
        }
        self.spill.clear();
        self.spilled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::cutter::FrameCutter;
    use super::*;
    use crate::transport::{Transport, TransportSettings};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever the sizes, and whenever buffers come back.
        #[test]
        fn frames_leave_in_order_and_whole(
            sizes in prop::collection::vec((0usize..9_000, 0usize..4), 1..60),
            peers in 1usize..4,
        ) {
            let settings = TransportSettings {
                send_buffers: 4,
                send_buffer_bytes: 4 << 10,
                ..TransportSettings::default()
            };
            let Ok(transport) = Transport::open(settings) else { return Ok(()) };
            let mut outbox = Outbox::new(1, transport.buffers());
            outbox.share_with(peers);
            let (mut with_transport, mut stream) = (VecDeque::new(), Vec::new());
            let share = outbox.share;
            for (number, (len, done)) in (0..).zip(&sizes) {
                let envelope =
                    Envelope { kind: FrameKind::Batch, channel: 2, schema: 3, number };
                outbox.frame(envelope, *len, |payload| payload.fill(number as u8));
                while let Some(buffer) = outbox.next(with_transport.len()) {
                    stream.extend_from_slice(&buffer);
                    with_transport.push_back(buffer);
                }
                prop_assert!(with_transport.len() <= share, "one peer has the others' share");
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
            cutter.set_aside(&stream, &mut { stream.len() }).unwrap();
            while let Some(frame) = cutter.next(&stream, &mut at).unwrap() {
                let (len, _) = sizes[found];
                prop_assert_eq!(frame.header.number, found as u64);
                prop_assert_eq!(frame.bytes(&stream), vec![found as u8; len]);
                found += 1;
            }
            prop_assert_eq!(found, sizes.len());
            prop_assert!(at == stream.len() && !cutter.is_amid_a_frame());
        }
    }
}
