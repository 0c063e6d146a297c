//! The store of one slot.

use super::address::{Address, OFFSET_MAX};
use super::compact::{Compaction, compact, step};
use super::error::SegmentError;
use super::format::TableEntry;
use super::log::{Log, Sizes};
use super::restore::restore;
use super::rollback::roll_back;
use super::stats::SegmentStats;
use super::table::{SegmentTable, TableCore};
use crate::segments::note::{Note, both};
use crate::{
    MemberIndex, PersistDone, StateBackend, StateClock, StateError, StateStore, StoreFigure,
    StoreRemains, StoreScope, TableSpec, TableStorage,
};
use millstream_types::{CheckpointId, KeyGroupRange, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::Duration;

/// Keeps state in a log of segments, one per slot: in memory, updated in place, and from there into
/// files, once, for checkpoints and when memory is short. See the documentation of the module.
#[derive(Clone, Debug)]
pub struct SegmentsBackend {
    segment_bytes: usize,
    mutable_bytes: u64,
}

impl Default for SegmentsBackend {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, mutable_bytes: 256 << 20 }
    }
}

impl SegmentsBackend {
    /// Segments of 32 MiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the size of segments, from 16 KiB to 64 MiB. Less is taken if the store's memory is
    /// small, and more for a record that is larger.
    #[must_use]
    pub fn with_segment_bytes(mut self, bytes: usize) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Sets how much of the newest state is updated in place between checkpoints, where the job has
    /// a directory: beyond it the oldest of it is sealed and written ahead of the next checkpoint.
    /// 256 MiB by default, and never more than half of the store's memory.
    #[must_use]
    pub fn with_mutable_bytes(mut self, bytes: u64) -> Self {
        self.mutable_bytes = bytes;
        self
    }

    /// Opens a store as [`StateBackend::open`] does.
    ///
    /// # Errors
    /// If files of the checkpoint to begin with are missing or damaged, or threads or memory cannot
    /// be had.
    pub fn open_store(&self, scope: StoreScope) -> Result<SegmentStore, StateError> {
        const SEGMENT_MIN: usize = 16 << 10;
        // A scope that was made by hand may not say.
        let memory = if scope.memory_bytes == 0 { u64::MAX } else { scope.memory_bytes };
        let an_eighth = usize::try_from(memory / 8).unwrap_or(usize::MAX);
        let segment = self.segment_bytes.min(an_eighth).clamp(SEGMENT_MIN, OFFSET_MAX);
        let segment =
            if segment.is_power_of_two() { segment } else { segment.next_power_of_two() / 2 };
        let sizes = Sizes { segment, memory, mutable: self.mutable_bytes.min(memory / 2) };
        let epoch = match &scope.restored {
            None => 0,
            Some(restored) => u32::try_from(restored.checkpoint.0)
                .ok()
                .and_then(|checkpoint| checkpoint.checked_add(1))
                .ok_or(SegmentError::Exhausted("checkpoints are numbered below 2^32 - 1"))
                .map_err(|error| error.during("restore a checkpoint"))?,
        };
        let run = RandomState::new().build_hasher().finish();
        let mut log = Log::new(sizes, scope.directory.clone(), run, epoch);
        log.follow(StateClock::at(scope.now));
        log.start_writer(&scope.background, scope.watcher.clone())?;
        let shared = Rc::new(Shared::new(log, memory));
        if let Some(restored) = &scope.restored {
            restore(&shared, &scope, restored)?;
            shared.log.borrow_mut().note_restored(epoch - 1, scope.owned.clone());
        }
        Ok(SegmentStore {
            shared,
            epoch,
            members: HashMap::new(),
            opened: HashMap::new(),
            owned: scope.owned,
        })
    }
}

impl StateBackend for SegmentsBackend {
    fn name(&self) -> &str {
        "segments"
    }

    fn open(&self, scope: StoreScope) -> Result<Box<dyn StateStore>, StateError> {
        Ok(Box::new(self.open_store(scope)?))
    }

    fn roll_back(
        &self,
        remains: StoreRemains,
        scope: &StoreScope,
    ) -> Result<Box<dyn StateStore>, String> {
        let frozen: Frozen = remains.downcast().ok_or("another backend had the state")?;
        frozen.thaw(scope).map(|store| Box::new(store) as Box<dyn StateStore>)
    }

    fn needs(&self, note: &[u8], owned: &[(String, KeyGroupRange)]) -> bool {
        // One that cannot be read is for who opens the file to complain about.
        Note::decode(note).is_none_or(|note| !both(&note.valid, owned).is_empty())
    }
}

