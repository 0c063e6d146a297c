//! From the files of a checkpoint to tables.
//!
//! A checkpoint names files of several stores, and a file several times if several stores refer to
//! it. Each time the note says for which key groups: those that the store owned. For others the
//! file may be out of date, because their newer versions are in the files of another store.
//!
//! A thread of its own reads the files, verifies every checksum and hands them on; the slot's enters
//! their records into the index meanwhile. So nothing of a file is used before all of it is verified.

use super::address::Address;
use super::error::SegmentError;
use super::format::{self, Extent, FileHeader, TableEntry};
use super::index::Index;
use super::lengths::Lengths;
use super::log::{Lineage, Pin};
use super::mapping;
use super::note::{Note, Valid, both};
use super::record::{Kind, Record};
use super::store::Shared;
use super::table::{Access, TableCore};
use crate::{RestoredFiles, StateError, StateFile, StoreScope};
use memmap2::Mmap;
use millstream_types::{KeyGroup, KeyGroupRange, Timestamp};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

const RESTORE: &str = "restore a checkpoint";

/// The most memory that an index takes for an entry.
const BYTES_PER_ENTRY: u64 = 22;

/// How many records are read before their index slots are looked at.
const BLOCK: usize = 32;

/// A file to restore from.
struct Opened<'a> {
    file: &'a StateFile,
    note: Arc<Note>,
    header: FileHeader,
}

/// The same file, before it is read.
struct Unread {
    path: String,
    len: u64,
    mapping: Mmap,
}

/// And after that: every byte of it is what was written.
struct Verified {
    path: String,
    mapping: Mmap,
    extents: Vec<Extent>,
}

/// How many files are read before they are needed: they may be evicted again where memory is short.
const FILES_AHEAD: usize = 2;

/// Reads and verifies files in order.
fn verify(files: Vec<Unread>, verified: &SyncSender<Result<Verified, SegmentError>>) {
    let mut files = files.into_iter();
    let mut next = VecDeque::new();
    loop {
        while next.len() < FILES_AHEAD
            && let Some(unread) = files.next()
        {
            mapping::read_ahead(&unread.mapping);
            next.push_back(unread);
        }
        let Some(Unread { path, len, mapping }) = next.pop_front() else { return };
        mapping::populate(&mapping);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let decoded = format::decode(&path, mapping.get(..len).unwrap_or_default());
        mapping::read_at_random(&mapping);
        let result = decoded.map(|(_, extents)| Verified { path, mapping, extents });
        let is_last = result.is_err();
        if verified.send(result).is_err() || is_last {
            // Whoever restores has failed, or will.
            return;
        }
    }
}

