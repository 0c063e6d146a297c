//! Frames, cut out of what a connection receives.
//!
//! What is received comes in pieces, in whose midst frames begin and end. A frame that lies in what was
//! received, with its payload at a multiple of [`ALIGNMENT`], is given out where it lies. The begin of one
//! stays where it is as long as what follows comes behind it in memory; else it is
//! [set aside](FrameCutter::set_aside), which copies it.
//!
//! # Invariants
//! - A frame is given out complete, checked, and after all that were sent before it.
//! - After an error nothing more is given out: where the next frame begins is not known.
//! - What a header says is checked before memory is taken for it.

use super::frame::{ALIGNMENT, FrameError, FrameHeader, HEADER_BYTES};
use rkyv::util::AlignedVec;
use std::ops::Range;

/// How much memory is taken for a frame before its bytes have come.
const RESERVE_MAX: usize = 1 << 20;

/// A frame, complete and checked.
#[derive(Debug)]
pub struct Cut {
    /// What is said about the payload.
    pub header: FrameHeader,
    /// Where it lies.
    pub payload: Payload,
}

impl Cut {
    /// The payload, which is aligned to [`ALIGNMENT`]. `received` is what the frame was cut out of.
    ///
    /// # Panics
    /// If it is something else, and shorter.
    pub fn bytes<'a>(&'a self, received: &'a [u8]) -> &'a [u8] {
        match &self.payload {
            Payload::InPlace(range) => &received[range.clone()],
            Payload::Copied(frame) => {
                &frame[HEADER_BYTES..HEADER_BYTES + self.header.payload_bytes()]
            }
        }
    }
}

/// Where a payload lies.
#[derive(Debug)]
pub enum Payload {
    /// In what was received.
    InPlace(Range<usize>),
    /// In memory of its own, behind the header.
    Copied(AlignedVec<ALIGNMENT>),
}

/// What a [`FrameCutter`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutStats {
    /// Bytes of payloads that were given out where they lay.
    pub bytes_in_place: u64,
    /// Bytes of payloads that were copied.
    pub bytes_copied: u64,
}

/// Cuts frames out of what one connection receives.
#[derive(Debug)]
pub struct FrameCutter {
    attempt: u64,
    /// The begin of a frame that was not complete in what was received so far.
    begun: AlignedVec<ALIGNMENT>,
    /// Its header, as soon as that is there.
    header: Option<FrameHeader>,
    failure: Option<FrameError>,
    stats: CutStats,
}

impl FrameCutter {
    /// For a connection of this attempt of the job: frames of others are refused.
    pub fn new(attempt: u64) -> Self {
        Self {
            attempt,
            begun: AlignedVec::new(),
            header: None,
            failure: None,
            stats: CutStats::default(),
        }
    }

    /// What was counted so far.
    pub fn stats(&self) -> CutStats {
        self.stats
    }

    /// True if what was received ends in the midst of a frame: a connection that ends there has lost
    /// something.
    pub fn is_amid_a_frame(&self) -> bool {
        !self.begun.is_empty()
    }

    /// The next frame that is complete with these bytes; `at` says how many of them have been looked at,
    /// and is moved on. `None` when no more is complete: what is left from `at` on is the begin of a
    /// frame. It is to be shown again with what comes behind it, or to be
    /// [set aside](Self::set_aside).
    ///
    /// Complexity: a look at the header and one checksum; a copy where a part was set aside.
    ///
    /// # Errors
    /// If they are no frames, damaged ones, or of another attempt; and the same ever after.
    pub fn next(&mut self, received: &[u8], at: &mut usize) -> Result<Option<Cut>, FrameError> {
        self.unless_failed(|cutter| {
            if cutter.begun.is_empty() {
                cutter.next_in_place(received, at)
            } else {
                cutter.complete(received, at)
            }
        })
    }

    /// Copies the begin of a frame, as what follows on it will come elsewhere. What was received may be
    /// overwritten then, but for payloads that are used where they lie.
    ///
    /// # Errors
    /// As [`Self::next`].
    ///
    /// # Panics
    /// If it is more than the begin of a frame.
    pub fn set_aside(&mut self, received: &[u8], at: &mut usize) -> Result<(), FrameError> {
        if *at == received.len() {
            return Ok(());
        }
        let cut = self.unless_failed(|cutter| cutter.complete(received, at))?;
        assert!(cut.is_none(), "a frame that was complete was set aside");
        Ok(())
    }

