//! What checkpoints have cut, and the way back to one of them.
//!
//! The log as it was at a checkpoint is still there, before what was written since: nothing of it has been
//! changed in place. So the way back is to cut off the rest, and to take up again what has been retired
//! meanwhile, whose files the checkpoint keeps. Where the index leads then is for
//! [`rollback`](crate::segments::rollback) to say.

use super::segment::{Body, Lineage, Stage};
use super::{Address, Log};
use crate::StateFile;
use crate::segments::error::SegmentError;
use crate::segments::format::decode;
use crate::segments::mapping;
use crate::segments::memory::View;
use crate::segments::note::{Note, Valid};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// So many are remembered: the newest that is complete, and what may become so.
const CUTS_MAX: usize = 8;

/// The checkpoints that a log can go back to.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// Ascending.
    cuts: Vec<Cut>,
    /// The newest that ever was among them: one that was forgotten must not come back with the cut of the
    /// next member, behind which there is not all that the first has done since.
    newest: Option<u32>,
    /// The newest that was forgotten for want of memory.
    crowded_out: Option<u32>,
    rollbacks: u64,
}

impl Cuts {
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks
    }
}

/// A checkpoint that the log has cut.
#[derive(Clone, Debug)]
pub(in crate::segments) struct Cut {
    checkpoint: u32,
    /// Records of later epochs lie from here on.
    pub from: Address,
    /// What is behind this does not belong to it; nothing yet, if it is not persisted.
    end: Option<Address>,
    /// Its segments, ascending, and how much of the file of each.
    pub segments: Vec<(u32, usize)>,
    /// Operators and key groups of which it is the truth.
    owned: Valid,
}

impl Log {
    /// Where the next record goes, at the earliest.
    fn end(&self) -> Address {
        if self.fill < self.tail_end {
            Address::new(self.tail, self.fill)
        } else {
            Address::new(self.next_number(), 0)
        }
    }

    /// A member has cut for a checkpoint.
    pub fn note_cut(&mut self, checkpoint: u32) {
        if self.is_durable() && self.cuts.newest < Some(checkpoint) {
            self.cuts.newest = Some(checkpoint);
            let from = self.end();
            let (end, segments, owned) = (None, Vec::new(), Valid::new());
            self.cuts.cuts.push(Cut { checkpoint, from, end, segments, owned });
            if self.cuts.cuts.len() > CUTS_MAX {
                self.cuts.cuts.remove(1);
            }
        }
    }

    /// What of the log belongs to a checkpoint, which is sealed.
    pub(super) fn note_persisted(
        &mut self,
        checkpoint: u32,
        segments: Vec<(u32, usize)>,
        owned: Valid,
    ) {
        let end = self.mutable_from;
        if let Some(cut) = self.cuts.cuts.iter_mut().find(|cut| cut.checkpoint == checkpoint) {
            (cut.end, cut.segments, cut.owned) = (Some(end), segments, owned);
        }
    }

    /// All that there is, is what the checkpoint holds.
    pub fn note_restored(&mut self, checkpoint: u32, owned: Valid) {
        self.note_cut(checkpoint);
        let segments = (0..).zip(&self.segments).map(|(number, one)| (number, one.closed));
        let segments = segments.collect();
        self.note_persisted(checkpoint, segments, owned);
    }

    /// Nobody goes back to a checkpoint before this one.
    pub fn forget_cuts(&mut self, before: u32) {
        self.cuts.cuts.retain(|cut| cut.checkpoint >= before);
        self.merges.forget_before(self.oldest_cut());
    }

    /// A piece has taken in others, the newest of which is this.
    pub fn note_merge(&mut self, piece: Address, newest: Address) {
        if !self.cuts.cuts.is_empty() {
            self.merges.note(piece, newest);
        }
    }

    /// A checkpoint has been given up. If all members have cut it may be complete all the same.
    pub fn forget_unfinished(&mut self, checkpoint: u32) {
        self.cuts.cuts.retain(|cut| cut.checkpoint != checkpoint || cut.end.is_some());
    }

    /// Where the oldest cut begins: what was done before is never taken back.
    pub fn oldest_cut(&self) -> Address {
        self.cuts.cuts.first().map_or_else(|| self.end(), |cut| cut.from)
    }

    /// True if something whose first record lies here is part of a checkpoint to go back to.
    pub fn is_cut_behind(&self, first: Address) -> bool {
        self.cuts.cuts.iter().any(|cut| cut.holds(first))
    }

    /// Something whose first record lies here is gone for good, so that there is no way back to a checkpoint
    /// that has it.
    pub fn forget_cuts_behind(&mut self, first: Address) {
        let forgotten = self.cuts.cuts.iter().rfind(|cut| cut.holds(first));
        self.cuts.crowded_out = self.cuts.crowded_out.max(forgotten.map(|cut| cut.checkpoint));
        self.cuts.cuts.retain(|cut| !cut.holds(first));
    }

