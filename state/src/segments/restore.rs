//! From the files of a checkpoint to tables.
//!
//! A checkpoint holds one log for each store that took part in it. Each log is right about the key
//! groups that its store owned, and about no others: a segment that two logs share may hold, for
//! the second, keys whose newer versions are in the first.

use super::address::Address;
use super::error::SegmentError;
use super::format::{self, FileHeader, TableEntry};
use super::log::{Lineage, Pin};
use super::mapping;
use super::note::Note;
use super::record::{Kind, Record};
use super::store::Shared;
use super::table::{Access, TableCore};
use crate::{RestoredFiles, StateError, StateFile, StoreScope};
use memmap2::Mmap;
use millstream_types::{KeyGroup, KeyGroupRange};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

const RESTORE: &str = "restore a checkpoint";

/// How many records are read before their index slots are looked at.
const BLOCK: usize = 32;

/// A file of a log, verified.
struct Opened<'a> {
    file: &'a StateFile,
    note: Note,
    mapping: Mmap,
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
    // In the order in which their first files stand.
    let mut logs: Vec<(u64, Vec<(&StateFile, Note)>)> = Vec::new();
    for file in &restored.files {
        let note = Note::decode(&file.note).ok_or_else(|| {
            let reason = "the checkpoint's note about it cannot be read";
            damaged(directory, file, 0, reason).during(RESTORE)
        })?;
        match logs.iter_mut().find(|(run, _)| *run == note.run) {
            Some((_, files)) => files.push((file, note)),
            None => logs.push((note.run, vec![(file, note)])),
        }
    }
    for (_, files) in logs {
        let valid: Vec<(String, KeyGroupRange)> =
            files.iter().flat_map(|(_, note)| note.owned.iter().cloned()).collect();
        let is_wanted = scope.owned.iter().any(|(operator, groups)| {
            valid.iter().any(|(other, range)| other == operator && overlap(groups, range))
        });
        if is_wanted {
            let opened = files
                .into_iter()
                .map(|(file, note)| {
                    let mapping = mapping::map(&directory.join(&file.name), file.len)
                        .map_err(|error| error.during(RESTORE))?;
                    Ok(Opened { file, note, mapping })
                })
                .collect::<Result<Vec<_>, StateError>>()?;
            LogRestore { shared, scope, checkpoint, valid, numbers: BTreeMap::new() }
                .run(directory, opened)?;
        }
    }
    Ok(())
}

fn overlap(a: &KeyGroupRange, b: &KeyGroupRange) -> bool {
    a.0.start < b.0.end && b.0.start < a.0.end
}

fn damaged(
    directory: &Path,
    file: &StateFile,
    offset: usize,
    reason: &'static str,
) -> SegmentError {
    let file = directory.join(&file.name).display().to_string();
    SegmentError::Damaged { file, offset: offset as u64, reason }
}

/// One log that is restored.
struct LogRestore<'a> {
    shared: &'a Shared,
    scope: &'a StoreScope,
    checkpoint: u32,
    /// What the log is right about.
    valid: Vec<(String, KeyGroupRange)>,
    /// The numbers that its segments get here, by run and number there.
    numbers: BTreeMap<u64, HashMap<u32, u32>>,
}

/// What becomes of the records of one table of a file.
struct Target {
    table: TableEntry,
    /// For each owned range: the table, made when its first record comes.
    owned: Vec<(KeyGroupRange, Option<Rc<TableCore>>)>,
    valid: Vec<KeyGroupRange>,
}

