//! The seam between typed state and where it lies.
//!
//! A job chooses a [`StateBackend`] at run time. Each slot opens one [`StateStore`], on which the
//! slot's operators open their tables. A store either answers [`TableStorage::Heap`], and the table
//! is a typed hash table of this crate, or brings a [`ByteTable`].
//!
//! A backend of one's own:
//!
//! ```
//! use millstream_state::*;
//! use millstream_types::{KeyGroup, KeyGroupRange, Timestamp, hash_key};
//! use std::collections::{BTreeMap, BTreeSet};
//!
//! /// Everything in one ordered map: (namespace, key group, key) → value.
//! #[derive(Default)]
//! struct Ordered(BTreeMap<(Timestamp, u16, Vec<u8>), Vec<u8>>);
//!
//! fn address(key: EntryKey<'_>) -> (Timestamp, u16, Vec<u8>) {
//!     (key.namespace, key.group.0, key.bytes.to_vec())
//! }
//!
//! impl ByteTable for Ordered {
//!     fn get(
//!         &self,
//!         key: EntryKey<'_>,
//!         read: &mut dyn FnMut(Option<&[u8]>),
//!     ) -> Result<(), StateError> {
//!         read(self.0.get(&address(key)).map(Vec::as_slice));
//!         Ok(())
//!     }
//!     fn update(
//!         &mut self,
//!         key: EntryKey<'_>,
//!         f: &mut dyn FnMut(Option<&[u8]>, &mut AlignedVec) -> Update,
//!     ) -> Result<(), StateError> {
//!         let (address, mut new) = (address(key), AlignedVec::new());
//!         match f(self.0.get(&address).map(Vec::as_slice), &mut new) {
//!             Update::Keep => {}
//!             Update::Write => drop(self.0.insert(address, new.to_vec())),
//!             Update::Remove => drop(self.0.remove(&address)),
//!         }
//!         Ok(())
//!     }
//!     fn len(&self, namespace: Timestamp) -> u64 {
//!         self.0.keys().filter(|(n, ..)| *n == namespace).count() as u64
//!     }
//!     fn namespaces(&self) -> Vec<Timestamp> {
//!         self.0.keys().map(|(n, ..)| *n).collect::<BTreeSet<_>>().into_iter().collect()
//!     }
//!     fn for_each(
//!         &self,
//!         namespace: Timestamp,
//!         visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
//!     ) -> Result<(), StateError> {
//!         self.0.iter().filter(|((n, ..), _)| *n == namespace).try_for_each(
//!             |((namespace, group, key), value)| {
//!                 visit(StoredEntry {
//!                     namespace: *namespace,
//!                     group: KeyGroup(*group),
//!                     key,
//!                     value,
//!                 })
//!             },
//!         )
//!     }
//!     fn remove_namespace(&mut self, namespace: Timestamp) -> Result<(), StateError> {
//!         self.0.retain(|(n, ..), _| *n != namespace);
//!         Ok(())
//!     }
//!     fn snapshot(
//!         &self,
//!         groups: &KeyGroupRange,
//!         visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
//!     ) -> Result<(), StateError> {
//!         let mut found: Vec<_> =
//!             self.0.iter().filter(|((_, g, _), _)| groups.contains(KeyGroup(*g))).collect();
//!         found.sort_by_key(|((_, group, _), _)| *group);
//!         found.into_iter().try_for_each(|((namespace, group, key), value)| {
//!             visit(StoredEntry { namespace: *namespace, group: KeyGroup(*group), key, value })
//!         })
//!     }
//! }
//!
//! struct OrderedBackend;
//!
//! impl StateBackend for OrderedBackend {
//!     fn name(&self) -> &str {
//!         "ordered"
//!     }
//!     fn open(&self, _scope: StoreScope) -> Result<Box<dyn StateStore>, StateError> {
//!         Ok(Box::new(OrderedStore))
//!     }
//! }
//!
//! struct OrderedStore;
//!
//! impl StateStore for OrderedStore {
//!     fn table(
//!         &mut self,
//!         _member: MemberIndex,
//!         _spec: &TableSpec,
//!     ) -> Result<TableStorage, StateError> {
//!         Ok(TableStorage::Bytes(Box::new(Ordered::default())))
//!     }
//! }
//!
//! // The same typed table, whatever the backend.
//! for backend in [&HeapBackend as &dyn StateBackend, &OrderedBackend] {
//!     let state = SubtaskState::alone(backend)?;
//!     let spec = TableSpec::new("count words", "count", KeyGroupRange(0..128), 128);
//!     let mut counts = Table::<String, u64>::open(&state, &spec)?;
//!     for word in "to be or not to be".split(' ').map(str::to_owned) {
//!         counts.modify(hash_key(&word), &word, || 0, |n| *n += 1);
//!     }
//!     let word = "be".to_owned();
//!     assert_eq!(counts.get(hash_key(&word), &word), Some(2));
//!     assert_eq!(counts.len(), 4);
//! }
//! # Ok::<(), StateError>(())
//! ```