/// Fills the store with what the checkpoint holds of the key groups in the scope.
pub(super) fn restore(
    shared: &Shared,
    scope: &StoreScope,
    restored: &RestoredFiles,
) -> Result<(), StateError> {
    if restored.files.is_empty() {
        return Ok(());
    }
    let directory =
        scope.directory.as_deref().ok_or_else(|| SegmentError::Nowhere.during(RESTORE))?;
    let checkpoint = u32::try_from(restored.checkpoint.0).unwrap_or(u32::MAX);
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for file in &restored.files {
        let mut note = Note::decode(&file.note).ok_or_else(|| {
            let reason = "the checkpoint's note about it cannot be read";
            damaged(directory, file, reason).during(RESTORE)
        })?;
        note.valid = both(&note.valid, &scope.owned);
        note.epoch_limit = note.epoch_limit.min(checkpoint);
        if note.valid.is_empty() {
            continue;
        }
        let path = directory.join(&file.name);
        let mapping = mapping::map(&path, file.len).map_err(|error| error.during(RESTORE))?;
        let header = FileHeader::decode(&path.display().to_string(), &mapping)
            .map_err(|error| error.during(RESTORE))?;
        files.push(Opened { file, note: Arc::new(note), header });
        unread.push(Unread { path: path.display().to_string(), len: file.len, mapping });
    }
    // Numbers before records, because pieces of values refer to segments of the same run.
    let first_number = shared.log.borrow().next_number();
    let mut numbers: Vec<Numbers> = Vec::new();
    for (opened, number) in files.iter().zip(first_number..) {
        let of =
            numbers.iter_mut().find(|n| n.run == opened.header.run && n.valid == opened.note.valid);
        match of {
            Some(of) => drop(of.numbers.insert(opened.header.number, number)),
            None => numbers.push(Numbers {
                run: opened.header.run,
                valid: opened.note.valid.clone(),
                numbers: HashMap::from([(opened.header.number, number)]),
            }),
        }
    }
    let numbers: Vec<(Numbers, Arc<HashMap<u32, u32>>)> = numbers
        .into_iter()
        .map(|mut of| {
            let numbers = Arc::new(std::mem::take(&mut of.numbers));
            (of, numbers)
        })
        .collect();
    std::thread::scope(|threads| {
        let (sender, receiver) = sync_channel(0);
        std::thread::Builder::new()
            .name("ms-restore".into())
            .spawn_scoped(threads, move || {
                // Where that is refused it works all the same, in the slot's time.
                let _ = scope.background.spread();
                verify(unread, &sender);
            })
            .map_err(|source| SegmentError::io("a thread", "start", source).during(RESTORE))?;
        let mut lengths = Lengths::new(first_number);
        let first = files.first().map_or(0, |opened| opened.file.len);
        let all: u64 = files.iter().map(|opened| opened.file.len).sum();
        for (i, (opened, verified)) in files.into_iter().zip(receiver).enumerate() {
            if i == 1 {
                make_room(shared, first, all)?;
            }
            let verified = verified.map_err(|error| error.during(RESTORE))?;
            let of = numbers
                .iter()
                .find(|(of, _)| of.run == opened.header.run && of.valid == opened.note.valid)
                .map(|(_, numbers)| Arc::clone(numbers));
            FileRestore { shared, scope, note: Arc::clone(&opened.note) }.run(
                opened.file,
                verified,
                of.unwrap_or_default(),
                &mut lengths,
            )?;
        }
        Ok::<_, StateError>(())
    })?;
    for core in shared.tables.borrow().iter() {
        let pin = Pin::new(&shared.pins);
        let access = Access { shared, core, epoch: 0, pin: &pin };
        access.shrink(&mut core.names.borrow_mut(), Timestamp::MIN)?;
    }
    Ok(())
}

/// Makes room for what is to come, if the rest is as the first file was: an index that doubles on
/// its way to its size is fuller, and so slower, most of the time.
fn make_room(shared: &Shared, read: u64, all: u64) -> Result<(), StateError> {
    let times = all / read.max(1);
    for core in shared.tables.borrow().iter() {
        let mut names = core.names.borrow_mut();
        let entries = names.index(Timestamp::MIN).map_or(0, Index::len) as u64;
        let more = entries.saturating_mul(times.saturating_sub(1));
        // It may be too much, where most of it is out of date.
        if shared.has_room_for_index(more.saturating_mul(BYTES_PER_ENTRY)) {
            let pin = Pin::new(&shared.pins);
            let access = Access { shared, core, epoch: 0, pin: &pin };
            access.reserve(&mut names, Timestamp::MIN, more as usize)?;
        }
    }
    Ok(())
}

/// The numbers that the segments of an earlier run get here.
struct Numbers {
    run: u64,
    /// A file that is named several times has as many numbers, for different key groups.
    valid: Valid,
    numbers: HashMap<u32, u32>,
}

fn overlap(a: &KeyGroupRange, b: &KeyGroupRange) -> bool {
    a.0.start.max(b.0.start) < a.0.end.min(b.0.end)
}

fn damaged(directory: &Path, file: &StateFile, reason: &'static str) -> SegmentError {
    let file = directory.join(&file.name).display().to_string();
    SegmentError::Damaged { file, offset: 0, reason }
}

/// One file that is restored.
struct FileRestore<'a> {
    shared: &'a Shared,
    scope: &'a StoreScope,
    note: Arc<Note>,
}

/// What becomes of the records of one table of a file.
struct Target {
    table: TableEntry,
    /// For each owned range: the table, made when its first record comes.
    owned: Vec<(KeyGroupRange, Option<Rc<TableCore>>)>,
    valid: Vec<KeyGroupRange>,
}

