//! What is in memory and what is not; which segments count, and which are forgotten.

use super::segment::{Body, Lineage, Segment, Stage};
use super::{Log, PAGE};
use crate::segments::address::{Address, SEGMENTS_MAX};
use crate::segments::error::SegmentError;
use crate::segments::memory::{Buffer, View, major_faults};
use crate::segments::note::{Note, Valid};
use crate::segments::stats::SegmentStats;
use crate::{PersistDone, StateError, StateFile};
use memmap2::Mmap;
use millstream_types::CheckpointId;
use std::ops::Range;
use std::sync::Arc;

/// How much of a segment is live.
pub(in crate::segments) struct Occupancy {
    pub number: u32,
    /// All that the segment takes.
    pub bytes: u64,
    /// Its records, dead ones too.
    records: u64,
    /// What is live and has not expired.
    pub live: u64,
    /// Not even something that has expired is to be found in it.
    pub is_dead: bool,
    /// It has several extents, each with its padding.
    is_scattered: bool,
}

impl Occupancy {
    /// True if moving what is live gains more than it costs. It must not be true again afterwards.
    pub fn is_mostly_dead(&self) -> bool {
        self.live * 2 < self.records || (self.is_scattered && self.live * 2 < self.bytes)
    }
}

impl Log {
    /// Memory for a segment.
    pub(super) fn buffer(&mut self, capacity: usize) -> Result<Buffer, StateError> {
        let new = |account| {
            Buffer::counted(capacity, account)
                .map_err(|source| SegmentError::io("memory", "allocate", source).during("grow"))
        };
        if capacity != self.sizes.segment {
            return new(&self.buffers);
        }
        if let Some(spare) = self.spares.pop() {
            return Ok(spare);
        }
        let Some(writer) = &self.writer else { return new(&self.buffers) };
        let mut prepared = None;
        if self.preparing {
            // Room was made for one segment, not for two.
            let wait = self.buffers.bytes() + capacity as u64 > self.sizes.memory / 2;
            prepared = writer.prepared(wait);
            self.preparing = prepared.is_none();
        }
        let next = match prepared {
            Some(prepared) => prepared,
            None => new(&self.buffers)?,
        };
        let used = self.buffers.bytes();
        // While this one fills. Small state stays small: not with the first one.
        if !self.preparing
            && used > capacity as u64
            && used + capacity as u64 <= self.sizes.memory / 2
            && let Ok(more) = new(&self.buffers)
        {
            writer.prepare(more);
            self.preparing = true;
        }
        Ok(next)
    }

    /// Memory of segments and indexes, and for the next segment.
    #[inline]
    fn needed(&self, index_bytes: u64) -> u64 {
        let is_ready = self.preparing || !self.spares.is_empty();
        let next = if is_ready { 0 } else { self.sizes.segment as u64 };
        self.buffers.bytes() + index_bytes + next
    }

    /// True if the budget is exceeded.
    #[inline]
    pub fn is_short(&self, index_bytes: u64) -> bool {
        self.needed(index_bytes) > self.sizes.memory
    }

    /// Moves the oldest segments out of memory until the rest and the indexes fit. No
    /// [`super::Pin`] may exist. Waits for the writer if it must.
    #[cold]
    pub fn make_room(&mut self, index_bytes: u64) -> Result<(), StateError> {
        while self.is_short(index_bytes) {
            // One is on its way, or one is kept.
            if self.spares.len() > usize::from(!self.preparing) {
                self.spares.pop();
                continue;
            }
            self.collect_mapped();
            let (needed, budget) = (self.needed(index_bytes), self.sizes.memory);
            self.find_oldest_resident();
            if self.resident_from < self.mutable_from.segment() && self.move_out_oldest() {
                continue;
            }
            let Some(writer) = &self.writer else {
                return Err(SegmentError::NoDirectory { needed, budget }.during("make room"));
            };
            if self.resident_from >= self.mutable_from.segment() {
                if self.mutable_from.segment() >= self.tail {
                    // What was compacted away may still wait to be written.
                    writer.settle();
                    if !self.is_short(index_bytes) {
                        break;
                    }
                    return Err(SegmentError::Memory { needed, budget }.during("make room"));
                }
                self.seal_full();
                continue;
            }
            match writer.wait_mapped() {
                Some((number, mapping)) => self.keep_mapped(number, mapping),
                None => {
                    let unknown =
                        || SegmentError::Exhausted("the writer has ended").during("write");
                    return Err(self.failure().unwrap_or_else(unknown));
                }
            }
        }
        Ok(())
    }