use crate::{Data, StateClock, StateError, Ttl};
use millstream_tuning::BackgroundCores;
use millstream_types::{CheckpointId, KeyGroup, KeyGroupRange, SlotIndex, Timestamp};
use rkyv::util::AlignedVec;
use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where a job keeps its state. Chosen per job; shared by its slots.
pub trait StateBackend: Send + Sync {
    /// The name by which settings and errors call it.
    fn name(&self) -> &str;

    /// Opens the store of one slot, on the slot's thread.
    ///
    /// # Errors
    /// If the store's files or memory cannot be had.
    fn open(&self, scope: StoreScope) -> Result<Box<dyn StateStore>, StateError>;

    /// Goes on from the scope's checkpoint with what is left of the store that the slot had
    /// ([`StateStore::into_remains`]), instead of [opening](Self::open) one from files. It is the same
    /// process and the same job, and nothing of what the store said to be durable has changed.
    ///
    /// # Errors
    /// Why that is not possible, in words. Then the store is to be opened: that is no failure.
    fn roll_back(
        &self,
        remains: StoreRemains,
        scope: &StoreScope,
    ) -> Result<Box<dyn StateStore>, String> {
        let _ = (remains, scope);
        Err(format!("the backend {:?} cannot", self.name()))
    }

    /// Whether a store that owns these key groups of these operators needs the file that the note is
    /// about, to begin with the checkpoint that it belongs to. May be true for one that it does not
    /// need.
    fn needs(&self, note: &[u8], owned: &[(String, KeyGroupRange)]) -> bool {
        let _ = (note, owned);
        true
    }
}

/// Whose store is opened, and from what.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StoreScope {
    /// The slot that the store belongs to.
    pub slot: SlotIndex,
    /// Where a store may keep files of its own; `None` if the job keeps nothing on disk.
    pub directory: Option<PathBuf>,
    /// The most memory that the store may use, in bytes.
    pub memory_bytes: u64,
    /// What the slot's subtasks own: the operators' `uid`s, and for each its key groups.
    pub owned: Vec<(String, KeyGroupRange)>,
    /// The checkpoint that the job begins with.
    pub restored: Option<RestoredFiles>,
    /// Processing time as the store is opened: what it restores is judged by it.
    pub now: Timestamp,
    /// Where threads of the store's own are to run: one that is started on the slot's thread begins
    /// on the slot's core.
    pub background: BackgroundCores,
    /// Is told what the store does with its files, if somebody wants to know.
    pub watcher: Option<FileWatcher>,
}

/// What a store has done with a file in [`StoreScope::directory`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It has written to its end, and the first `len` bytes do not change any more. They may not be
    /// durable yet.
    Grown {
        /// The file's name.
        name: String,
        /// How many bytes it has.
        len: u64,
    },
    /// It has deleted it, as no checkpoint refers to it.
    Deleted {
        /// The file's name.
        name: String,
    },
}

/// Whoever wants to know what a store does with its files: a hint, for who copies them.
#[derive(Clone)]
pub struct FileWatcher(Arc<dyn Fn(FileChange) + Send + Sync>);

impl FileWatcher {
    /// Calls `on_change` from a thread of the store, which it must not keep waiting.
    pub fn new(on_change: impl Fn(FileChange) + Send + Sync + 'static) -> Self {
        Self(Arc::new(on_change))
    }

    /// A file has changed.
    pub fn tell(&self, change: FileChange) {
        (self.0)(change);
    }
}

impl fmt::Debug for FileWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileWatcher")
    }
}

