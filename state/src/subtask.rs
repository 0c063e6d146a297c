//! The state of one subtask: its tables and lists, where they begin and how they are snapshotted.

use crate::encoded::{Bytes, Sink};
use crate::segments::TableAhead;
use crate::shared::{Owner, Visitor};
use crate::snapshot::{Snapshot, SnapshotWriter};
use crate::ttl::Lifetime;
use crate::{
    AlignedVec, Data, EncodeError, MemberIndex, StateBackend, StateClock, StateError, StateStore,
    StoreScope, StoredEntry, TableSpec, TableStorage, Ttl,
};
use millstream_types::{CheckpointId, KeyGroupRange, SubtaskIndex};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// The store of one slot, as its subtasks share it.
pub type SharedStore = Rc<RefCell<Box<dyn StateStore>>>;

/// All that the operators of one subtask remember.
///
/// Operators open typed tables on it for what they keep by key, and lists for what they keep
/// otherwise ([`SubtaskState::list`]). Whatever has been opened is part of every snapshot, and holds
/// what a restored checkpoint has of it: no operator has to do anything for that.
pub struct SubtaskState {
    store: SharedStore,
    member: MemberIndex,
    subtask: SubtaskIndex,
    restored: Option<Arc<RestoredState>>,
    tables: RefCell<Vec<RegisteredTable>>,
    lists: RefCell<Vec<RegisteredList>>,
    operators: RefCell<BTreeSet<String>>,
    /// Tables that can be asked for entries ahead, and their operators.
    ahead: RefCell<Vec<(String, TableAhead)>>,
    /// What state with a time to live goes by.
    clock: StateClock,
    /// Looks for what has expired in one table of this process's memory.
    sweeps: RefCell<Vec<Box<dyn Fn()>>>,
    reclaimed: Rc<Cell<u64>>,
}

/// The snapshots of all subtasks of a checkpoint, from which a job begins.
#[derive(Default)]
pub struct RestoredState {
    snapshots: Vec<Snapshot>,
}

impl RestoredState {
    /// From the snapshots of all slots.
    pub fn new(snapshots: Vec<Snapshot>) -> Self {
        Self { snapshots }
    }

    fn list(&self, operator: &str, name: &str) -> Option<Vec<Vec<u8>>> {
        let mut found: Vec<_> = self
            .snapshots
            .iter()
            .flat_map(Snapshot::lists)
            .filter(|list| list.operator == operator && list.name == name)
            .collect();
        found.sort_by_key(|list| list.subtask);
        let items = || found.iter().flat_map(|list| list.items.iter().cloned()).collect();
        (!found.is_empty()).then(items)
    }

    /// The lists that have items: their operators and names.
    pub fn lists(&self) -> BTreeSet<(&str, &str)> {
        let lists = self.snapshots.iter().flat_map(Snapshot::lists);
        let with_items = lists.filter(|list| !list.items.is_empty());
        with_items.map(|list| (list.operator.as_str(), list.name.as_str())).collect()
    }

    /// The items of all subtasks' lists of this name, in the order of the subtasks; `None` if there is
    /// no such list.
    ///
    /// # Errors
    /// If they are of another type.
    pub fn items<T: Data>(&self, operator: &str, name: &str) -> Result<Option<Vec<T>>, StateError> {
        let decode = |item: Vec<u8>| {
            T::decode(&item).map_err(|source| StateError::Decode {
                table: format!("{operator}/{name}"),
                source,
            })
        };
        let items = self.list(operator, name);
        items.map(|items| items.into_iter().map(decode).collect()).transpose()
    }

    fn table(
        &self,
        spec: &TableSpec,
        restore: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        for snapshot in &self.snapshots {
            for section in snapshot.tables() {
                if section.operator != spec.operator || section.name != spec.name {
                    continue;
                }
                spec.check_restored(&section.schema, section.max_parallelism)?;
                snapshot.visit(section, &spec.key_groups, restore)?;
            }
        }
        Ok(())
    }
}

struct RegisteredTable {
    spec: TableSpec,
    content: Box<dyn Content>,
}

struct RegisteredList {
    operator: String,
    name: String,
    items: Rc<RefCell<Vec<Vec<u8>>>>,
}

