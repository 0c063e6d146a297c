//! The state of one keyed subtask: a map in memory, and segment files from which it can be restored.
//!
//! A cut writes what has changed since the cut before as a new segment; a checkpoint names it and
//! all earlier ones. Compaction merges the oldest segments into one, in the background; checkpoints
//! that name the old ones keep them alive.
//!
//! # Invariants
//! - Read in order, the live segments and the dirty keys give the map.
//! - A segment's name is never given to another; a segment that failed is written again under a new
//!   one, at its old place, so that no change is lost with an aborted checkpoint.

use crate::hosts::AttemptId;
use crate::names;
use crate::part::{SegmentRef, checksum};
use crate::plan::group_of;
use millstream_protocol::SubtaskId;
use millstream_types::{CheckpointId, KeyGroupRange};
use std::collections::{BTreeMap, BTreeSet};

/// What is kept of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Value {
    /// How often it was counted.
    pub(crate) count: u64,
    /// The last count that was emitted.
    pub(crate) emitted: u64,
}

type Entries = BTreeMap<u64, Value>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Writing,
    Durable,
    Failed,
}

#[derive(Clone, Debug)]
struct Segment {
    reference: SegmentRef,
    /// Its own key groups' entries.
    entries: Entries,
    progress: Progress,
}

/// A file to be written, synced, and its name with it.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// What a cut leaves to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// What the checkpoint names.
    pub(crate) segments: Vec<SegmentRef>,
    /// Those of them that are not durable yet.
    pub(crate) waiting: BTreeSet<String>,
    /// What is to be written.
    pub(crate) writes: Vec<Write>,
}

#[derive(Clone, Debug)]
struct Compaction {
    merged: Segment,
    /// How many of the oldest segments it replaces.
    count: usize,
}

/// So many segments are merged into one.
const SEGMENTS_MAX: usize = 4;

#[derive(Clone, Debug)]
pub(crate) struct Store {
    owner: SubtaskId,
    attempt: AttemptId,
    groups: KeyGroupRange,
    values: Entries,
    dirty: BTreeSet<u64>,
    segments: Vec<Segment>,
    compaction: Option<Compaction>,
    epoch: CheckpointId,
    written: u32,
}

impl Store {
    /// An empty store of a run whose first epoch this is.
    pub(crate) fn new(
        owner: SubtaskId,
        attempt: AttemptId,
        groups: KeyGroupRange,
        epoch: CheckpointId,
    ) -> Self {
        Self {
            owner,
            attempt,
            groups,
            values: Entries::new(),
            dirty: BTreeSet::new(),
            segments: Vec::new(),
            compaction: None,
            epoch,
            written: 0,
        }
    }

    /// Whether a segment has key groups of this store.
    pub(crate) fn needs(&self, reference: &SegmentRef) -> bool {
        let KeyGroupRange(groups) = &reference.groups;
        groups.start.max(self.groups.0.start) < groups.end.min(self.groups.0.end)
    }

    /// Adds a segment of a checkpoint, in its order, with the bytes of its file, which is to be
    /// [written](Self::on_written) to replicas or is durable. `None` if they are not entries.
    pub(crate) fn restore(
        &mut self,
        reference: &SegmentRef,
        bytes: &[u8],
        is_durable: bool,
    ) -> Option<()> {
        let groups = reference.groups.0.start.max(self.groups.0.start)
            ..reference.groups.0.end.min(self.groups.0.end);
        let reference = SegmentRef { groups: KeyGroupRange(groups), ..reference.clone() };
        let entries: Entries = decode(bytes)?
            .into_iter()
            .filter(|(key, _)| reference.groups.contains(group_of(*key)))
            .collect();
        self.values.extend(&entries);
        let progress = if is_durable { Progress::Durable } else { Progress::Writing };
        self.segments.push(Segment { reference, entries, progress });
        Some(())
    }