/// What the store and its tables share.
#[derive(Debug)]
pub(super) struct Shared {
    pub log: RefCell<Log>,
    /// The number of [`super::log::Pin`]s.
    pub pins: Cell<u32>,
    /// Something was due before a write, and could not be done within another use of a table.
    owed: Cell<bool>,
    /// Slices are kept to which there is no way back.
    owes_burials: Cell<bool>,
    index_bytes: Cell<u64>,
    /// What indexes will take more that grow soon.
    announced: Cell<u64>,
    memory: u64,
    /// By id.
    pub tables: RefCell<Vec<Rc<TableCore>>>,
    pub compaction: RefCell<Compaction>,
}

impl Shared {
    /// Of a store without tables.
    fn new(log: Log, memory: u64) -> Self {
        Self {
            log: RefCell::new(log),
            pins: Cell::new(0),
            owed: Cell::new(false),
            owes_burials: Cell::new(false),
            index_bytes: Cell::new(0),
            announced: Cell::new(0),
            memory,
            tables: RefCell::default(),
            compaction: RefCell::default(),
        }
    }

    /// Makes a table.
    pub fn add_table(&self, entry: TableEntry) -> Result<Rc<TableCore>, StateError> {
        let id =
            self.log.borrow_mut().add_table(entry.clone()).map_err(|e| e.during("open a table"))?;
        let core = Rc::new(TableCore {
            id,
            operator: entry.operator,
            name: entry.name,
            schema: entry.schema,
            groups: KeyGroupRange(entry.groups.0..entry.groups.1),
            names: RefCell::default(),
            has_pieces: Cell::new(false),
            expires: Cell::default(),
            latest: Cell::new(Timestamp::MIN),
        });
        self.tables.borrow_mut().push(Rc::clone(&core));
        Ok(core)
    }

    /// To be called before a write, outside of any use of the log's memory.
    #[inline]
    pub fn before_write(&self) -> Result<(), StateError> {
        let log = self.log.borrow();
        let is_due = log.is_crowded() || log.seals_soon() || log.is_short(self.index_bytes_soon());
        if is_due || self.owes_burials.get() || log.is_poisoned() {
            drop(log);
            self.attend()?;
        }
        Ok(())
    }

    #[cold]
    fn attend(&self) -> Result<(), StateError> {
        if let Some(failure) = self.log.borrow().failure() {
            return Err(failure);
        }
        if self.pins.get() > 0 {
            self.owed.set(true);
            return Ok(());
        }
        self.owed.set(false);
        if self.owes_burials.take() {
            self.forget_buried();
        }
        if self.log.borrow().seals_soon() {
            self.log.borrow_mut().seal_surplus();
        }
        if self.log.borrow().is_crowded() {
            match step(self)? {
                Some(dead) => self.log.borrow_mut().compacted(dead),
                None => self.log.borrow_mut().not_crowded(),
            }
        }
        // What is kept for a failure only must not be the cause of one.
        if self.log.borrow().is_short(self.index_bytes_soon()) && self.has_buried() {
            self.log.borrow_mut().forget_cuts_behind(Address::NONE);
            self.forget_buried();
        }
        self.log.borrow_mut().make_room(self.index_bytes_soon())
    }

    /// To be called after a use of the log's memory in the midst of which others may have written.
    #[inline]
    pub fn after_use(&self) -> Result<(), StateError> {
        if self.owed.get() { self.before_write() } else { Ok(()) }
    }

    /// True if a slice that goes now, whose first record lies here, is to be kept for a checkpoint that has it.
    /// Where memory is short there is no way back to that any more.
    pub fn keeps(&self, log: &mut Log, first: Address) -> bool {
        if !log.is_cut_behind(first) {
            return false;
        }
        let keeps = self.has_room_for_index(0);
        if !keeps {
            log.forget_cuts_behind(first);
            // Somebody uses a table's indexes.
            self.owes_burials.set(true);
        }
        keeps
    }

    /// True if slices are kept for checkpoints that have them.
    fn has_buried(&self) -> bool {
        self.tables.borrow().iter().any(|core| core.names.borrow().has_buried())
    }

    /// Slices are kept no longer that went before the oldest cut. No index may be in use.
    pub fn forget_buried(&self) {
        let before = self.log.borrow().oldest_cut();
        for core in self.tables.borrow().iter() {
            let names = &mut *core.names.borrow_mut();
            let bytes = names.bytes() as i64;
            names.forget_buried(before);
            // To take less memory never fails.
            let _ = self.count_index_bytes(names.bytes() as i64 - bytes);
        }
    }

