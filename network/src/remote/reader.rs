//! What one connection receives, as frames.

use super::cutter::{CutStats, FrameCutter, Payload};
use super::frame::{ALIGNMENT, FrameError, FrameHeader, HEADER_BYTES};
use crate::transport::Received;
use rkyv::util::AlignedVec;
use std::ops::Deref;
use std::sync::Arc;

/// A payload, where it was received or in memory of its own. Aligned to 16 bytes.
#[derive(Clone, Debug)]
pub struct FramePayload(Place);

#[derive(Clone, Debug)]
enum Place {
    Received(Arc<Received>),
    /// A whole frame, with so many bytes of payload.
    Copied(Arc<AlignedVec<ALIGNMENT>>, usize),
}

impl FramePayload {
    /// A payload of these bytes, copied.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut frame = AlignedVec::with_capacity(HEADER_BYTES + bytes.len());
        frame.extend_from_slice(&[0; HEADER_BYTES]);
        frame.extend_from_slice(bytes);
        Self(Place::Copied(Arc::new(frame), bytes.len()))
    }
}

impl Deref for FramePayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Received(bytes) => bytes,
            Place::Copied(frame, len) => &frame[HEADER_BYTES..HEADER_BYTES + len],
        }
    }
}

/// Reads the frames of a connection.
pub(super) struct FrameReader {
    cutter: FrameCutter,
    /// Ends with the begin of a frame.
    kept: Option<Received>,
    /// Payloads that lay in place and were copied nevertheless.
    copied: u64,
}

impl FrameReader {
    pub fn new(attempt: u64) -> Self {
        Self { cutter: FrameCutter::new(attempt), kept: None, copied: 0 }
    }

    pub fn stats(&self) -> CutStats {
        let CutStats { bytes_in_place, bytes_copied } = self.cutter.stats();
        CutStats {
            bytes_in_place: bytes_in_place - self.copied,
            bytes_copied: bytes_copied + self.copied,
        }
    }

    /// True if a frame has begun.
    pub fn is_amid_a_frame(&self) -> bool {
        self.kept.is_some() || self.cutter.is_amid_a_frame()
    }

    /// Bytes have come. The payloads that `on_frame` gets hold on to them only if they `may_stay`.
    pub fn read<E: From<FrameError>>(
        &mut self,
        bytes: Received,
        may_stay: bool,
        on_frame: &mut impl FnMut(FrameHeader, FramePayload) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = match self.kept.take() {
            None => bytes,
            Some(mut kept) => match kept.join(bytes) {
                Ok(()) => kept,
                Err(bytes) => {
                    self.cutter.set_aside(&kept, &mut 0)?;
                    bytes
                }
            },
        };
        let mut at = 0;
        while let Some(cut) = self.cutter.next(&bytes, &mut at)? {
            let len = cut.header.payload_bytes();
            let place = match cut.payload {
                Payload::Copied(frame) => Place::Copied(Arc::new(frame), len),
                Payload::InPlace(range) if may_stay => Place::Received(Arc::new(bytes.part(range))),
                Payload::InPlace(range) => {
                    self.copied += len as u64;
                    FramePayload::from_bytes(&bytes[range]).0
                }
            };
            on_frame(cut.header, FramePayload(place))?;
        }
        if at < bytes.len() {
            let mut rest = bytes;
            rest.advance(at);
            let missing = FrameCutter::frame_bytes(&rest).saturating_sub(rest.len());
            if may_stay && missing <= rest.room_behind() {
                self.kept = Some(rest);
            } else {
                self.cutter.set_aside(&rest, &mut 0)?;
            }
        }
        Ok(())
    }

    /// Lets go of what was received.
    pub fn let_go(&mut self) -> Result<(), FrameError> {
        match self.kept.take() {
            Some(kept) => self.cutter.set_aside(&kept, &mut 0),
            None => Ok(()),
        }
    }
}
