//! What a simulated checkpoint consists of, and the bytes in which its manifest is stored.

use crate::record::Record;
use millstream_protocol::{CheckpointKind, SubtaskId};
use millstream_types::{CheckpointId, KeyGroupRange, SubtaskIndex, VertexId};

/// A segment file and the part of it that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRef {
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) checksum: u64,
    /// Entries of other key groups are another subtask's.
    pub(crate) groups: KeyGroupRange,
}

/// One subtask's part of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) subtask: SubtaskId,
    /// Of a source: how far each of its splits was read.
    pub(crate) offsets: Vec<(u32, u64)>,
    /// Of a keyed operator: its segments, oldest first.
    pub(crate) segments: Vec<SegmentRef>,
    /// Of a sink: what was prepared and is not known to be committed.
    pub(crate) transactions: Vec<String>,
    /// What barriers overtook, with the vertex that it was on its way to.
    pub(crate) in_flight: Vec<(VertexId, Record)>,
}

impl Part {
    pub(crate) fn new(subtask: SubtaskId) -> Self {
        Self {
            subtask,
            offsets: Vec::new(),
            segments: Vec::new(),
            transactions: Vec::new(),
            in_flight: Vec::new(),
        }
    }
}

/// A checkpoint, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) checkpoint: CheckpointId,
    /// True if its user owns it.
    pub(crate) savepoint: bool,
    pub(crate) parts: Vec<Part>,
}

impl Manifest {
    pub(crate) fn new(checkpoint: CheckpointId, kind: CheckpointKind, parts: Vec<Part>) -> Self {
        Self { checkpoint, savepoint: kind == CheckpointKind::Savepoint, parts }
    }

    /// The state files that it names, some perhaps several times.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.segments().map(|segment| segment.name.as_str())
    }

    /// The segments that it names.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &SegmentRef> {
        self.parts.iter().flat_map(|part| &part.segments)
    }

    /// The prepared transactions that it names.
    pub(crate) fn transactions(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| &part.transactions).map(String::as_str)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(VERSION.to_vec());
        out.number(self.checkpoint.0);
        out.number(self.savepoint.into());
        out.list(&self.parts, |out, part| {
            out.number(part.subtask.vertex.0.into());
            out.number(part.subtask.subtask.0.into());
            out.list(&part.offsets, |out, (split, offset)| {
                out.number((*split).into());
                out.number(*offset);
            });
            out.list(&part.segments, |out, segment| {
                out.text(&segment.name);
                out.number(segment.len);
                out.number(segment.checksum);
                out.number(segment.groups.0.start.into());
                out.number(segment.groups.0.end.into());
            });
            out.list(&part.transactions, |out, name| out.text(name));
            out.list(&part.in_flight, |out, (vertex, record)| {
                out.number(vertex.0.into());
                out.number(record.key);
                out.number(record.count);
            });
        });
        let sum = checksum(&out.0);
        out.number(sum);
        out.0
    }

    /// `None` if the bytes are not what [`encode`](Self::encode) has made.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return None;
        }
        let mut input = Reader(body.strip_prefix(VERSION)?);
        let manifest = Self {
            checkpoint: CheckpointId(input.number()?),
            savepoint: input.number()? != 0,
            parts: input.list(|input| {
                Some(Part {
                    subtask: SubtaskId {
                        vertex: VertexId(input.small()?),
                        subtask: SubtaskIndex(input.small()?),
                    },
                    offsets: input.list(|input| Some((input.small()?, input.number()?)))?,
                    segments: input.list(|input| {
                        Some(SegmentRef {
                            name: input.text()?,
                            len: input.number()?,
                            checksum: input.number()?,
                            groups: KeyGroupRange(input.group()?..input.group()?),
                        })
                    })?,
                    transactions: input.list(Reader::text)?,
                    in_flight: input.list(|input| {
                        let vertex = VertexId(input.small()?);
                        Some((vertex, Record { key: input.number()?, count: input.number()? }))
                    })?,
                })
            })?,
        };
        input.0.is_empty().then_some(manifest)
    }
}

const VERSION: &[u8] = b"sim1";

/// FNV-1a: enough to see a flipped bit or a torn tail.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn list<T>(&mut self, items: &[T], each: impl Fn(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| each(self, item));
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn group(&mut self) -> Option<u16> {
        self.number()?.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn list<T>(&mut self, each: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| each(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let subtask = SubtaskId { vertex: VertexId(1), subtask: SubtaskIndex(2) };
        let segment = SegmentRef {
            name: "seg-7".to_owned(),
            len: 80,
            checksum: 12,
            groups: KeyGroupRange(3..9),
        };
        let part = Part {
            offsets: vec![(1, 70)],
            segments: vec![segment],
            transactions: vec!["txn-7".to_owned()],
            in_flight: vec![(VertexId(2), Record { key: 5, count: 6 })],
            ..Part::new(subtask)
        };
        Manifest::new(CheckpointId(7), CheckpointKind::Savepoint, vec![part])
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        assert_eq!(Manifest::decode(&manifest().encode()), Some(manifest()));
    }

    #[test]
    fn a_flipped_bit_or_a_missing_end_is_seen() {
        let bytes = manifest().encode();
        for at in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..at]), None);
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            assert_eq!(Manifest::decode(&rotten), None);
        }
    }
}