impl StoreScope {
    /// The store of a slot, empty, in memory.
    pub fn new(slot: SlotIndex) -> Self {
        Self { slot, memory_bytes: u64::MAX, ..Self::default() }
    }
}

/// What stores gave for a checkpoint with [`StateStore::persist`], and are given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredFiles {
    /// The checkpoint. Epochs after it are void.
    pub checkpoint: CheckpointId,
    /// The files of all slots, which need not be the slots of now. Those of one slot stand in the
    /// order in which [`StateStore::persist`] gave them.
    pub files: Vec<StateFile>,
}

/// A file that a checkpoint refers to. It lies in [`StoreScope::directory`], is complete and durable,
/// and its first `len` bytes do not change any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// The file's name in its directory; never given to another file.
    pub name: String,
    /// The bytes that belong to the checkpoint. A later checkpoint may refer to more.
    pub len: u64,
    /// What the store has to know to read them: of its own making.
    pub note: Vec<u8>,
}

/// One of the subtasks whose tables a store keeps, from 0 within its slot. Each comes to a
/// checkpoint's barrier at a moment of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MemberIndex(pub u32);

/// Called once when what a checkpoint needs is durable, or cannot be made so; from any thread.
pub type PersistDone = Box<dyn FnOnce(Result<Vec<StateFile>, StateError>) + Send>;

/// The state of one slot. Lives on the slot's thread, as do the tables that it opens; a table
/// may outlive it.
///
/// # Checkpoints
/// A store whose tables are [`TableStorage::Segments`] takes part in checkpoints by itself: each
/// member's [`cut`](Self::cut) says that what the member does from now on is not part of the
/// checkpoint, and [`persist`](Self::persist), after the last cut, makes durable what came before.
/// Tables of the other kinds are visited at the cut and written whole, by the runtime.
pub trait StateStore {
    /// Opens a table of a member, with what it held if the store was restored.
    ///
    /// # Errors
    /// If the backend cannot keep such a table or cannot read what it held.
    fn table(&mut self, member: MemberIndex, spec: &TableSpec) -> Result<TableStorage, StateError>;

    /// What a member has written belongs to `checkpoint`, what it writes from now on does not. Each
    /// member cuts once for each checkpoint, in the order of the checkpoints; another member may do
    /// so much later.
    ///
    /// Complexity: must be O(1), whatever the size of the state.
    fn cut(&mut self, member: MemberIndex, checkpoint: CheckpointId) {
        let _ = (member, checkpoint);
    }

    /// All members have cut for `checkpoint`: makes durable what it needs, without waiting for it
    /// here, then calls `done` with the files. They are safe from this store until
    /// [`completed`](Self::completed) says otherwise.
    fn persist(&mut self, checkpoint: CheckpointId, done: PersistDone) {
        let _ = checkpoint;
        done(Ok(Vec::new()));
    }

    /// The checkpoint is complete, and checkpoints before `oldest` will not be restored any more, so that
    /// the store may forget what only they need. Files that others still refer to are deleted by whoever
    /// counts the references.
    fn completed(&mut self, checkpoint: CheckpointId, oldest: CheckpointId) {
        let _ = (checkpoint, oldest);
    }

    /// A checkpoint that members may have cut has been given up.
    fn aborted(&mut self, checkpoint: CheckpointId) {
        let _ = checkpoint;
    }

    /// The attempt at the job is over, the slot has not panicked, and its tables have been dropped:
    /// gives what [`StateBackend::roll_back`] can begin with, if there is anything.
    fn into_remains(self: Box<Self>) -> Option<StoreRemains> {
        None
    }

    /// The clock by which state expires. Given before the first table is opened.
    fn follow(&mut self, clock: &StateClock) {
        let _ = clock;
    }

    /// What there is to tell about the store, for whoever watches the job. Asked a few times a second.
    fn figures(&self) -> Vec<StoreFigure> {
        Vec::new()
    }

    /// The slot has nothing else to do: tidies up for about `budget` and returns true if there is
    /// more to do.
    fn maintain(&mut self, budget: Duration) -> bool {
        let _ = budget;
        false
    }
}

/// What is left of a store when an attempt at its job is over; it may go to another thread.
pub struct StoreRemains(Box<dyn Any + Send>);

