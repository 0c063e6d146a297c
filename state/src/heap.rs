//! The backend `heap`: typed hash tables in memory.

mod aging;
mod memory;
mod prefetch;
mod slices;
mod table;

pub(crate) use aging::{AgingTable, PLACES_PER_WRITE, Perishable};
pub(crate) use slices::Slices;
pub use table::HeapTable;

use crate::{
    MemberIndex, StateBackend, StateError, StateStore, StoreScope, TableSpec, TableStorage,
};

/// Keeps state as typed hash tables in the memory of the process. Fast, bounded by memory, and a
/// snapshot of it is always a full one.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapBackend;

impl StateBackend for HeapBackend {
    fn name(&self) -> &str {
        "heap"
    }

    fn open(&self, _scope: StoreScope) -> Result<Box<dyn StateStore>, StateError> {
        Ok(Box::new(HeapStore))
    }
}

struct HeapStore;

impl StateStore for HeapStore {
    fn table(&mut self, _: MemberIndex, _: &TableSpec) -> Result<TableStorage, StateError> {
        Ok(TableStorage::Heap)
    }
}