    /// True if memory is not short, after what can leave it without waiting has left it. No
    /// [`super::log::Pin`] may exist.
    pub fn has_room_for_compaction(&self) -> bool {
        self.log.borrow_mut().move_out(self.index_bytes_soon())
    }

    /// The memory of indexes, with what is about to be needed for those that will grow.
    #[inline]
    fn index_bytes_soon(&self) -> u64 {
        self.index_bytes.get() + self.announced.get()
    }

    /// An index is going to take so much more. What is sealed makes way before the next write, since
    /// when the index grows records are in use.
    pub fn announce_index_bytes(&self, bytes: u64) {
        self.announced.set(self.announced.get() + bytes);
    }

    /// What was announced is there, or will not come.
    pub fn recall_index_bytes(&self, bytes: u64) {
        self.announced.set(self.announced.get() - bytes);
    }

    /// True if indexes may take so much more and leave half of the budget.
    pub fn has_room_for_index(&self, bytes: u64) -> bool {
        self.index_bytes.get().saturating_add(bytes) <= self.memory / 2
    }

    /// Indexes take more memory, or less.
    pub fn count_index_bytes(&self, bytes: i64) -> Result<(), StateError> {
        let needed = self.index_bytes.get().saturating_add_signed(bytes);
        if bytes > 0 && needed > self.memory {
            return Err(
                SegmentError::Memory { needed, budget: self.memory }.during("grow an index")
            );
        }
        self.index_bytes.set(needed);
        Ok(())
    }
}

/// A store that nobody uses, which may go to another thread.
#[derive(Debug)]
pub(super) struct Frozen {
    log: Log,
    tables: Vec<TableCore>,
    index_bytes: u64,
    announced: u64,
    memory: u64,
    compaction: Compaction,
    owned: Vec<(String, KeyGroupRange)>,
}

impl Frozen {
    /// Goes on from the checkpoint that the scope names, or says why not.
    pub fn thaw(self, scope: &StoreScope) -> Result<SegmentStore, String> {
        let Self { mut log, tables, index_bytes, announced, memory, compaction, owned } = self;
        if owned != scope.owned || !log.is_in(scope.directory.as_deref()) {
            return Err("the slot has other key groups, or another directory".to_owned());
        }
        log.change_thread();
        log.follow(StateClock::at(scope.now));
        log.start_writer(&scope.background, scope.watcher.clone())
            .map_err(|error| error.to_string())?;
        let shared = Rc::new(Shared {
            index_bytes: Cell::new(index_bytes),
            announced: Cell::new(announced),
            tables: RefCell::new(tables.into_iter().map(Rc::new).collect()),
            compaction: RefCell::new(compaction),
            ..Shared::new(log, memory)
        });
        roll_back(&shared, scope).map_err(|stuck| stuck.to_string())?;
        let epoch = shared.log.borrow().epoch_max;
        let (members, opened) = (HashMap::new(), HashMap::new());
        Ok(SegmentStore { shared, epoch, members, opened, owned })
    }
}

/// The store of a slot, made by [`SegmentsBackend`].
#[derive(Debug)]
pub struct SegmentStore {
    pub(super) shared: Rc<Shared>,
    /// The epoch in which members begin.
    epoch: u32,
    members: HashMap<MemberIndex, Rc<Cell<u32>>>,
    /// Who has opened which table, by id.
    opened: HashMap<u16, MemberIndex>,
    owned: Vec<(String, KeyGroupRange)>,
}

impl SegmentStore {
    /// Figures about the store.
    pub fn stats(&self) -> SegmentStats {
        self.shared.log.borrow().stats(self.shared.index_bytes.get())
    }

    /// What can go on from a checkpoint without its files, if nobody has a table of it any more and it has
    /// not failed.
    pub(super) fn freeze(self) -> Option<Frozen> {
        let Self { shared, owned, .. } = self;
        let Shared { log, index_bytes, announced, memory, tables, compaction, .. } =
            Rc::try_unwrap(shared).ok()?;
        let tables = tables.into_inner().into_iter().map(Rc::try_unwrap);
        let tables = tables.collect::<Result<Vec<_>, _>>().ok()?;
        let mut log = log.into_inner();
        if !log.stop_writer() {
            return None;
        }
        Some(Frozen {
            log,
            tables,
            index_bytes: index_bytes.get(),
            announced: announced.get(),
            memory,
            compaction: compaction.into_inner(),
            owned,
        })
    }