impl FileRestore<'_> {
    fn run(
        &self,
        file: &StateFile,
        verified: Verified,
        numbers: Arc<HashMap<u32, u32>>,
        lengths: &mut Lengths,
    ) -> Result<(), StateError> {
        let Verified { path, mapping, extents } = verified;
        let len = usize::try_from(file.len).unwrap_or(usize::MAX);
        let epoch_limit = self.note.epoch_limit;
        let tables: Arc<Vec<TableEntry>> =
            Arc::new(extents.last().map(|extent| extent.tables.clone()).unwrap_or_default());
        let lineage = Lineage::Restored {
            note: Arc::clone(&self.note),
            numbers,
            tables: Arc::clone(&tables),
        };
        let ranges: Vec<Range<usize>> = extents.iter().map(|e| e.start..e.end).collect();
        let records = extents.iter().map(|extent| u64::from(extent.records)).sum();
        let number = self
            .shared
            .log
            .borrow_mut()
            .adopt(file.name.clone(), mapping, len, ranges.clone(), records, lineage)
            .map_err(|error| error.during(RESTORE))?;
        let pin = Pin::new(&self.shared.pins);
        let bytes = self.shared.log.borrow().sealed_bytes(number, &pin);
        let mut targets: Vec<Target> = tables.iter().map(|table| self.target(table)).collect();
        let mut block = Vec::with_capacity(BLOCK);
        // Of all of the last block, and so likely of the next record, too.
        let mut table: Option<Rc<TableCore>> = None;
        lengths.add_segment(len);
        for range in ranges {
            format::records(&path, bytes, range, tables.len(), |offset, record| {
                lengths.add_record(offset, record.bytes().len());
                if record.header.epoch <= epoch_limit && record.header.kind != Kind::Void {
                    if let Some(table) = &table
                        && let Some(index) = table.names.borrow().index(record.namespace())
                    {
                        index.prefetch(record.header.hash);
                    }
                    block.push((Address::new(number, offset), record));
                }
                if block.len() == BLOCK {
                    self.apply(&mut targets, &mut block, lengths, &pin, &mut table)
                } else {
                    Ok(())
                }
            })?;
        }
        self.apply(&mut targets, &mut block, lengths, &pin, &mut table)
    }

    /// Applies records in the order of the log, and empties the block. If they are all of one table, says
    /// which.
    fn apply(
        &self,
        targets: &mut [Target],
        block: &mut Vec<(Address, Record<'_>)>,
        lengths: &Lengths,
        pin: &Pin<'_>,
        table_of_all: &mut Option<Rc<TableCore>>,
    ) -> Result<(), StateError> {
        let of_one = |target: &Target, table: u16| {
            block.iter().all(|(_, record)| {
                let header = &record.header;
                header.table == table
                    && header.kind != Kind::NamespaceRemoved
                    && target.is_valid(header.group)
                    && matches!(&target.owned[..], [(groups, _)] if groups.contains(header.group))
            })
        };
        let Some((_, first)) = block.first() else { return Ok(()) };
        let (table, group) = (first.header.table, first.header.group);
        let target = &mut targets[usize::from(table)];
        if of_one(target, table) {
            if let Some(core) = target.core(self.shared, group)? {
                let access = Access { shared: self.shared, core: &core, epoch: 0, pin };
                access.replay_block(&mut core.names.borrow_mut(), block, lengths)?;
                *table_of_all = Some(core);
            }
            block.clear();
            return Ok(());
        }
        *table_of_all = None;
        for (_, record) in &*block {
            let target = &targets[usize::from(record.header.table)];
            if let Some(core) = target.made(record.header.group)
                && let Some(index) = core.names.borrow().index(record.namespace())
            {
                index.prefetch(record.header.hash);
            }
        }
        for (address, record) in block.drain(..) {
            let target = &mut targets[usize::from(record.header.table)];
            if record.header.kind == Kind::NamespaceRemoved {
                target.remove_namespace(self.shared, address, &record, pin)?;
            } else if target.is_valid(record.header.group)
                && let Some(core) = target.core(self.shared, record.header.group)?
            {
                let access = Access { shared: self.shared, core: &core, epoch: 0, pin };
                let names = &mut core.names.borrow_mut();
                access.replay(names, address, &record, lengths)?;
            }
        }
        Ok(())
    }

    fn target(&self, table: &TableEntry) -> Target {
        let of_operator = |list: &[(String, KeyGroupRange)]| {
            list.iter()
                .filter(|(operator, _)| *operator == table.operator)
                .map(|(_, groups)| groups.clone())
                .collect::<Vec<_>>()
        };
        Target {
            table: table.clone(),
            owned: of_operator(&self.scope.owned)
                .into_iter()
                .map(|groups| (groups, None))
                .collect(),
            valid: of_operator(&self.note.valid),
        }
    }
}