    /// The segments that are not durable yet.
    pub(crate) fn unwritten(&self) -> impl Iterator<Item = &str> {
        let writing = self.segments.iter().filter(|one| one.progress == Progress::Writing);
        writing.map(|segment| segment.reference.name.as_str())
    }

    /// Changes the value of a key.
    pub(crate) fn update<R>(&mut self, key: u64, change: impl FnOnce(&mut Value) -> R) -> R {
        self.dirty.insert(key);
        change(self.values.entry(key).or_default())
    }

    /// The keys of which something was counted and not emitted.
    pub(crate) fn unemitted(&self) -> Vec<u64> {
        let unemitted = self.values.iter().filter(|(_, value)| value.emitted < value.count);
        unemitted.map(|(key, _)| *key).collect()
    }

    /// What was changed so far belongs to a checkpoint.
    pub(crate) fn cut(&mut self, checkpoint: CheckpointId) -> Cut {
        let mut writes = Vec::new();
        self.epoch = self.epoch.max(checkpoint);
        for at in 0..self.segments.len() {
            if self.segments[at].progress == Progress::Failed {
                let entries = std::mem::take(&mut self.segments[at].entries);
                self.segments[at] = self.segment(entries, &mut writes);
            }
        }
        if !self.dirty.is_empty() {
            let dirty = std::mem::take(&mut self.dirty);
            let entries = dirty.into_iter().map(|key| (key, self.values[&key])).collect();
            let segment = self.segment(entries, &mut writes);
            self.segments.push(segment);
        }
        Cut {
            segments: self.segments.iter().map(|segment| segment.reference.clone()).collect(),
            waiting: self.unwritten().map(str::to_owned).collect(),
            writes,
        }
    }

    /// A segment is durable, or is not and will not be. Returns false if it is not one of a cut.
    pub(crate) fn on_written(&mut self, name: &str, ok: bool) -> bool {
        // After another number of subtasks, several parts of it may be this store's.
        let mut is_known = false;
        for segment in self.segments.iter_mut().filter(|one| one.reference.name == name) {
            segment.progress = if ok { Progress::Durable } else { Progress::Failed };
            is_known = true;
        }
        is_known
    }

    /// Begins to merge the oldest segments, if there are many.
    pub(crate) fn compact(&mut self) -> Option<Write> {
        let durable = |segment: &&Segment| segment.progress == Progress::Durable;
        let count = self.segments.iter().take_while(durable).count();
        if count < SEGMENTS_MAX || self.compaction.is_some() {
            return None;
        }
        let mut entries = Entries::new();
        for segment in &self.segments[..count] {
            entries.extend(&segment.entries);
        }
        let mut writes = Vec::new();
        let merged = self.segment(entries, &mut writes);
        self.compaction = Some(Compaction { merged, count });
        writes.pop()
    }

    /// The merged segment is durable, or will not be. Returns the segments that it replaces.
    pub(crate) fn on_compacted(&mut self, ok: bool) -> Vec<String> {
        let Some(Compaction { mut merged, count }) = self.compaction.take() else {
            return Vec::new();
        };
        if !ok {
            return vec![merged.reference.name];
        }
        merged.progress = Progress::Durable;
        let replaced = self.segments.splice(..count, [merged]);
        replaced.map(|segment| segment.reference.name).collect()
    }

    /// The segments that the next checkpoint may name.
    pub(crate) fn live(&self) -> impl Iterator<Item = &str> {
        let merging = self.compaction.iter().map(|compaction| &compaction.merged);
        self.segments.iter().chain(merging).map(|segment| segment.reference.name.as_str())
    }

    fn segment(&mut self, entries: Entries, writes: &mut Vec<Write>) -> Segment {
        self.written += 1;
        let name = names::segment(self.epoch, self.owner, self.attempt, self.written);
        let bytes = encode(&entries);
        let reference = SegmentRef {
            name: name.clone(),
            len: bytes.len() as u64,
            checksum: checksum(&bytes),
            groups: self.groups.clone(),
        };
        writes.push(Write { name, bytes });
        Segment { reference, entries, progress: Progress::Writing }
    }
}