/// A typed table that a snapshot visits and a restored checkpoint fills.
pub(crate) trait Stored: 'static {
    /// It can be opened with a time to live.
    const EXPIRES: bool = false;
    /// An entry has the hash of the current key, and no namespace.
    const IS_BY_KEY: bool = false;

    fn snapshot(&self, groups: &KeyGroupRange, sink: &mut Sink<'_>) -> Result<(), StateError>;
    fn restore(&mut self, entry: StoredEntry<'_>) -> Result<(), StateError>;
}

/// A [`Stored`] whose type is forgotten.
trait Content {
    /// # Safety
    /// As [`Visitor::visit`].
    unsafe fn snapshot(
        &self,
        groups: &KeyGroupRange,
        sink: &mut Sink<'_>,
    ) -> Result<(), StateError>;
}

impl<S: Stored> Content for Visitor<S> {
    unsafe fn snapshot(
        &self,
        groups: &KeyGroupRange,
        sink: &mut Sink<'_>,
    ) -> Result<(), StateError> {
        // SAFETY: the caller's promise.
        unsafe { self.visit() }.snapshot(groups, sink)
    }
}

impl SubtaskState {
    /// The state of member `member` of `store`, which is subtask `subtask` of its vertex. It begins
    /// with what `restored` has of it.
    pub fn new(
        store: SharedStore,
        member: MemberIndex,
        subtask: SubtaskIndex,
        restored: Option<Arc<RestoredState>>,
    ) -> Self {
        Self {
            store,
            member,
            subtask,
            restored,
            tables: RefCell::default(),
            lists: RefCell::default(),
            operators: RefCell::default(),
            ahead: RefCell::default(),
            clock: StateClock::default(),
            sweeps: RefCell::default(),
            reclaimed: Rc::default(),
        }
    }

    /// With the clock by which state expires; without one nothing ever does. To be set before the
    /// first table is opened.
    #[must_use]
    pub fn with_clock(mut self, clock: StateClock) -> Self {
        self.store.borrow_mut().follow(&clock);
        self.clock = clock;
        self
    }

    /// Looks at the next few values of each table in this process's memory and drops those that have
    /// expired. For when nothing else happens: writes do so, too. Other backends do it themselves.
    pub fn sweep(&self) {
        self.sweeps.borrow().iter().for_each(|sweep| sweep());
    }

    /// How many values, elements of lists and entries of maps have been dropped since they had
    /// expired. Those that a store of segments drops by itself stand in its
    /// [`SegmentStats`](crate::SegmentStats).
    pub fn expired_values(&self) -> u64 {
        self.reclaimed.get()
    }

    /// What a state with this time to live goes by.
    pub(crate) fn lifetime(&self, ttl: Ttl) -> Lifetime {
        Lifetime::new(ttl, self.clock.clone(), Rc::clone(&self.reclaimed))
    }

    /// Has [`sweep`](Self::sweep) call this.
    pub(crate) fn on_sweep(&self, sweep: impl Fn() + 'static) {
        self.sweeps.borrow_mut().push(Box::new(sweep));
    }

    /// The state of the only subtask of a slot of its own; for tests and benchmarks of operators.
    ///
    /// # Errors
    /// As [`StateBackend::open`].
    pub fn alone(backend: &dyn StateBackend) -> Result<Self, StateError> {
        let store = Rc::new(RefCell::new(backend.open(StoreScope::default())?));
        Ok(Self::new(store, MemberIndex::default(), SubtaskIndex::default(), None))
    }

    /// The operators that have opened something.
    pub fn operators(&self) -> BTreeSet<String> {
        self.operators.borrow().clone()
    }

    /// What asks for entries of the state that an operator has opened so far by key. To be asked once.
    pub fn look_ahead(&self, operator: &str) -> LookAhead {
        /// Of more tables the processor could not have all on their way at once.
        const TABLES_MAX: usize = 3;
        let ahead =
            self.ahead.borrow_mut().extract_if(.., |(of, _)| of == operator).collect::<Vec<_>>();
        LookAhead(ahead.into_iter().map(|(_, table)| table).take(TABLES_MAX).collect())
    }

    /// Opens a table: `make` says what it is over the storage that the backend chose.
    pub(crate) fn table<S: Stored>(
        &self,
        spec: &TableSpec,
        make: impl FnOnce(Option<Bytes>) -> Result<S, StateError>,
    ) -> Result<Owner<S>, StateError> {
        if spec.ttl.is_some() && !S::EXPIRES {
            return Err(StateError::NoTtl { table: spec.title() });
        }
        self.operators.borrow_mut().insert(spec.operator.clone());
        let storage = match self.store.borrow_mut().table(self.member, spec)? {
            TableStorage::Heap => None,
            TableStorage::Bytes(bytes) => Some(Bytes::Other(bytes)),
            // The store keeps what such a table holds in checkpoints by itself.
            TableStorage::Segments(table) => {
                if S::IS_BY_KEY {
                    self.ahead.borrow_mut().push((spec.operator.clone(), table.ahead()));
                }
                return Ok(Owner::new(make(Some(Bytes::Segments(table)))?));
            }
        };
        let mut table = make(storage)?;
        if let Some(restored) = &self.restored {
            restored.table(spec, &mut |entry| table.restore(entry))?;
        }
        let owner = Owner::new(table);
        let content = Box::new(owner.visitor());
        self.tables.borrow_mut().push(RegisteredTable { spec: spec.clone(), content });
        Ok(owner)
    }

    /// Opens a list of an operator: what it keeps that belongs to no key.
    ///
    /// `name` is unique within the operator.
    ///
    /// # Errors
    /// If a restored checkpoint has a list of this name with items of another type.
    pub fn list<T: Data>(&self, operator: &str, name: &str) -> Result<OperatorList<T>, StateError> {
        self.operators.borrow_mut().insert(operator.to_owned());
        let restored = match &self.restored {
            Some(restored) => restored.items(operator, name)?,
            None => None,
        };
        let items = Rc::default();
        self.lists.borrow_mut().push(RegisteredList {
            operator: operator.to_owned(),
            name: name.to_owned(),
            items: Rc::clone(&items),
        });
        Ok(OperatorList { items, restored })
    }

    /// The items of all subtasks' lists of this name in the checkpoint that the job began with, in the
    /// order of the subtasks; `None` if it has no such list.
    ///
    /// # Errors
    /// If they are of another type.
    pub fn restored_items<T: Data>(
        &self,
        operator: &str,
        name: &str,
    ) -> Result<Option<Vec<T>>, StateError> {
        self.restored.as_ref().map_or(Ok(None), |restored| restored.items(operator, name))
    }

    /// Adds a list to a snapshot that is not part of every one: what [`list`](Self::list) opens is added
    /// by [`snapshot`](Self::snapshot).
    ///
    /// # Errors
    /// If an item cannot be archived.
    pub fn add_list<T: Data>(
        &self,
        operator: &str,
        name: &str,
        items: impl IntoIterator<Item = T>,
        out: &mut SnapshotWriter,
    ) -> Result<(), EncodeError> {
        out.list(operator, name, self.subtask, &encoded(items)?);
        Ok(())
    }

    /// Adds the subtask's part of a checkpoint to `out`, and from now on nothing that it does is
    /// part of it.
    ///
    /// Complexity: linear in what is kept on `heap` and backends of bytes, O(1) in what is kept in
    /// segments.
    ///
    /// # Safety
    /// No operation of a table that was opened on this state may be in progress: call it when no
    /// operator's code is on the stack, or only code that passes a barrier on.
    ///
    /// # Errors
    /// If a backend cannot read what it holds, or a value cannot be archived.
    pub unsafe fn snapshot(
        &self,
        checkpoint: CheckpointId,
        out: &mut SnapshotWriter,
    ) -> Result<(), StateError> {
        for table in &*self.tables.borrow() {
            out.table(&table.spec, self.subtask, |sink| {
                // SAFETY: no operation is in progress, so no reference to a table's content is
                // alive: those that operations hand out end with them.
                unsafe { table.content.snapshot(&table.spec.key_groups, sink) }
            })?;
        }
        for list in &*self.lists.borrow() {
            out.list(&list.operator, &list.name, self.subtask, &list.items.borrow());
        }
        self.store.borrow_mut().cut(self.member, checkpoint);
        Ok(())
    }
}

/// Has the store bring entries of an operator's state into the processor's cache, or from disk into
/// memory, before they are used: a look-up waits for memory twice, and many can wait at once.
pub struct LookAhead(Vec<TableAhead>);

impl LookAhead {
    /// True if there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if to read an entry may mean to wait for a disk, unless it was asked for ahead.
    pub fn is_partly_cold(&self) -> bool {
        self.0.iter().any(TableAhead::is_partly_cold)
    }

    /// Says that the keys with these hashes are used soon.
    #[inline]
    pub fn places(&self, hashes: &[u64]) {
        self.0.iter().for_each(|table| table.places(hashes));
    }

    /// Says that the keys with these hashes are used next, and that [`places`](Self::places) was told a
    /// while ago.
    #[inline]
    pub fn entries(&self, hashes: &[u64]) {
        self.0.iter().for_each(|table| table.entries(hashes));
    }
}

/// A list of items that an operator keeps beside what it keeps by key: the positions of a source,
/// the open transactions of a sink.
///
/// After a restart with another number of subtasks there is no telling which items belong to which
/// subtask. So each is given the items of all, and takes its share by a rule of its own (in Flink's
/// words: union list state).
pub struct OperatorList<T> {
    items: Rc<RefCell<Vec<Vec<u8>>>>,
    restored: Option<Vec<T>>,
}

impl<T> Default for OperatorList<T> {
    /// A list that is part of no snapshot; for tests of operators.
    fn default() -> Self {
        Self { items: Rc::default(), restored: None }
    }
}

impl<T: Data> OperatorList<T> {
    /// The items of all subtasks, in the order of the subtasks, if the job began with a checkpoint that
    /// the operator was part of.
    pub fn take_restored(&mut self) -> Option<Vec<T>> {
        self.restored.take()
    }

    /// Sets the items of this subtask.
    ///
    /// # Errors
    /// If an item cannot be archived.
    pub fn set(&self, items: impl IntoIterator<Item = T>) -> Result<(), EncodeError> {
        *self.items.borrow_mut() = encoded(items)?;
        Ok(())
    }
}

fn encoded<T: Data>(items: impl IntoIterator<Item = T>) -> Result<Vec<Vec<u8>>, EncodeError> {
    let encode = |item: T| {
        let mut bytes = AlignedVec::new();
        item.encode(&mut bytes)?;
        Ok(bytes.to_vec())
    };
    items.into_iter().map(encode).collect()
}

#[cfg(test)]
pub(crate) mod tests;