    fn epoch_of(&mut self, member: MemberIndex) -> Rc<Cell<u32>> {
        Rc::clone(self.members.entry(member).or_insert_with(|| Rc::new(Cell::new(self.epoch))))
    }

    /// Opens a table as [`StateStore::table`] does, for use without a virtual call.
    ///
    /// # Errors
    /// If it was written with another schema, or the store has too many tables.
    pub fn segment_table(
        &mut self,
        member: MemberIndex,
        spec: &TableSpec,
    ) -> Result<SegmentTable, StateError> {
        let found: Vec<Rc<TableCore>> = self
            .shared
            .tables
            .borrow()
            .iter()
            .filter(|core| core.operator == spec.operator && core.name == spec.name)
            .filter(|core| {
                // Another member's table of the same name holds other key groups.
                self.opened.get(&core.id).is_none_or(|by| *by == member)
            })
            .cloned()
            .collect();
        if let Some(other) = found.iter().find(|core| core.schema != spec.schema) {
            let error = SegmentError::Schema {
                table: other.title(),
                written: other.schema.clone(),
                opened: spec.schema.clone(),
            };
            return Err(error.during("open a table"));
        }
        let core = match found.iter().find(|core| core.groups == spec.key_groups) {
            Some(core) => Rc::clone(core),
            None => {
                let core = self.shared.add_table(TableEntry {
                    operator: spec.operator.clone(),
                    name: spec.name.clone(),
                    schema: spec.schema.clone(),
                    groups: (spec.key_groups.0.start, spec.key_groups.0.end),
                })?;
                // Not the key groups that the scope said: takes its own out of what was restored.
                for other in found.iter().filter(|other| !self.opened.contains_key(&other.id)) {
                    super::restore::take_over(&self.shared, &core, other)?;
                }
                core
            }
        };
        self.opened.insert(core.id, member);
        core.expires.set(spec.ttl.is_some());
        Ok(SegmentTable::new(Rc::clone(&self.shared), core, self.epoch_of(member)))
    }
}

impl StateStore for SegmentStore {
    fn table(&mut self, member: MemberIndex, spec: &TableSpec) -> Result<TableStorage, StateError> {
        Ok(TableStorage::Segments(self.segment_table(member, spec)?))
    }

    fn follow(&mut self, clock: &StateClock) {
        self.shared.log.borrow_mut().follow(clock.clone());
    }

    fn cut(&mut self, member: MemberIndex, checkpoint: CheckpointId) {
        // `persist` refuses what does not fit.
        let next = u32::try_from(checkpoint.0.saturating_add(1)).unwrap_or(u32::MAX);
        let epoch = self.epoch_of(member);
        epoch.set(epoch.get().max(next));
        let mut log = self.shared.log.borrow_mut();
        log.note_cut(next - 1);
        log.epoch_max = log.epoch_max.max(next);
    }

    fn persist(&mut self, checkpoint: CheckpointId, done: PersistDone) {
        let mut owned = self.owned.clone();
        for core in self.shared.tables.borrow().iter() {
            let one = (core.operator.clone(), core.groups.clone());
            if self.opened.contains_key(&core.id) && !owned.contains(&one) {
                owned.push(one);
            }
        }
        self.shared.log.borrow_mut().persist(checkpoint, owned, done);
    }

    fn completed(&mut self, checkpoint: CheckpointId, _oldest: CheckpointId) {
        let checkpoint = u32::try_from(checkpoint.0).unwrap_or(u32::MAX);
        self.shared.log.borrow_mut().forget_cuts(checkpoint);
        self.shared.forget_buried();
    }

    fn aborted(&mut self, checkpoint: CheckpointId) {
        let checkpoint = u32::try_from(checkpoint.0).unwrap_or(u32::MAX);
        self.shared.log.borrow_mut().forget_unfinished(checkpoint);
        self.shared.forget_buried();
    }

    fn into_remains(self: Box<Self>) -> Option<StoreRemains> {
        self.freeze().map(StoreRemains::new)
    }

    fn figures(&self) -> Vec<StoreFigure> {
        self.stats().figures()
    }

    fn maintain(&mut self, budget: Duration) -> bool {
        // What fails here fails again at the next write, which can say so.
        compact(&self.shared, budget).unwrap_or(false)
    }
}