impl StoreRemains {
    /// What a backend can begin with.
    pub fn new(remains: impl Any + Send) -> Self {
        Self(Box::new(remains))
    }

    /// What it was made of, if that is of this type.
    pub fn downcast<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|remains| *remains)
    }
}

impl fmt::Debug for StoreRemains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreRemains")
    }
}

/// A figure about a store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoreFigure {
    /// Its name, in snake case, with the unit at the end.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// It counts what has happened since the store was opened; else it says how things are.
    pub is_total: bool,
    /// Its value.
    pub value: f64,
}

/// Names a table and the part of the key space that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSpec {
    /// The stable name (`uid`) of the operator: state finds its operator by it after a restart.
    pub operator: String,
    /// The name of the table, unique within the operator.
    pub name: String,
    /// The key groups of the subtask that opens it.
    pub key_groups: KeyGroupRange,
    /// The number of key groups of the job.
    pub max_parallelism: u16,
    /// The types of the table's keys and values, as text: what was written with others is refused.
    /// Set by the typed table that opens it.
    pub schema: String,
    /// How long what the table keeps lives. Values then end with their expiry: eight bytes, a
    /// processing time in nanoseconds, little endian. A backend may drop them from then on; it need
    /// not, as the typed tables look at it, too.
    pub ttl: Option<Ttl>,
}

impl TableSpec {
    /// All there is to say about a table.
    pub fn new(
        operator: impl Into<String>,
        name: impl Into<String>,
        key_groups: KeyGroupRange,
        max_parallelism: u16,
    ) -> Self {
        Self {
            operator: operator.into(),
            name: name.into(),
            key_groups,
            max_parallelism,
            schema: String::new(),
            ttl: None,
        }
    }

    /// The same table, with values that expire.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The same operator and keys, another table.
    pub fn with_name(&self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// With the types of the table's keys and values.
    pub(crate) fn of<K: Data, V: Data>(&self) -> Self {
        self.with_schema(format!("{} -> {}", schema::<K>(), schema::<V>()))
    }

    /// With the types of the table's keys, and of their maps' keys and values.
    pub(crate) fn of_map<K: Data, MK: Data, MV: Data>(&self) -> Self {
        let [key, map_key, value] = [schema::<K>(), schema::<MK>(), schema::<MV>()];
        self.with_schema(format!("{key}, {map_key} -> {value}"))
    }

    /// What is kept with its expiry cannot be read without, nor the other way round: so the schema
    /// says which it is.
    fn with_schema(&self, types: String) -> Self {
        let ttl = if self.ttl.is_some() { ", with a time to live" } else { "" };
        Self { schema: types + ttl, ..self.clone() }
    }

    /// How errors call the table.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.operator, self.name)
    }

    /// Checks that what was written as `schema` for `max_parallelism` key groups can be read as this
    /// table.
    ///
    /// # Errors
    /// If it cannot.
    pub fn check_restored(&self, schema: &str, max_parallelism: u16) -> Result<(), StateError> {
        if schema != self.schema {
            return Err(StateError::Schema {
                table: self.title(),
                written: schema.to_owned(),
                wanted: self.schema.clone(),
            });
        }
        if max_parallelism != self.max_parallelism {
            return Err(StateError::MaxParallelism {
                table: self.title(),
                written: max_parallelism,
                wanted: self.max_parallelism,
            });
        }
        Ok(())
    }
}

/// A type and the size of its archived form, in bytes: changes when a field is added, which the
/// archived bytes themselves do not tell.
fn schema<T: Data>() -> String {
    format!("{} ({} bytes)", std::any::type_name::<T>(), T::ARCHIVED_BYTES)
}

/// How a store keeps a table.
#[non_exhaustive]
pub enum TableStorage {
    /// As typed hash tables in this process's memory, which this crate provides.
    Heap,
    /// As records of the log of [`crate::SegmentsBackend`], which this crate provides.
    Segments(crate::SegmentTable),
    /// As bytes, in a table of the backend's own.
    Bytes(Box<dyn ByteTable>),
}

