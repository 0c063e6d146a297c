//! One subtask's part of a simulated checkpoint, and the bytes of the snapshot file that holds it.
//!
//! Every subtask counts as a slot of its own. Its segments stand in the manifest; the rest is in the
//! snapshot file.

use crate::plan::MAX_PARALLELISM;
use crate::record::Record;
use millstream_protocol::{SlotEntry, StateFileEntry, SubtaskId, manifest::layout};
use millstream_types::{CheckpointId, KeyGroupRange, SlotIndex, SubtaskIndex, VertexId};

/// A segment file and the part of it that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRef {
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) checksum: u64,
    /// Entries of other key groups are another subtask's.
    pub(crate) groups: KeyGroupRange,
}

/// What a subtask contributes.
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

/// The slot that a subtask counts as.
pub(crate) fn slot_of(subtask: SubtaskId) -> SlotIndex {
    SlotIndex(subtask.vertex.0 * u32::from(MAX_PARALLELISM) + subtask.subtask.0)
}

/// Where a subtask's snapshot lies.
pub(crate) fn snapshot_path(checkpoint: CheckpointId, subtask: SubtaskId) -> String {
    layout::checkpoint_path(checkpoint, &layout::snapshot_name(slot_of(subtask)))
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

    /// The bytes of the snapshot file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.number(self.subtask.vertex.0.into());
        out.number(self.subtask.subtask.0.into());
        out.list(&self.offsets, |out, (split, offset)| {
            out.number((*split).into());
            out.number(*offset);
        });
        out.list(&self.transactions, |out, name| {
            out.number(name.len() as u64);
            out.0.extend_from_slice(name.as_bytes());
        });
        out.list(&self.in_flight, |out, (vertex, record)| {
            out.number(vertex.0.into());
            out.number(record.key);
            out.number(record.count);
        });
        out.0
    }

    /// What stands in the manifest for this part.
    pub(crate) fn entry(&self) -> SlotEntry {
        let slot = slot_of(self.subtask);
        let note = |segment: &SegmentRef| {
            let mut out = Writer(Vec::new());
            out.number(segment.checksum);
            out.number(segment.groups.0.start.into());
            out.number(segment.groups.0.end.into());
            out.0
        };
        let state_file = |segment: &SegmentRef| StateFileEntry {
            name: segment.name.clone(),
            len: segment.len,
            note: note(segment),
        };
        SlotEntry {
            slot,
            snapshot: millstream_protocol::FileEntry::of(
                layout::snapshot_name(slot),
                &self.encode(),
            ),
            state_files: self.segments.iter().map(state_file).collect(),
        }
    }

    /// The part of which the manifest has this entry, and the snapshot file these bytes. `None` if
    /// either is not what a part writes.
    pub(crate) fn decode(entry: &SlotEntry, snapshot: &[u8]) -> Option<Self> {
        let mut input = Reader(snapshot);
        let vertex = VertexId(input.small()?);
        let part = Self {
            subtask: SubtaskId { vertex, subtask: SubtaskIndex(input.small()?) },
            offsets: input.list(|input| Some((input.small()?, input.number()?)))?,
            segments: entry.state_files.iter().map(segment).collect::<Option<_>>()?,
            transactions: input.list(Reader::text)?,
            in_flight: input.list(|input| {
                let vertex = VertexId(input.small()?);
                Some((vertex, Record { key: input.number()?, count: input.number()? }))
            })?,
        };
        input.0.is_empty().then_some(part)
    }
}

fn segment(file: &StateFileEntry) -> Option<SegmentRef> {
    let mut note = Reader(&file.note);
    let checksum = note.number()?;
    let groups = note.group()?..note.group()?;
    let (name, groups) = (file.name.clone(), KeyGroupRange(groups));
    Some(SegmentRef { name, len: file.len, checksum, groups })
}

/// FNV-1a: enough for a segment to see a flipped bit or a torn tail.
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

    #[test]
    fn a_part_is_read_as_it_was_written() {
        let subtask = SubtaskId { vertex: VertexId(1), subtask: SubtaskIndex(2) };
        let segment = SegmentRef {
            name: "segment-7".to_owned(),
            len: 80,
            checksum: 12,
            groups: KeyGroupRange(3..9),
        };
        let part = Part {
            offsets: vec![(1, 70)],
            segments: vec![segment],
            transactions: vec!["staged-7".to_owned()],
            in_flight: vec![(VertexId(2), Record { key: 5, count: 6 })],
            ..Part::new(subtask)
        };
        let bytes = part.encode();
        assert_eq!(Part::decode(&part.entry(), &bytes), Some(part.clone()));
        assert_eq!(Part::decode(&part.entry(), &bytes[1..]), None);
    }
}