impl Target {
    fn is_valid(&self, group: KeyGroup) -> bool {
        self.valid.iter().any(|groups| groups.contains(group))
    }

    /// The table of a key group, if a record of it has come.
    fn made(&self, group: KeyGroup) -> Option<&Rc<TableCore>> {
        let (_, core) = self.owned.iter().find(|(groups, _)| groups.contains(group))?;
        core.as_ref()
    }

    /// The table of a key group, if the scope owns it.
    fn core(
        &mut self,
        shared: &Shared,
        group: KeyGroup,
    ) -> Result<Option<Rc<TableCore>>, StateError> {
        let Self { table, owned, .. } = self;
        let Some((groups, core)) = owned.iter_mut().find(|(groups, _)| groups.contains(group))
        else {
            return Ok(None);
        };
        if core.is_none() {
            *core = Some(core_of(shared, table, groups)?);
        }
        Ok(core.clone())
    }

    fn remove_namespace(
        &mut self,
        shared: &Shared,
        address: Address,
        record: &Record<'_>,
        pin: &Pin<'_>,
    ) -> Result<(), StateError> {
        let said = record.removed_groups();
        let mut ours = None;
        for valid in &self.valid {
            let gone = said.0.start.max(valid.0.start)..said.0.end.min(valid.0.end);
            for (groups, core) in &mut self.owned {
                if !overlap(groups, &KeyGroupRange(gone.clone())) {
                    continue;
                }
                if core.is_none() {
                    *core = Some(core_of(shared, &self.table, groups)?);
                }
                let Some(core) = core else { continue };
                ours = Some(core.id);
                let access = Access { shared, core, epoch: 0, pin };
                let gone = KeyGroupRange(gone.clone());
                access.replay_removed(&mut core.names.borrow_mut(), record.namespace(), &gone)?;
            }
        }
        if let Some(table) = ours {
            shared.log.borrow_mut().keep_removal(address, &record.header, table);
        }
        Ok(())
    }
}

/// The table of these key groups, made if this is the first that is heard of it.
fn core_of(
    shared: &Shared,
    table: &TableEntry,
    groups: &KeyGroupRange,
) -> Result<Rc<TableCore>, StateError> {
    let found = shared
        .tables
        .borrow()
        .iter()
        .find(|core| {
            core.operator == table.operator && core.name == table.name && core.groups == *groups
        })
        .cloned();
    match found {
        Some(core) if core.schema == table.schema => Ok(core),
        Some(core) => Err(SegmentError::Schema {
            table: core.title(),
            written: core.schema.clone(),
            opened: table.schema.clone(),
        }
        .during(RESTORE)),
        None => {
            shared.add_table(TableEntry { groups: (groups.0.start, groups.0.end), ..table.clone() })
        }
    }
}

/// Moves to a new table what a restored one holds of its key groups.
pub(super) fn take_over(
    shared: &Shared,
    to: &TableCore,
    from: &TableCore,
) -> Result<(), StateError> {
    let pin = Pin::new(&shared.pins);
    let (from_access, to_access) = (
        Access { shared, core: from, epoch: 0, pin: &pin },
        Access { shared, core: to, epoch: 0, pin: &pin },
    );
    to.has_pieces.set(to.has_pieces.get() || from.has_pieces.get());
    to.note_expiry(from.latest.get());
    let (mut from, mut target) = (from.names.borrow_mut(), to.names.borrow_mut());
    for (namespace, hash, address) in from_access.entries_of(&from, &to.groups)? {
        let pieces = from_access.leave(&mut from, namespace, hash, address)?;
        to_access.enter(&mut target, namespace, hash, address)?;
        for (piece, len) in pieces {
            target.credit(namespace, piece, len);
        }
    }
    Ok(())
}
