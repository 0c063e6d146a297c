//! From the files of a checkpoint to tables.
//!
//! A checkpoint names files of several stores, and a file several times if several stores refer to
//! it. Each time the note says for which key groups: those that the store owned. For others the
//! file may be out of date, because their newer versions are in the files of another store.

use super::address::Address;
use super::error::SegmentError;
use super::format::{self, FileHeader, TableEntry};
use super::log::{Lineage, Pin};
use super::mapping;
use super::note::{Note, Valid, both};
use super::record::{Kind, Record};
use super::store::Shared;
use super::table::{Access, TableCore};
use crate::{RestoredFiles, StateError, StateFile, StoreScope};
use memmap2::Mmap;
use millstream_types::{KeyGroup, KeyGroupRange};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

const RESTORE: &str = "restore a checkpoint";

/// How many records are read before their index slots are looked at.
const BLOCK: usize = 32;

/// A file to restore from.
struct Opened<'a> {
    file: &'a StateFile,
    note: Rc<Note>,
    mapping: Mmap,
    header: FileHeader,
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
    let mut files = Vec::new();
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
        mapping::read_ahead(&mapping);
        files.push(Opened { file, note: Rc::new(note), mapping, header });
    }
    // Numbers before records, because pieces of values refer to segments of the same run.
    let first = shared.log.borrow().next_number();
    let mut numbers: Vec<Numbers> = Vec::new();
    for (opened, number) in files.iter().zip(first..) {
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
    let numbers: Vec<(Numbers, Rc<HashMap<u32, u32>>)> = numbers
        .into_iter()
        .map(|mut of| {
            let numbers = Rc::new(std::mem::take(&mut of.numbers));
            (of, numbers)
        })
        .collect();
    for opened in files {
        let of = numbers
            .iter()
            .find(|(of, _)| of.run == opened.header.run && of.valid == opened.note.valid)
            .map(|(_, numbers)| Rc::clone(numbers));
        FileRestore { shared, scope, note: Rc::clone(&opened.note) }.run(
            directory,
            opened,
            of.unwrap_or_default(),
        )?;
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
    note: Rc<Note>,
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
        directory: &Path,
        opened: Opened<'_>,
        numbers: Rc<HashMap<u32, u32>>,
    ) -> Result<(), StateError> {
        let Opened { file, mapping, .. } = opened;
        let path = directory.join(&file.name).display().to_string();
        let len = usize::try_from(file.len).unwrap_or(usize::MAX);
        mapping::populate(&mapping);
        let bytes = mapping.get(..len).unwrap_or_default();
        let (_, extents) = format::decode(&path, bytes).map_err(|error| error.during(RESTORE))?;
        let epoch_limit = self.note.epoch_limit;
        let tables: Rc<Vec<TableEntry>> =
            Rc::new(extents.last().map(|extent| extent.tables.clone()).unwrap_or_default());
        let lineage =
            Lineage::Restored { note: Rc::clone(&self.note), numbers, tables: Rc::clone(&tables) };
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