    /// Bytes of the frame of which this is the begin, as far as it tells.
    pub fn frame_bytes(begin: &[u8]) -> usize {
        let header = begin.first_chunk().and_then(|header| FrameHeader::decode(header).ok());
        HEADER_BYTES + header.map_or(0, |header| header.padded_bytes())
    }

    fn unless_failed<R>(
        &mut self,
        cut: impl FnOnce(&mut Self) -> Result<R, FrameError>,
    ) -> Result<R, FrameError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let result = cut(self);
        self.failure = result.as_ref().err().copied();
        result
    }

    fn next_in_place(
        &mut self,
        received: &[u8],
        at: &mut usize,
    ) -> Result<Option<Cut>, FrameError> {
        let rest = &received[*at..];
        let Some(header) = rest.first_chunk() else { return Ok(None) };
        let header = self.decode(header)?;
        let frame_bytes = HEADER_BYTES + header.padded_bytes();
        if !rest.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return self.complete(received, at);
        }
        if rest.len() < frame_bytes {
            return Ok(None);
        }
        let payload = *at + HEADER_BYTES..*at + HEADER_BYTES + header.payload_bytes();
        header.verify(&received[payload.clone()])?;
        self.stats.bytes_in_place += payload.len() as u64;
        *at += frame_bytes;
        Ok(Some(Cut { header, payload: Payload::InPlace(payload) }))
    }

    /// Copies what belongs to the frame that has begun.
    fn complete(&mut self, received: &[u8], at: &mut usize) -> Result<Option<Cut>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                self.take(received, at, HEADER_BYTES);
                let Some(header) = self.begun.first_chunk() else { return Ok(None) };
                let header = self.decode(header)?;
                *self.header.insert(header)
            }
        };
        let frame_bytes = HEADER_BYTES + header.padded_bytes();
        self.take(received, at, frame_bytes);
        if self.begun.len() < frame_bytes {
            return Ok(None);
        }
        self.header = None;
        let frame = std::mem::take(&mut self.begun);
        let cut = Cut { header, payload: Payload::Copied(frame) };
        header.verify(cut.bytes(&[]))?;
        self.stats.bytes_copied += u64::from(header.payload_len);
        Ok(Some(cut))
    }

    /// Moves bytes to the frame that has begun, until it has so many or there are no more.
    fn take(&mut self, received: &[u8], at: &mut usize, until: usize) {
        let missing = until.saturating_sub(self.begun.len());
        let end = received.len().min(*at + missing);
        // Not all at once on the word of a header.
        self.begun.reserve(missing.min(RESERVE_MAX));
        self.begun.extend_from_slice(&received[*at..end]);
        *at = end;
    }

    fn decode(&self, bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, FrameError> {
        let header = FrameHeader::decode(bytes)?;
        if header.attempt != self.attempt {
            return Err(FrameError::Attempt { found: header.attempt, expected: self.attempt });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::FrameKind;
    use super::*;
    use proptest::prelude::*;

    const ATTEMPT: u64 = 3;

    /// A stream of frames with these payloads.
    fn stream(payloads: &[Vec<u8>]) -> AlignedVec<ALIGNMENT> {
        let mut stream = AlignedVec::new();
        for (number, payload) in (0..).zip(payloads) {
            let header = FrameHeader::new(FrameKind::Batch, 1, ATTEMPT, 2, number, payload);
            stream.extend_from_slice(&header.encode());
            stream.extend_from_slice(payload);
            stream.resize(stream.len().next_multiple_of(ALIGNMENT), 0);
        }
        stream
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..150), 1..12)
    }

    /// What comes out if the stream is received in pieces that end here. Each piece lies in a buffer
    /// of its own, so many bytes after its begin.
    fn cut(
        cutter: &mut FrameCutter,
        stream: &[u8],
        ends: &[usize],
        offset: usize,
    ) -> (Vec<Vec<u8>>, Option<FrameError>) {
        let (mut found, mut begin) = (Vec::new(), 0);
        let mut ends: Vec<_> = ends.iter().map(|end| end % (stream.len() + 1)).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        for end in ends {
            let mut buffer = AlignedVec::<ALIGNMENT>::new();
            buffer.resize(offset, 0);
            buffer.extend_from_slice(&stream[begin..end]);
            let (received, mut at) = (&buffer[offset..], 0);
            loop {
                match cutter.next(received, &mut at) {
                    Ok(Some(frame)) => {
                        let payload = frame.bytes(received);
                        assert!(payload.as_ptr().addr().is_multiple_of(ALIGNMENT));
                        assert_eq!(frame.header.number, found.len() as u64);
                        found.push(payload.to_vec());
                    }
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
            if let Err(error) = cutter.set_aside(received, &mut at) {
                return (found, Some(error));
            }
            assert_eq!(at, received.len());
            begin = end;
        }
        (found, None)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_received(
            payloads in payloads(),
            ends in prop::collection::vec(any::<usize>(), 0..8),
            offset in 0usize..40,
        ) {
            let stream = stream(&payloads);
            let mut cutter = FrameCutter::new(ATTEMPT);
            let (found, error) = cut(&mut cutter, &stream, &ends, offset);
            prop_assert_eq!(&found, &payloads);
            prop_assert_eq!(error, None);
            prop_assert!(!cutter.is_amid_a_frame());
            let CutStats { bytes_in_place, bytes_copied } = cutter.stats();
            let bytes: usize = payloads.iter().map(Vec::len).sum();
            prop_assert_eq!(bytes_in_place + bytes_copied, bytes as u64);
            if ends.is_empty() {
                let in_place = offset.is_multiple_of(ALIGNMENT);
                prop_assert_eq!(bytes_copied == 0, in_place || bytes == 0);
            }
        }

        #[test]
        fn nothing_comes_out_from_a_changed_byte_on(
            payloads in payloads(),
            ends in prop::collection::vec(any::<usize>(), 0..8),
            place: usize,
            change in 1u8..,
        ) {
            let mut stream = stream(&payloads);
            let place = place % stream.len();
            stream[place] ^= change;
            let mut cutter = FrameCutter::new(ATTEMPT);
            let (found, error) = cut(&mut cutter, &stream, &ends, 0);
            let mut begin = 0;
            for (i, payload) in payloads.iter().enumerate() {
                let end = begin + HEADER_BYTES + payload.len();
                if place < end && place >= begin {
                    prop_assert_eq!(&found, &payloads[..i]);
                    prop_assert_eq!(cutter.next(&[], &mut 0).err(), error, "and so it stays");
                    prop_assert!(error.is_some());
                    return Ok(());
                }
                begin = end.next_multiple_of(ALIGNMENT);
            }
            // In what is between two frames, which nobody looks at.
            prop_assert_eq!(found, payloads);
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>, ends in prop::collection::vec(any::<usize>(), 0..8)) {
            let _ = cut(&mut FrameCutter::new(ATTEMPT), &bytes, &ends, 0);
        }
    }

    #[test]
    fn a_frame_that_comes_little_by_little_to_one_place_is_not_copied() {
        let payloads = vec![vec![1; 100], vec![2; 5], vec![3; 1000]];
        let stream = stream(&payloads);
        let mut cutter = FrameCutter::new(ATTEMPT);
        let (mut at, mut found) = (0, Vec::new());
        for end in 0..=stream.len() {
            while let Some(frame) = cutter.next(&stream[..end], &mut at).unwrap() {
                found.push(frame.bytes(&stream).to_vec());
            }
            let missing = FrameCutter::frame_bytes(&stream[at..end]);
            assert!(missing > end - at, "it is not complete");
        }
        assert_eq!(found, payloads);
        assert_eq!(cutter.stats().bytes_copied, 0);
    }

    #[test]
    fn what_another_attempt_has_sent_is_refused() {
        let mut cutter = FrameCutter::new(ATTEMPT + 1);
        let error = FrameError::Attempt { found: ATTEMPT, expected: ATTEMPT + 1 };
        let (found, failed) = cut(&mut cutter, &stream(&[b"late".to_vec()]), &[], 0);
        assert_eq!((found, failed), (Vec::new(), Some(error)));
    }

    #[test]
    fn an_end_within_a_frame_is_seen() {
        let stream = stream(&[b"all".to_vec(), b"half".to_vec()]);
        for end in 0..stream.len() {
            let mut cutter = FrameCutter::new(ATTEMPT);
            cut(&mut cutter, &stream[..end], &[], 0);
            let is_between = end.is_multiple_of(HEADER_BYTES + ALIGNMENT);
            assert_eq!(cutter.is_amid_a_frame(), !is_between, "{end}");
        }
    }
}