    /// Moves out of memory what can leave it without waiting, if memory is short. True if it is not any
    /// more. No [`super::Pin`] may exist.
    pub fn move_out(&mut self, index_bytes: u64) -> bool {
        while self.is_short(index_bytes) {
            self.collect_mapped();
            self.find_oldest_resident();
            if self.resident_from >= self.mutable_from.segment() || !self.move_out_oldest() {
                return false;
            }
        }
        true
    }

    fn find_oldest_resident(&mut self) {
        while self.resident_from < self.mutable_from.segment()
            && !matches!(self.segments[self.resident_from as usize].body, Body::Resident(_))
        {
            self.resident_from += 1;
        }
    }

    /// The oldest segment in memory, which is sealed, is read from its file from now on, if that is
    /// mapped.
    fn move_out_oldest(&mut self) -> bool {
        let number = self.resident_from;
        let mapping = self.segments[number as usize].mapping.take();
        mapping.map(|mapping| self.replace_with(number, mapping)).is_some()
    }

    /// Takes what the writer has mapped.
    pub(super) fn collect_mapped(&mut self) {
        while let Some((number, mapping)) = self.writer.as_ref().and_then(|writer| writer.mapped())
        {
            self.keep_mapped(number, mapping);
        }
    }

    fn keep_mapped(&mut self, number: u32, mapping: Mmap) {
        let segment = &mut self.segments[number as usize];
        if matches!(segment.body, Body::Resident(_)) {
            segment.mapping = Some(mapping);
        } else {
            self.unmap(mapping);
        }
    }

    /// Lets go of a mapping, not on this thread.
    pub(super) fn unmap(&self, mapping: Mmap) {
        if let Some(writer) = &self.writer {
            writer.unmap(mapping);
        }
    }

    /// From now on the segment is read from its file.
    fn replace_with(&mut self, number: u32, mapping: Mmap) {
        let segment = &mut self.segments[number as usize];
        self.views[number as usize] = View::mapped(&mapping, segment.closed);
        let before = std::mem::replace(&mut segment.body, Body::Mapped(mapping));
        self.mapped += 1;
        self.give_back(before);
    }

    pub(super) fn give_back(&mut self, body: Body) {
        let buffer = match body {
            Body::Resident(buffer) => buffer,
            Body::Mapped(mapping) => return self.unmap(mapping),
            Body::Gone => return,
        };
        let size = self.sizes.segment as u64;
        // If the writer still has it, it goes when the writer lets go.
        if let Ok(buffer) = Arc::try_unwrap(buffer)
            && buffer.len() as u64 == size
        {
            self.spares.push(buffer);
        }
        // For the next segments, which need not wait then until the host has cleared memory; a part of
        // what is in use, so that small state stays small.
        let least = usize::from(!self.preparing);
        while self.spares.len() > least {
            let spare = self.spares.len() as u64 * size;
            if spare <= (self.buffers.bytes() - spare) / 3 {
                break;
            }
            self.spares.pop();
        }
    }

    /// Adds a segment of an earlier run, and returns its number.
    pub fn adopt(
        &mut self,
        name: String,
        mapping: Mmap,
        len: usize,
        extents: Vec<Range<usize>>,
        records: u64,
        lineage: Lineage,
    ) -> Result<u32, SegmentError> {
        let number = self.segments.len() as u32;
        if number >= SEGMENTS_MAX {
            return Err(SegmentError::Exhausted("the log has used up its addresses"));
        }
        self.views.push(View::mapped(&mapping, len));
        self.mapped += 1;
        let mut segment = Segment::new(Body::Mapped(mapping), name, Arc::default());
        (segment.closed, segment.filled) = (len, len);
        segment.appended = extents.iter().map(|extent| extent.len() as u64).sum();
        let bytes = segment.appended;
        segment.extents = extents;
        (segment.lineage, segment.listed) = (lineage, true);
        self.segments.push(segment);
        self.note_lengths(bytes as usize, records as usize);
        self.mutable_from = Address::new(number + 1, 0);
        (self.resident_from, self.tail) = (number + 1, number + 1);
        Ok(number)
    }

