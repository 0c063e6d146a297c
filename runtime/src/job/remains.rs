//! What attempts leave to the next.

use millstream_state::{StateBackend, StateStore, StoreRemains, StoreScope};
use millstream_types::SlotIndex;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The stores of slots whose attempt has failed by no fault of theirs. They know how to get back to the
/// checkpoint that the next attempt begins with, without reading it.
#[derive(Debug, Default)]
pub(super) struct Remains(Mutex<BTreeMap<SlotIndex, StoreRemains>>);

impl Remains {
    fn remains(&self) -> MutexGuard<'_, BTreeMap<SlotIndex, StoreRemains>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a slot leaves. Nobody may use a table of the store any more.
    pub(super) fn keep(&self, slot: SlotIndex, store: Box<dyn StateStore>) {
        if let Some(remains) = store.into_remains() {
            self.remains().insert(slot, remains);
        }
    }

    /// Forgets all: what lies in memory may have come from a file that was found damaged.
    pub(super) fn clear(&self) {
        self.remains().clear();
    }

    /// Goes back to the scope's checkpoint with what the slot has left, if there is such a way. What cannot be
    /// used is dropped before this returns.
    pub(super) fn roll_back(
        &self,
        backend: &dyn StateBackend,
        scope: &StoreScope,
    ) -> Option<Box<dyn StateStore>> {
        let remains = self.remains().remove(&scope.slot)?;
        match backend.roll_back(remains, scope) {
            Ok(store) => {
                tracing::debug!("slot {} goes back to the checkpoint in place", scope.slot);
                Some(store)
            }
            Err(reason) => {
                tracing::debug!("slot {} reads the checkpoint's files: {reason}", scope.slot);
                None
            }
        }
    }
}