    /// The cut of a checkpoint of which these are the files, or why there is none.
    pub fn cut_of(&self, checkpoint: u32, files: &[&StateFile]) -> Result<&Cut, &'static str> {
        let found = self.cuts.cuts.iter().find(|cut| cut.checkpoint == checkpoint);
        let cut = found.ok_or(match self.cuts.crowded_out {
            Some(newest) if checkpoint <= newest => "memory was short",
            _ => "another checkpoint",
        })?;
        let lens: HashMap<&str, u64> =
            files.iter().map(|file| (file.name.as_str(), file.len)).collect();
        let is_of = |(number, len): &(u32, usize)| {
            let name = self.segments[*number as usize].name.as_str();
            lens.get(name) == Some(&(*len as u64))
        };
        let is_it = cut.end.is_some()
            && cut.segments.len() == files.len()
            && cut.segments.iter().all(is_of);
        is_it.then_some(cut).ok_or("the checkpoint has other files")
    }

    /// True if something in the log expires.
    pub fn ages(&self) -> bool {
        self.ages
    }

    /// True if a segment has been retired, and its bytes have gone.
    pub fn is_retired(&self, number: u32) -> bool {
        matches!(self.segments[number as usize].body, Body::Gone)
    }

    /// Uses a retired segment again, from its file.
    pub fn take_up(&mut self, number: u32) -> Result<(), SegmentError> {
        let missing = || SegmentError::Exhausted("a store without a directory has no files");
        let directory = self.directory.as_ref().ok_or_else(missing)?;
        let segment = &mut self.segments[number as usize];
        // All that was written: what lies behind the cut tells what it has replaced.
        let path = directory.join(&segment.name);
        let mapping = mapping::map(&path, segment.closed as u64)?;
        // If it is damaged, whoever restores it from files finds it elsewhere.
        decode(&path.display().to_string(), &mapping[..segment.closed])?;
        mapping::read_at_random(&mapping);
        self.views[number as usize] = View::mapped(&mapping, segment.closed);
        segment.body = Body::Mapped(mapping);
        segment.stage = Stage::InUse;
        self.mapped += 1;
        Ok(())
    }

    /// All records of a segment are looked at again when it is compacted. Returns those that were not to be.
    pub fn release(&mut self, number: u32) -> Option<Vec<Range<usize>>> {
        let segment = &mut self.segments[number as usize];
        segment.held_until = 0;
        segment.held.take()
    }

    /// The records at the beginning of an extent that are not the checkpoint's are cut off, and the
    /// others are as if they had been restored. Nothing behind the cut may be live, which is false otherwise.
    pub fn cut_off(&mut self, cut: &Cut) -> bool {
        let first = cut.segments.first().map_or(self.oldest, |(first, _)| self.oldest.min(*first));
        let numbers = first..self.next_number();
        let alive =
            |number: u32| self.segments[number as usize].live > 0 && cut.len_of(number).is_none();
        if numbers.clone().any(alive) {
            return false;
        }
        let note = Arc::new(Note { epoch_limit: cut.checkpoint, valid: cut.owned.clone() });
        let same = Arc::new(cut.segments.iter().map(|(number, _)| (*number, *number)).collect());
        let tables = Arc::new(self.dictionary.clone());
        for number in numbers {
            let Some(len) = cut.len_of(number) else {
                self.drop_segment(number);
                continue;
            };
            let segment = &mut self.segments[number as usize];
            segment.extents.retain(|extent| extent.start < len);
            segment.appended = segment.extents.iter().map(|extent| extent.len() as u64).sum();
            (segment.closed, segment.filled, segment.records) = (len, len, 0);
            (segment.listed, segment.stage) = (true, Stage::InUse);
            if matches!(segment.lineage, Lineage::Own) {
                segment.lineage = Lineage::Restored {
                    note: Arc::clone(&note),
                    numbers: Arc::clone(&same),
                    tables: Arc::clone(&tables),
                };
            }
            if let (Some(writer), Body::Resident(_), None) =
                (&self.writer, &segment.body, &segment.mapping)
            {
                writer.map(number, segment.name.clone(), len);
            }
        }
        self.tail = self.next_number();
        (self.fill, self.tail_end) = (0, 0);
        self.mutable_from = Address::new(self.tail, 0);
        let epoch = cut.checkpoint + 1;
        (self.epoch_max, self.persisted) = (epoch, epoch);
        self.oldest = cut.segments.first().map_or(self.tail, |(first, _)| *first);
        self.cuts.cuts.clear();
        self.merges.forget();
        // All members begin anew behind it.
        self.cuts.newest = Some(cut.checkpoint);
        self.cuts.rollbacks += 1;
        self.cuts.cuts.push(Cut { from: self.end(), end: Some(self.end()), ..cut.clone() });
        self.look_for_crowding();
        true
    }

    /// What is in the segment counts no more.
    fn drop_segment(&mut self, number: u32) {
        let segment = &mut self.segments[number as usize];
        if segment.stage == Stage::Forgotten {
            return;
        }
        segment.stage = Stage::Forgotten;
        let unread = segment.mapping.take();
        let body = std::mem::replace(&mut segment.body, Body::Gone);
        self.views[number as usize] = View::GONE;
        self.mapped -= u32::from(matches!(body, Body::Mapped(_)));
        unread.into_iter().for_each(|mapping| self.unmap(mapping));
        self.give_back(body);
        self.delete_unlisted(number);
    }
}

impl Cut {
    /// How much of the file of a segment belongs to it, if anything does.
    pub fn len_of(&self, number: u32) -> Option<usize> {
        let at = self.segments.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.segments[at].1)
    }

    fn holds(&self, first: Address) -> bool {
        self.end.is_none_or(|end| first < end)
    }

    /// True if a record is to be taken back.
    pub fn is_behind(&self, address: Address, epoch: u32) -> bool {
        epoch > self.checkpoint || self.end.is_none_or(|end| address >= end)
    }
}
