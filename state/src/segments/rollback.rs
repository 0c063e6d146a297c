//! From a store in use back to a checkpoint that it has cut, where it stands.
//!
//! Each record knows the version that it has replaced, or the log does (`log/merges.rs`), and each removal what it
//! has removed: so all that was
//! written after the cut is taken back, the newest first, and the index leads to what it led to at the
//! checkpoint. (FASTER finds such versions by the chains of its index; Chandramouli et al., SIGMOD 2018.)
//! Then the log is cut off there. The cost is that of the records behind the cut, and of segments that have been
//! retired since, whatever the size of the state.
//!
//! # What compaction has done meanwhile
//! Records that it has moved behind the cut are taken back like others, which leads to where they were
//! before. Those segments are used again, from their files, which are verified. What in them says that something
//! is removed counts again.
//!
//! # Not in place
//! Where something is not known any more the store is restored from files: what expires, since that is forgotten
//! without a record; a table that was emptied as a whole; segments that came and went after the cut; and
//! checkpoints of which slices that are gone had to go from memory, too, or what very many pieces of values were
//! merged of.

use super::address::Address;
use super::compact::{groups_of, tables_of};
use super::log::{Cut, Pin};
use super::note::{Note, both};
use super::record::{Header, Kind, Record};
use super::store::Shared;
use super::table::{Access, Stuck, TableCore};
use crate::{StateFile, StoreScope};
use millstream_types::Timestamp;
use std::ops::Range;
use std::rc::Rc;

/// How many records are asked for before they are taken back.
const BLOCK: usize = 32;

/// Takes a store back to the checkpoint that the scope names. When it fails the store is of no use any more.
pub(super) fn roll_back(shared: &Shared, scope: &StoreScope) -> Result<(), Stuck> {
    let restored = scope.restored.as_ref().ok_or(Stuck::For("no checkpoint"))?;
    let needed = |file: &&StateFile| {
        Note::decode(&file.note).is_none_or(|note| !both(&note.valid, &scope.owned).is_empty())
    };
    let files: Vec<&StateFile> = restored.files.iter().filter(needed).collect();
    let checkpoint = u32::try_from(restored.checkpoint.0).unwrap_or(u32::MAX);
    let cut = {
        let log = shared.log.borrow();
        if let Some(failure) = log.failure() {
            return Err(failure.into());
        }
        if log.ages() {
            return Err(Stuck::For("something expires"));
        }
        log.cut_of(checkpoint, &files).cloned().map_err(Stuck::For)?
    };
    let behind = {
        let mut log = shared.log.borrow_mut();
        log.end_tail();
        cut.from.segment()..log.next_number()
    };
    take_up(shared, &cut, &behind)?;
    for number in behind.rev() {
        undo_segment(shared, &cut, number)?;
    }
    if !shared.log.borrow_mut().cut_off(&cut) {
        return Err(Stuck::For("something behind the cut is still alive"));
    }
    shared.forget_buried();
    Ok(())
}

/// Uses the checkpoint's segments again that were retired, or were about to be; and what of those behind the
/// cut was.
fn take_up(shared: &Shared, cut: &Cut, behind: &Range<u32>) -> Result<(), Stuck> {
    let victim = shared.compaction.borrow_mut().give_up();
    let of_cut = |number: &u32| cut.len_of(*number).is_some();
    let others = behind.clone().filter(|number| !of_cut(number));
    for number in cut.segments.iter().map(|(number, _)| *number).chain(others) {
        let mut log = shared.log.borrow_mut();
        let held = log.release(number);
        let counted = if log.is_retired(number) {
            if !of_cut(&number) {
                return Err(Stuck::For("segments that came and went"));
            }
            log.take_up(number).map_err(|error| error.during("go back to a checkpoint"))?;
            Some(Vec::new())
        } else {
            match &victim {
                Some((of, left)) if *of == number => Some(left.clone()),
                _ => held,
            }
        };
        drop(log);
        if let Some(counted) = counted {
            count_removals(shared, number, &counted)?;
        }
    }
    Ok(())
}

/// Counts what of a segment says that something is removed, but for what lies in these places, which counts
/// already.
fn count_removals(shared: &Shared, number: u32, counted: &[Range<usize>]) -> Result<(), Stuck> {
    each_record(shared, number, |address, record| {
        let header = &record.header;
        let is_removal = matches!(header.kind, Kind::Removed | Kind::NamespaceRemoved);
        if is_removal && counted.iter().all(|place| !place.contains(&address.offset())) {
            let (tables, _) = tables_of(shared, address, header, &groups_of(record));
            if let Some((core, _)) = tables.first() {
                shared.log.borrow_mut().keep_removal(address, header, core.id);
            }
        }
    })
}

/// A record that is to be taken back.
struct Behind {
    address: Address,
    header: Header,
    namespace: Timestamp,
    core: Rc<TableCore>,
}

/// Takes back what lies behind the cut in a segment of this store's.
fn undo_segment(shared: &Shared, cut: &Cut, number: u32) -> Result<(), Stuck> {
    let (extents, mut addresses) = (shared.log.borrow().extents(number), Vec::new());
    for extent in extents {
        let (log, mut at) = (shared.log.borrow(), extent.start);
        while let Some((header, _, len)) = log.header_at(number, &(at..extent.end))? {
            let address = Address::new(number, at);
            if address >= cut.from && cut.is_behind(address, header.epoch) {
                addresses.push(address);
            }
            at += len;
        }
    }
    let mut block = Vec::with_capacity(BLOCK);
    for addresses in addresses.rchunks(BLOCK) {
        // What each needs is asked for long before it is looked at.
        for address in addresses.iter().rev() {
            let found = shared.log.borrow().header_at(number, &(address.offset()..usize::MAX))?;
            let Some((header, namespace, _)) = found else { continue };
            let core = shared.tables.borrow().get(usize::from(header.table)).cloned();
            let core = core.ok_or(Stuck::For("a table that nobody knows"))?;
            if let Some(index) = core.names.borrow().index(namespace) {
                index.prefetch(header.hash);
            }
            if header.previous.is_some() && !header.previous.is_bound() {
                shared.log.borrow().prefetch(header.previous);
            }
            block.push(Behind { address: *address, header, namespace, core });
        }
        for Behind { address, header, namespace, core } in block.drain(..) {
            let pin = Pin::new(&shared.pins);
            let access = Access { shared, core: &core, epoch: 0, pin: &pin };
            access.undo(&mut core.names.borrow_mut(), namespace, address, &header)?;
        }
    }
    Ok(())
}

/// Calls `f` with each record of a segment, in order.
fn each_record(
    shared: &Shared,
    number: u32,
    mut f: impl FnMut(Address, &Record<'_>),
) -> Result<(), Stuck> {
    let (extents, mut bytes) = (shared.log.borrow().extents(number), Vec::new());
    for mut extent in extents {
        while shared.log.borrow().copy_record(number, &extent, &mut bytes)? {
            let address = Address::new(number, extent.start);
            let record = Record::decode(&bytes)
                .map_err(|reason| shared.log.borrow().damaged(address, reason))?;
            f(address, &record);
            extent.start += bytes.len();
        }
    }
    Ok(())
}
