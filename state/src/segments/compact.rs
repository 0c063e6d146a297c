//! Compaction: what is live in a mostly dead segment moves to the tail.
//!
//! The work is cut into steps, which run when the slot is idle, and between writes when the log has
//! grown to more than 2.25 times of what is live. A checkpoint never waits for it.
//!
//! # Invariants
//! - A moved record keeps its epoch: it is the newest of its key, so it is right for every
//!   checkpoint that its epoch belongs to.
//! - A moved record about something removed gets the newest epoch, since for a checkpoint that is
//!   under way the key may have come back in between. Until that epoch is persisted the old segment
//!   stays with the checkpoints that need it.
//! - It is moved only while a file may hold what was removed, and only while it is not there again:
//!   then the newer record says enough.

use super::address::Address;
use super::log::{Lineage, Log, Pin, Unexpired};
use super::record::{Header, Kind, Record};
use super::store::Shared;
use super::table::{Access, TableCore};
use crate::StateError;
use millstream_types::{KeyGroupRange, Timestamp};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How much of a segment is read in a step.
const STEP_BYTES: u64 = 64 << 10;

/// How much is asked for ahead where it must be read from a file.
const READ_AHEAD: usize = 4 * STEP_BYTES as usize;

/// The segment that is compacted.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    victim: Option<Victim>,
    /// A copy of the record at hand.
    record: Vec<u8>,
}

impl Compaction {
    /// Leaves its segment alone. Returns which it is, and what of it was not moved.
    pub fn give_up(&mut self) -> Option<(u32, Vec<Range<usize>>)> {
        let Victim { number, extents, held, .. } = self.victim.take()?;
        Some((number, extents.into_iter().chain(held).collect()))
    }
}

#[derive(Debug)]
struct Victim {
    number: u32,
    /// What is still to be read, the last first.
    extents: Vec<Range<usize>>,
    /// Records that must stay where they are.
    held: Vec<Range<usize>>,
    /// What keeps it from forgetting what has expired.
    unexpired: Unexpired,
}