impl LogRestore<'_> {
    fn run(mut self, directory: &Path, files: Vec<Opened<'_>>) -> Result<(), StateError> {
        // The numbers first: a segment's records may refer to any earlier one of its run.
        let first = self.shared.log.borrow().next_number();
        for (at, opened) in files.iter().enumerate() {
            let len = usize::try_from(opened.file.len).unwrap_or(usize::MAX);
            let header = opened
                .mapping
                .get(..len)
                .ok_or("it is shorter than the checkpoint says")
                .map_err(|reason| damaged(directory, opened.file, 0, reason))
                .and_then(|bytes| FileHeader::decode(&opened.file.name, bytes))
                .map_err(|error| error.during(RESTORE))?;
            self.numbers.entry(header.run).or_default().insert(header.number, first + at as u32);
        }
        let numbers: BTreeMap<u64, Rc<HashMap<u32, u32>>> =
            self.numbers.iter().map(|(run, numbers)| (*run, Rc::new(numbers.clone()))).collect();
        for opened in files {
            self.file(directory, opened, &numbers)?;
        }
        Ok(())
    }

    fn file(
        &self,
        directory: &Path,
        opened: Opened<'_>,
        numbers: &BTreeMap<u64, Rc<HashMap<u32, u32>>>,
    ) -> Result<(), StateError> {
        let Opened { file, note, mapping } = opened;
        let path = directory.join(&file.name).display().to_string();
        let len = usize::try_from(file.len).unwrap_or(usize::MAX);
        let bytes = mapping.get(..len).unwrap_or_default();
        let (header, extents) =
            format::decode(&path, bytes).map_err(|error| error.during(RESTORE))?;
        let epoch_limit = note.epoch_limit.min(self.checkpoint);
        let tables: Rc<Vec<TableEntry>> =
            Rc::new(extents.last().map(|extent| extent.tables.clone()).unwrap_or_default());
        let lineage = Lineage::Restored {
            epoch_limit,
            numbers: numbers.get(&header.run).cloned().unwrap_or_default(),
            tables: Rc::clone(&tables),
        };
        let ranges: Vec<Range<usize>> = extents.iter().map(|e| e.start..e.end).collect();
        let number = self
            .shared
            .log
            .borrow_mut()
            .adopt(file.name.clone(), mapping, len, ranges.clone(), lineage)
            .map_err(|error| error.during(RESTORE))?;
        let pin = Pin::new(&self.shared.pins);
        let bytes = self.shared.log.borrow().sealed_bytes(number, &pin);
        let mut targets: Vec<Target> = tables.iter().map(|table| self.target(table)).collect();
        let mut block = Vec::with_capacity(BLOCK);
        for range in ranges {
            format::records(&path, bytes, range, tables.len(), |offset, record| {
                if record.header.epoch <= epoch_limit && record.header.kind != Kind::Void {
                    block.push((Address::new(number, offset), record));
                }
                if block.len() == BLOCK {
                    self.apply(&mut targets, &mut block, &pin)
                } else {
                    Ok(())
                }
            })?;
        }
        self.apply(&mut targets, &mut block, &pin)
    }

    /// Applies records in the order of the log, and empties the block.
    fn apply(
        &self,
        targets: &mut [Target],
        block: &mut Vec<(Address, Record<'_>)>,
        pin: &Pin<'_>,
    ) -> Result<(), StateError> {
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
                access.replay(&mut core.names.borrow_mut(), address, &record)?;
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
            valid: of_operator(&self.valid),
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
        let mut is_ours = false;
        for valid in &self.valid {
            let gone = said.0.start.max(valid.0.start)..said.0.end.min(valid.0.end);
            for (groups, core) in &mut self.owned {
                if !overlap(groups, &KeyGroupRange(gone.clone())) {
                    continue;
                }
                is_ours = true;
                if core.is_none() {
                    *core = Some(core_of(shared, &self.table, groups)?);
                }
                let Some(core) = core else { continue };
                let access = Access { shared, core, epoch: 0, pin };
                let gone = KeyGroupRange(gone.clone());
                access.replay_removed(&mut core.names.borrow_mut(), record.namespace(), &gone)?;
            }
        }
        if is_ours {
            shared.log.borrow_mut().keep_removal(address, &record.header);
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
