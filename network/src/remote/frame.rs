//! The bytes of a frame: `docs/formats/frames.md`.
//!
//! Pure functions from values to bytes and back. Whatever the bytes are, decoding ends with a value or
//! with an error.

use thiserror::Error;

/// The version that is spoken.
pub const VERSION: u8 = 1;
/// Bytes of a header. Payloads lie at multiples of [`ALIGNMENT`] if frames do.
pub const HEADER_BYTES: usize = 48;
/// Frames begin at multiples of this, and payloads too: what an archived batch needs to be read where
/// it lies.
pub const ALIGNMENT: usize = 16;
/// The longest payload. A batch that takes more is an error: of a batch there are at most 4,096 rows.
pub const PAYLOAD_MAX: usize = 256 << 20;

const MAGIC: [u8; 3] = *b"MSF";
/// Where the header's own checksum stands, which covers what is before it.
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// A batch of records. Takes a credit for data.
    Batch,
    /// A watermark, a barrier, a latency marker, the end of the input and so on. Takes a credit for
    /// control.
    Signal,
    /// A grant of credits, of both budgets. Takes none.
    Credit,
    /// A barrier that goes ahead of what has not been received. Takes none: there are only as many as
    /// checkpoints at one time.
    Overtaking,
}

impl FrameKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Batch, Self::Signal, Self::Credit, Self::Overtaking];

    fn code(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Signal => 2,
            Self::Credit => 3,
            Self::Overtaking => 4,
        }
    }
}

/// What is said about a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// The edge with both its subtasks, as both ends number them.
    pub channel: u32,
    /// The attempt of the job that the sender belongs to: what an earlier one has left on the wire is
    /// refused.
    pub attempt: u64,
    /// A hash of the records' type, and of how it is archived; what a signal or a credit has is zero.
    pub schema: u64,
    /// The number of the frame among those of its channel and budget; zero where there is no budget.
    pub number: u64,
    /// Bytes of the payload.
    pub payload_len: u32,
    /// The checksum of the payload.
    pub payload_checksum: u32,
}