/// The full name of an entry of a [`ByteTable`].
#[derive(Clone, Copy, Debug)]
pub struct EntryKey<'a> {
    /// The window slice, or other unit that is dropped as a whole, that the entry belongs to;
    /// [`Timestamp::MIN`] for state that has none.
    pub namespace: Timestamp,
    /// The key group: decides with whom the entry moves when the job is rescaled. It need not
    /// follow from `hash`: entries of a map have hashes of their own, and their owner's group.
    pub group: KeyGroup,
    /// A well-mixed hash of `bytes`, the same whenever the entry is named; it does not cover the
    /// namespace.
    pub hash: u64,
    /// The encoded key. Not aligned.
    pub bytes: &'a [u8],
}

/// An entry of a [`ByteTable`] that is visited.
#[derive(Clone, Copy, Debug)]
pub struct StoredEntry<'a> {
    /// See [`EntryKey::namespace`].
    pub namespace: Timestamp,
    /// See [`EntryKey::group`].
    pub group: KeyGroup,
    /// The encoded key.
    pub key: &'a [u8],
    /// The value. Need not be aligned; aligned to 16 it is read without a copy.
    pub value: &'a [u8],
}

/// What becomes of an entry in [`ByteTable::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Stays as it is, or absent.
    Keep,
    /// Takes the new value.
    Write,
    /// Is removed, if it exists.
    Remove,
}

/// A table of bytes: what a backend implements.
///
/// Everything that operators keep is made of these operations; the typed tables add encoding and
/// nothing else. Visiting functions borrow the table, so no operation begins inside another.
///
/// # Errors
/// Operations fail only for reasons outside the program (disk, memory budget, damaged bytes). After
/// an error the subtask is discarded, so a table need not be usable.
pub trait ByteTable {
    /// Calls `read` once, with the entry's value or with `None`.
    fn get(&self, key: EntryKey<'_>, read: &mut dyn FnMut(Option<&[u8]>))
    -> Result<(), StateError>;

    /// Calls `f` once, with the entry's value or `None` and an empty buffer, and then does what it
    /// says; for [`Update::Write`] the buffer holds the new value. One look-up; a new value of the
    /// old one's length is best written in place. `f` may unwind; then the entry stays as it is.
    fn update(
        &mut self,
        key: EntryKey<'_>,
        f: &mut dyn FnMut(Option<&[u8]>, &mut AlignedVec) -> Update,
    ) -> Result<(), StateError>;

    /// Sets an entry's value.
    fn insert(&mut self, key: EntryKey<'_>, value: &[u8]) -> Result<(), StateError> {
        self.update(key, &mut |_, new| {
            new.extend_from_slice(value);
            Update::Write
        })
    }

    /// Removes an entry if it exists.
    fn remove(&mut self, key: EntryKey<'_>) -> Result<(), StateError> {
        self.update(key, &mut |_, _| Update::Remove)
    }

    /// Adds bytes to the end of an entry's value, which is empty if it does not exist.
    ///
    /// Lists grow by this. The default rewrites the value, so n appends cost O(n²) bytes; a backend
    /// that can chain pieces (RocksDB's merge operands, log records) overrides it.
    fn append(&mut self, key: EntryKey<'_>, bytes: &[u8]) -> Result<(), StateError> {
        self.update(key, &mut |old, new| {
            new.extend_from_slice(old.unwrap_or_default());
            new.extend_from_slice(bytes);
            Update::Write
        })
    }

    /// Says that the entries with these hashes are about to be used: a backend may start to load
    /// them. Changes nothing that can be observed otherwise.
    fn prefetch(&self, namespace: Timestamp, hashes: &[u64]) {
        let _ = (namespace, hashes);
    }

    /// The number of entries in a namespace.
    fn len(&self, namespace: Timestamp) -> u64;

    /// The namespaces that hold an entry, ascending.
    fn namespaces(&self) -> Vec<Timestamp>;

    /// Visits the entries of a namespace, in any order. Stops at the first error and returns it.
    fn for_each(
        &self,
        namespace: Timestamp,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError>;

    /// Removes all entries of a namespace.
    fn remove_namespace(&mut self, namespace: Timestamp) -> Result<(), StateError>;

    /// Visits the entries of all namespaces whose key group lies in `groups`, in the order of their
    /// key groups. Stops at the first error and returns it.
    fn snapshot(
        &self,
        groups: &KeyGroupRange,
        visit: &mut dyn FnMut(StoredEntry<'_>) -> Result<(), StateError>,
    ) -> Result<(), StateError>;
}
