//! Keyed state, its backends, and timers.
//!
//! An operator keeps state in typed tables ([`Table`], [`WindowTable`]) or, in user functions, in
//! handles bound to the current key ([`ValueState`], [`ListState`], [`MapState`]). Where the bytes
//! lie is decided per job by a [`StateBackend`]: [`HeapBackend`] keeps typed hash tables in
//! memory, [`SegmentsBackend`] records in a log that is checkpointed and may be larger than memory;
//! any other keeps bytes behind [`ByteTable`].
//!
//! # Invariants
//! - The hash of a key is computed once, by the caller, with [`millstream_types::hash_key`]; every
//!   operation takes it. A wrong hash makes the key unfindable.
//! - Equal keys have equal encodings ([`Data::encode`]), because a byte-level backend compares bytes.
//! - Which built-in representation a table has is decided when it is opened: one predictable
//!   branch per access, no virtual call for the built-in ones.
//! - A failure of a backend never becomes a wrong value: it unwinds to the edge of the subtask as
//!   a [`StateError`] (see [`StateError::catch`]).

mod backend;
mod data;
mod encoded;
mod error;
mod heap;
mod list;
mod map;
mod plain;
mod segments;
mod shared;
mod snapshot;
mod subtask;
mod table;
#[cfg(test)]
mod testing;
mod timers;
mod ttl;
mod value;
mod window_table;

pub use backend::{
    ByteTable, EntryKey, FileChange, FileWatcher, MemberIndex, PersistDone, RestoredFiles,
    StateBackend, StateFile, StateStore, StoreFigure, StoreRemains, StoreScope, StoredEntry,
    TableSpec, TableStorage, Update,
};
pub use data::{Data, DecodeError, EncodeError, Key};
pub use error::StateError;
pub use heap::{HeapBackend, HeapTable};
pub use list::ListState;
pub use map::MapState;
pub use rkyv::util::AlignedVec;
pub use segments::{
    Found, SegmentError, SegmentStats, SegmentStore, SegmentTable, SegmentsBackend, check_segment,
};
pub use snapshot::{Snapshot, SnapshotError, SnapshotWriter};
pub use subtask::{LookAhead, OperatorList, RestoredState, SharedStore, SubtaskState};
pub use table::Table;
pub use timers::Timers;
pub use ttl::{StateClock, Ttl, TtlUpdate, TtlVisibility};
pub use value::{CurrentKey, ValueState};
pub use window_table::WindowTable;