    /// Seals everything and has the writer tell `done` when it is durable.
    pub fn persist(&mut self, checkpoint: CheckpointId, owned: Valid, done: PersistDone) {
        if self.writer.is_none() {
            return done(Err(SegmentError::Nowhere.during("write a checkpoint")));
        }
        let Some(next) = u32::try_from(checkpoint.0).ok().and_then(|id| id.checked_add(1)) else {
            let error = SegmentError::Exhausted("checkpoints are numbered below 2^32 - 1");
            return done(Err(error.during("write a checkpoint")));
        };
        self.seal_all();
        let own_note = Note { epoch_limit: u32::MAX, valid: owned.clone() }.encode();
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for number in self.oldest..self.segments.len() as u32 {
            let segment = &mut self.segments[number as usize];
            let needed = match segment.stage {
                Stage::InUse => true,
                Stage::Retired { needed_before } => next - 1 < needed_before,
                Stage::Forgotten => false,
            };
            if !needed || segment.closed == 0 {
                continue;
            }
            segment.listed = true;
            let note = match &segment.lineage {
                Lineage::Own => own_note.clone(),
                Lineage::Restored { note, .. } => note.encode(),
            };
            files.push(StateFile { name: segment.name.clone(), len: segment.closed as u64, note });
            parts.push((number, segment.closed));
        }
        self.note_persisted(next - 1, parts, owned);
        self.persisted = self.persisted.max(next);
        if let Some(writer) = &self.writer {
            writer.sync(files, done);
        }
        self.forget();
    }

    /// Nothing in the segment is live any more. No [`super::Pin`] may exist.
    pub fn retire(&mut self, number: u32) {
        self.write_off(number);
        let is_durable = self.is_durable();
        let segment = &mut self.segments[number as usize];
        debug_assert_eq!(segment.live, 0, "all that is live has moved");
        self.views[number as usize] = View::GONE;
        segment.stage = if is_durable {
            Stage::Retired { needed_before: self.epoch_max }
        } else {
            Stage::Forgotten
        };
        let unread = segment.mapping.take();
        let body = std::mem::replace(&mut segment.body, Body::Gone);
        self.mapped -= u32::from(matches!(body, Body::Mapped(_)));
        unread.into_iter().for_each(|mapping| self.unmap(mapping));
        self.give_back(body);
        self.forget();
        self.look_for_crowding();
    }

    /// These records of the segment must stay for now, and nothing else matters in it.
    pub fn hold(&mut self, number: u32, records: Vec<Range<usize>>) {
        let until = self.segments.len() as u32 + 4;
        let segment = &mut self.segments[number as usize];
        (segment.held_until, segment.held) = (until, Some(records));
    }

    /// Decides whether writers must help with compaction: beyond 2.25 times of what is live, so that
    /// disk and memory stay below three times, unless within one checkpoint's interval far more than a
    /// tenth of the state is changed: what the last checkpoint refers to stays until the next.
    pub(super) fn look_for_crowding(&mut self) {
        let (mut total, mut expired) = (0, 0);
        for one in self.sealed() {
            total += one.bytes;
            expired += self.segments[one.number as usize].live - one.live;
        }
        let live = self.live.saturating_sub(self.removals + expired);
        let allowed = live / 4 * 9 + 4 * self.sizes.segment as u64;
        // One that is due already is not put off.
        let next = self.appended + self.least_between_steps();
        self.compact_at = (total > allowed).then(|| self.compact_at.unwrap_or(next).min(next));
        if !self.expired_segments().is_empty() {
            self.compact_at = Some(self.appended);
        }
    }

    /// A step of compaction has been taken, which has passed over so many dead bytes. The next one is
    /// due when half as many have been written, so that the log shrinks by as much as is written.
    pub fn compacted(&mut self, dead: u64) {
        let next = self.appended + (dead / 2).max(self.least_between_steps());
        self.compact_at = self.compact_at.map(|_| next);
    }

    /// Bytes that are written at the least between two steps of compaction. A step goes through 64 KiB,
    /// or a segment.
    fn least_between_steps(&self) -> u64 {
        (self.sizes.segment as u64 / 4).min(16 << 10)
    }

    /// There was nothing to compact.
    pub fn not_crowded(&mut self) {
        self.compact_at = None;
    }

    /// True if a later checkpoint may refer to a segment, other than this one, that is not after
    /// the one of the address.
    pub fn holds_up_to(&self, bound: Address, but: u32) -> bool {
        (self.oldest..=bound.segment()).filter(|number| *number != but).any(|number| {
            self.segments.get(number as usize).is_some_and(|s| s.stage != Stage::Forgotten)
        })
    }