/// Takes steps for about `budget`; true if there is more to do. No use of the log's memory may be
/// under way.
///
/// # Errors
/// If a record cannot be read, or moved.
pub(super) fn compact(shared: &Shared, budget: Duration) -> Result<bool, StateError> {
    let start = Instant::now();
    // What it moves takes memory, for which nobody may be waiting here.
    while shared.has_room_for_compaction() && step(shared)?.is_some() {
        shared.log.borrow_mut().seal_surplus();
        if start.elapsed() >= budget {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the next part of a victim; returns how much of it was dead and will be free, or `None` if
/// there is no victim.
pub(super) fn step(shared: &Shared) -> Result<Option<u64>, StateError> {
    let mut compaction = shared.compaction.borrow_mut();
    let Compaction { victim, record } = &mut *compaction;
    let current = match victim {
        Some(victim) => victim,
        None if shared.log.borrow_mut().retire_expired() => return Ok(Some(0)),
        None => match pick(&mut shared.log.borrow_mut()) {
            Some(picked) => victim.insert(picked),
            None => return Ok(None),
        },
    };
    if let Some(extent) = current.extents.last() {
        shared.log.borrow().read_ahead(current.number, extent.start, READ_AHEAD);
    }
    let before = shared.log.borrow().appended();
    let moved = || shared.log.borrow().appended() - before;
    let mut passed = 0;
    let mut ahead = Ahead::default();
    while let Some(extent) = current.extents.last_mut() {
        if passed >= STEP_BYTES {
            return Ok(Some(passed.saturating_sub(moved())));
        }
        ahead.ask(shared, current.number, extent);
        let found = shared.log.borrow().copy_record(current.number, extent, record)?;
        if !found {
            current.extents.pop();
            continue;
        }
        let address = Address::new(current.number, extent.start);
        passed += record.len() as u64;
        let decoded = Record::decode(record)
            .map_err(|reason| shared.log.borrow().damaged(address, reason))?;
        let pin = Pin::new(&shared.pins);
        if !move_record(shared, &pin, address, &decoded, &current.unexpired)? {
            current.held.push(address.offset()..address.offset() + record.len());
        }
        // Now, not before: a record that could not be moved is looked at again.
        if let Some(extent) = current.extents.last_mut() {
            extent.start += record.len();
        }
    }
    let mut dead = passed.saturating_sub(moved());
    let mut log = shared.log.borrow_mut();
    if current.held.is_empty() {
        log.retire(current.number);
    } else {
        dead = 0;
        log.hold(current.number, std::mem::take(&mut current.held));
    }
    *victim = None;
    Ok(Some(dead))
}

/// Asks for the places of the index that the next records' keys lead to.
#[derive(Default)]
struct Ahead {
    /// What has been asked for ends here, in the extent at hand.
    until: usize,
    /// So many of those asked for have not been looked at.
    records: usize,
}

impl Ahead {
    const RECORDS: usize = 16;

    /// The record at the beginning of the extent is looked at next.
    fn ask(&mut self, shared: &Shared, number: u32, extent: &Range<usize>) {
        if self.until <= extent.start || self.until > extent.end {
            (self.until, self.records) = (extent.start, 0);
        }
        self.records = self.records.saturating_sub(1);
        let (log, tables) = (shared.log.borrow(), shared.tables.borrow());
        if !matches!(log.segment(number).lineage, Lineage::Own) {
            return;
        }
        while self.records < Self::RECORDS {
            let next = log.peek(number, &(self.until..extent.end));
            let Some((hash, table, len)) = next else { return };
            if let Some(core) = tables.get(usize::from(table))
                && let Some(index) = core.names.borrow().index(Timestamp::MIN)
            {
                index.prefetch(hash);
            }
            self.until += len;
            self.records += 1;
        }
    }
}

/// The segment that is worth it most, if any is.
fn pick(log: &mut Log) -> Option<Victim> {
    let (live, removals) = log.live();
    // Rarely many segments: 32 for each GiB.
    let sealed: Vec<_> = log.sealed().collect();
    let unexpired = log.unexpired();
    if let Some(one) = sealed.iter().find(|one| one.is_dead) {
        // No need to read it.
        return Some(Victim {
            number: one.number,
            extents: Vec::new(),
            held: Vec::new(),
            unexpired,
        });
    }
    let number = sealed
        .iter()
        .filter(|one| one.is_mostly_dead())
        .min_by(|a, b| (a.live * b.bytes).cmp(&(b.live * a.bytes)))
        // Records about what is removed can go when they are in the oldest segment of all, so that
        // one round through the log is the end of them.
        .or_else(|| sealed.first().filter(|one| one.number == log.oldest() && removals > live / 4))
        .map(|one| one.number)?;
    let mut extents = log.extents(number);
    extents.reverse();
    Some(Victim { number, extents, held: Vec::new(), unexpired })
}

/// Moves a record of a victim if that is needed. False if it is needed and must stay.
fn move_record(
    shared: &Shared,
    pin: &Pin<'_>,
    address: Address,
    record: &Record<'_>,
    unexpired: &Unexpired,
) -> Result<bool, StateError> {
    let header = &record.header;
    if header.kind == Kind::Void {
        return Ok(true);
    }
    let (tables, bound) = tables_of(shared, address, header, &groups_of(record));
    let mut stays = false;
    for (core, groups) in &tables {
        let access = Access { shared, core, epoch: shared.log.borrow().epoch_max, pin };
        let names = &mut *core.names.borrow_mut();
        match header.kind {
            Kind::Whole | Kind::Piece => {
                let may_forget =
                    shared.log.borrow().may_forget(unexpired, address.segment(), core.id);
                if access.move_value(names, address, record, may_forget)? {
                    break;
                }
            }
            // What it removed has expired, too.
            Kind::Removed if access.is_over(record) => {}
            Kind::Removed => {
                let is_back = access.note_older(names, record, bound)?;
                if !is_back && shared.log.borrow().holds_up_to(bound, address.segment()) {
                    let expiry = record.value().last_chunk::<8>().filter(|_| header.expires);
                    access.repeat(record, bound, expiry.map_or(&[], |expiry| &expiry[..]))?;
                }
            }
            Kind::NamespaceRemoved => {
                if shared.log.borrow().holds_up_to(bound, address.segment()) {
                    if names.is_live(record.namespace()) {
                        stays = true;
                    } else {
                        let mut value = [0; 4];
                        value[..2].copy_from_slice(&groups.0.start.to_le_bytes());
                        value[2..].copy_from_slice(&groups.0.end.to_le_bytes());
                        access.repeat(record, bound, &value)?;
                    }
                }
            }
            Kind::Void => {}
        }
    }
    // Those of other stores' key groups were never counted.
    let is_removal = matches!(header.kind, Kind::Removed | Kind::NamespaceRemoved);
    if let Some((core, _)) = tables.first()
        && is_removal
        && !stays
    {
        shared.log.borrow_mut().drop_removal(address, header, core.id);
    }
    Ok(!stays)
}

/// The key groups that a record says something about.
pub(super) fn groups_of(record: &Record<'_>) -> KeyGroupRange {
    let Header { kind, group, .. } = record.header;
    if kind == Kind::NamespaceRemoved {
        record.removed_groups()
    } else {
        KeyGroupRange(group.0..group.0 + 1)
    }
}

/// The tables that a record may belong to, each with what of the groups it holds, and up to which
/// segment there may be older versions.
pub(super) fn tables_of(
    shared: &Shared,
    address: Address,
    header: &Header,
    groups: &KeyGroupRange,
) -> (Vec<(Rc<TableCore>, KeyGroupRange)>, Address) {
    let tables = shared.tables.borrow();
    let log = shared.log.borrow();
    let Lineage::Restored { note, tables: entries, .. } = &log.segment(address.segment()).lineage
    else {
        let core = tables.get(usize::from(header.table)).cloned();
        let bound = Address::up_to(header.previous.segment());
        return (core.into_iter().map(|core| (core, groups.clone())).collect(), bound);
    };
    let mut found = Vec::new();
    if header.epoch <= note.epoch_limit
        && let Some(entry) = entries.get(usize::from(header.table))
    {
        for core in tables.iter().filter(|c| c.operator == entry.operator && c.name == entry.name) {
            for (operator, valid) in &note.valid {
                let start = groups.0.start.max(valid.0.start).max(core.groups.0.start);
                let end = groups.0.end.min(valid.0.end).min(core.groups.0.end);
                if *operator == core.operator && start < end {
                    found.push((Rc::clone(core), KeyGroupRange(start..end)));
                }
            }
        }
    }
    (found, Address::up_to(address.segment()))
}