impl FrameHeader {
    /// The header of a frame with this payload, which is no longer than [`PAYLOAD_MAX`].
    ///
    /// # Panics
    /// If it is longer.
    pub fn new(
        kind: FrameKind,
        channel: u32,
        attempt: u64,
        schema: u64,
        number: u64,
        payload: &[u8],
    ) -> Self {
        assert!(payload.len() <= PAYLOAD_MAX, "a payload of {} bytes", payload.len());
        Self {
            kind,
            channel,
            attempt,
            schema,
            number,
            payload_len: payload.len() as u32,
            payload_checksum: crc_fast::crc32_iscsi(payload),
        }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = VERSION;
        bytes[4] = self.kind.code();
        bytes[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.channel.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.schema.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = crc_fast::crc32_iscsi(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header, and checks all of it that can be checked without knowing the channel.
    ///
    /// # Errors
    /// If it is no header, one of another version, or damaged. What comes after it cannot be read then.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..3] != MAGIC {
            return Err(FrameError::NoFrame);
        }
        if bytes[3] != VERSION {
            return Err(FrameError::Version { found: bytes[3], known: VERSION });
        }
        if crc_fast::crc32_iscsi(&bytes[..CHECKSUM_AT]) != u32_at(CHECKSUM_AT) {
            return Err(FrameError::HeaderChecksum);
        }
        let kind = FrameKind::ALL.into_iter().find(|kind| kind.code() == bytes[4]);
        let kind = kind.ok_or(FrameError::Kind(bytes[4]))?;
        if bytes[5..8] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        let header = Self {
            kind,
            channel: u32_at(12),
            attempt: u64_at(16),
            schema: u64_at(24),
            number: u64_at(32),
            payload_len: u32_at(8),
            payload_checksum: u32_at(40),
        };
        if header.payload_bytes() > PAYLOAD_MAX {
            return Err(FrameError::TooLong { bytes: header.payload_len });
        }
        Ok(header)
    }

    /// Bytes of the payload.
    pub fn payload_bytes(&self) -> usize {
        self.payload_len as usize
    }

    /// Bytes from the end of the header to the begin of the next frame.
    pub fn padded_bytes(&self) -> usize {
        self.payload_bytes().next_multiple_of(ALIGNMENT)
    }

    /// Checks a payload against the header.
    ///
    /// # Errors
    /// If its checksum does not match.
    pub fn verify(&self, payload: &[u8]) -> Result<(), FrameError> {
        if payload.len() == self.payload_bytes()
            && crc_fast::crc32_iscsi(payload) == self.payload_checksum
        {
            Ok(())
        } else {
            Err(FrameError::PayloadChecksum { channel: self.channel, number: self.number })
        }
    }
}

/// What is received is no frame, or not one for this receiver. The connection must end, and with it the
/// attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It does not begin as a frame does.
    #[error("what was received is no frame; is the peer a worker of this cluster?")]
    NoFrame,
    /// The peer speaks another version.
    #[error(
        "a frame of version {found}, but this program knows {known}; run one version everywhere"
    )]
    Version {
        /// In the frame.
        found: u8,
        /// The one that is known.
        known: u8,
    },
    /// The header was changed on its way.
    #[error("the header of a frame is damaged: its checksum does not match")]
    HeaderChecksum,
    /// The payload was changed on its way.
    #[error("frame {number} of channel {channel} is damaged: its checksum does not match")]
    PayloadChecksum {
        /// The frame's channel.
        channel: u32,
        /// The frame's number.
        number: u64,
    },
    /// A kind that this version does not have.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// Something stands where this version has zeros.
    #[error("a frame with reserved bytes that are not zero")]
    Reserved,
    /// The length is beyond what any frame has.
    #[error("a frame of {bytes} bytes, where {PAYLOAD_MAX} are the most")]
    TooLong {
        /// Of the payload.
        bytes: u32,
    },
    /// The frame belongs to another attempt of the job.
    #[error("a frame of attempt {found} of the job came to attempt {expected}")]
    Attempt {
        /// In the frame.
        found: u64,
        /// The receiver's.
        expected: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = FrameHeader> {
        let payload = prop::collection::vec(any::<u8>(), 0..200);
        let kind = prop::sample::select(FrameKind::ALL.to_vec());
        (kind, any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), payload).prop_map(
            |(kind, channel, attempt, schema, number, payload)| {
                FrameHeader::new(kind, channel, attempt, schema, number, &payload)
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(header in headers()) {
            prop_assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn a_changed_bit_is_found(header in headers(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(FrameHeader::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: [u8; HEADER_BYTES]) {
            prop_assert!(FrameHeader::decode(&bytes).is_err());
        }

        /// With the right magic, version and checksum around it.
        #[test]
        fn what_a_liar_sends_is_checked(mut bytes: [u8; HEADER_BYTES]) {
            bytes[..3].copy_from_slice(&MAGIC);
            bytes[3] = VERSION;
            let checksum = crc_fast::crc32_iscsi(&bytes[..CHECKSUM_AT]);
            bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(header) = FrameHeader::decode(&bytes) {
                prop_assert!(header.payload_bytes() <= PAYLOAD_MAX);
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_format_stays_what_it_is() {
        let header = FrameHeader::new(FrameKind::Batch, 7, 2, 0x1122_3344_5566_7788, 9, b"records");
        let expected = [
            "4d534601 01000000 07000000 07000000",
            "02000000 00000000 88776655 44332211",
            "09000000 00000000 ",
        ];
        let expected: String = expected.concat().replace(' ', "");
        let found: String = header.encode()[..40].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, expected);
        assert_eq!(header.padded_bytes(), 16);
        assert_eq!(header.verify(b"records"), Ok(()));
        let damaged = FrameError::PayloadChecksum { channel: 7, number: 9 };
        assert_eq!(header.verify(b"recordz"), Err(damaged));
    }
}