    /// Forgets retired segments that no later checkpoint needs.
    fn forget(&mut self) {
        // Whether or not memory is ever short: a mapping keeps the space of its file, deleted or not.
        self.collect_mapped();
        for number in self.oldest..self.segments.len() as u32 {
            let segment = &mut self.segments[number as usize];
            if let Stage::Retired { needed_before } = segment.stage
                && needed_before <= self.persisted
            {
                segment.stage = Stage::Forgotten;
                self.delete_unlisted(number);
            }
        }
        while self.segments.get(self.oldest as usize).is_some_and(|s| s.stage == Stage::Forgotten) {
            self.oldest += 1;
        }
    }

    /// Deletes the file of a segment, unless a checkpoint may refer to it.
    pub(super) fn delete_unlisted(&self, number: u32) {
        let segment = &self.segments[number as usize];
        if segment.listed || segment.closed == 0 {
            return;
        }
        if let Some(writer) = &self.writer {
            writer.delete(number, segment.name.clone());
        } else if let Some(directory) = &self.directory {
            // A file that stays behind costs space; what collects orphans will find it.
            let _ = std::fs::remove_file(directory.join(&segment.name));
        }
    }

    /// The least number of a segment that a later checkpoint may refer to.
    pub fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Segments that may be compacted.
    pub fn sealed(&self) -> impl Iterator<Item = Occupancy> {
        let end = if self.is_durable() {
            self.mutable_from.segment()
        } else if self.tail_end > 0 {
            self.tail
        } else {
            0
        };
        let unexpired = self.unexpired();
        (self.oldest..end)
            .map(|number| (number, &self.segments[number as usize]))
            .filter(|(_, segment)| segment.stage == Stage::InUse)
            .filter(|(_, segment)| segment.held_until <= self.segments.len() as u32)
            .map(move |(number, segment)| Occupancy {
                number,
                bytes: segment.filled as u64,
                records: segment.appended,
                live: self.unexpired_bytes(number, &unexpired),
                is_dead: segment.live == 0,
                is_scattered: segment.extents.len() > 1,
            })
    }

    /// The number of the next segment.
    pub fn next_number(&self) -> u32 {
        self.segments.len() as u32
    }

    pub fn segment(&self, number: u32) -> &Segment {
        &self.segments[number as usize]
    }

    /// Live bytes, and how many of them say that something is removed.
    pub fn live(&self) -> (u64, u64) {
        (self.live, self.removals)
    }

    pub fn stats(&self, index_bytes: u64) -> SegmentStats {
        let in_use =
            || self.segments[self.oldest as usize..].iter().filter(|s| s.stage != Stage::Forgotten);
        let total: u64 = in_use()
            .filter(|segment| segment.stage == Stage::InUse)
            .map(|segment| (segment.filled - PAGE) as u64)
            .sum();
        let open = if self.tail_end > 0 {
            self.fill - self.segments[self.tail as usize].filled
        } else {
            0
        };
        SegmentStats {
            segments: in_use().count() as u64,
            live_bytes: self.live,
            dead_bytes: (total + open as u64).saturating_sub(self.live),
            cold_bytes: in_use()
                .filter(|segment| matches!(segment.body, Body::Mapped(_)))
                .map(|segment| segment.closed as u64)
                .sum(),
            cold_reads: self.cold_reads.get(),
            cold_read_bytes: self.cold_read_bytes.get(),
            cold_asked_bytes: self.cold_asked_bytes.get(),
            major_faults: self.faults_before + self.faults_of_thread(),
            resident_bytes: self.buffers.bytes(),
            index_bytes,
            removal_bytes: self.removals,
            appended_bytes: self.appended,
            expired_segments: self.expired.segments,
            expired_records: self.expired.records,
            expired_bytes: self.expired.bytes,
            rollbacks: self.cuts.rollbacks(),
            written_bytes: self.written_before
                + self.writer.as_ref().map_or(0, |writer| writer.bytes_written()),
        }
    }

    /// Major faults of this thread since it uses the store.
    pub(super) fn faults_of_thread(&self) -> u64 {
        major_faults().saturating_sub(self.major_faults)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // What was written since the last checkpoint is of no use to anyone.
        for number in 0..self.segments.len() as u32 {
            if self.segments[number as usize].stage != Stage::Forgotten {
                self.delete_unlisted(number);
            }
        }
    }
}