fn encode(entries: &Entries) -> Vec<u8> {
    let entry = |(key, value): (&u64, &Value)| [*key, value.count, value.emitted];
    entries.iter().flat_map(entry).flat_map(u64::to_le_bytes).collect()
}

fn decode(bytes: &[u8]) -> Option<Entries> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let (entries, odd) = numbers.as_chunks::<3>();
    let entry = |[key, count, emitted]: &[[u8; 8]; 3]| {
        let value =
            Value { count: u64::from_le_bytes(*count), emitted: u64::from_le_bytes(*emitted) };
        (u64::from_le_bytes(*key), value)
    };
    (rest.is_empty() && odd.is_empty()).then(|| entries.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::{SubtaskIndex, VertexId};

    fn store() -> Store {
        let owner = SubtaskId { vertex: VertexId(1), subtask: SubtaskIndex(0) };
        Store::new(owner, 1, KeyGroupRange(0..16), CheckpointId(1))
    }

    fn count(store: &mut Store, key: u64) {
        store.update(key, |value| value.count += 1);
    }

    fn cut(store: &mut Store, checkpoint: u64, ok: bool) -> Cut {
        let cut = store.cut(CheckpointId(checkpoint));
        for write in &cut.writes {
            assert!(store.on_written(&write.name, ok));
        }
        cut
    }

    fn restored(files: &BTreeMap<String, Vec<u8>>, segments: &[SegmentRef]) -> Entries {
        let mut store = store();
        for segment in segments {
            store.restore(segment, &files[&segment.name], true).unwrap();
        }
        store.values
    }

    #[test]
    fn a_cut_writes_what_has_changed_and_names_the_rest() {
        let mut store = store();
        (0..9).for_each(|key| count(&mut store, key));
        let first = cut(&mut store, 1, true);
        assert_eq!((first.segments.len(), first.writes[0].bytes.len()), (1, 9 * 24));
        count(&mut store, 3);
        let second = cut(&mut store, 2, true);
        assert_eq!((second.segments.len(), second.writes[0].bytes.len()), (2, 24));
        assert_eq!(cut(&mut store, 3, true).writes.len(), 0);
    }

    #[test]
    fn what_failed_is_written_again_at_its_place() {
        let mut store = store();
        count(&mut store, 1);
        let failed = cut(&mut store, 1, false);
        count(&mut store, 1);
        let second = cut(&mut store, 2, true);
        assert_eq!(second.writes.len(), 2);
        assert_ne!(second.segments[0].name, failed.segments[0].name);
        let files = second.writes.into_iter().map(|write| (write.name, write.bytes)).collect();
        assert_eq!(restored(&files, &second.segments), store.values);
    }

    #[test]
    fn compaction_replaces_the_oldest_and_changes_nothing() {
        let (mut store, mut files) = (store(), BTreeMap::new());
        for round in 1..=SEGMENTS_MAX as u64 {
            (0..round).for_each(|key| count(&mut store, key));
            let cut = cut(&mut store, round, true);
            files.extend(cut.writes.into_iter().map(|write| (write.name, write.bytes)));
        }
        let write = store.compact().unwrap();
        assert!(store.compact().is_none(), "one at a time");
        count(&mut store, 0);
        let meanwhile = cut(&mut store, 9, true);
        assert_eq!(store.on_compacted(true).len(), SEGMENTS_MAX);
        let after = store.cut(CheckpointId(10));
        files.extend(meanwhile.writes.into_iter().chain([write]).map(|one| (one.name, one.bytes)));
        assert_eq!(after.segments.len(), 2);
        assert_eq!(restored(&files, &meanwhile.segments), store.values);
        assert_eq!(restored(&files, &after.segments), store.values);
    }
}
