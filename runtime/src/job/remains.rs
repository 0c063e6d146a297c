//! What attempts leave to the next.

use crate::checkpoint::Damaged;
use millstream_state::{StateBackend, StateStore, StoreRemains, StoreScope};
use millstream_types::SlotIndex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The stores of slots whose attempt has failed, and which have not panicked themselves. They know how to get
/// back to the checkpoint that the next attempt begins with, without reading it.
#[derive(Debug, Default)]
pub(super) struct Remains(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stores: BTreeMap<SlotIndex, StoreRemains>,
    /// Files that have been found damaged.
    damaged: Damaged,
}

impl Remains {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a slot leaves. Nobody may use a table of the store any more.
    pub(super) fn keep(&self, slot: SlotIndex, store: Box<dyn StateStore>) {
        match store.into_remains() {
            Some(remains) => drop(self.inner().stores.insert(slot, remains)),
            None => tracing::debug!("slot {slot} leaves nothing to go on with"),
        }
    }

    /// These files have been found damaged: if one of them is new, what lies in memory may have come from it.
    pub(super) fn distrust(&self, damaged: &Damaged) {
        let mut inner = self.inner();
        if !damaged.is_subset(&inner.damaged) {
            inner.damaged.extend(damaged.iter().cloned());
            inner.stores.clear();
        }
    }

    /// From now on the process has these slots, and nothing of others.
    pub(super) fn keep_of(&self, slots: Range<u32>) {
        self.inner().stores.retain(|slot, _| slots.contains(&slot.0));
    }

    /// Goes back to the scope's checkpoint with what the slot has left, if there is such a way. What cannot be
    /// used is dropped before this returns.
    pub(super) fn roll_back(
        &self,
        backend: &dyn StateBackend,
        scope: &StoreScope,
    ) -> Option<Box<dyn StateStore>> {
        let remains = self.inner().stores.remove(&scope.slot)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_state::{MemberIndex, StateError, TableSpec, TableStorage};

    /// A backend whose stores always leave something.
    struct Leaving;

    impl StateStore for Leaving {
        fn table(&mut self, _: MemberIndex, _: &TableSpec) -> Result<TableStorage, StateError> {
            Ok(TableStorage::Heap)
        }

        fn into_remains(self: Box<Self>) -> Option<StoreRemains> {
            Some(StoreRemains::new(()))
        }
    }

    impl StateBackend for Leaving {
        fn name(&self) -> &str {
            "leaving"
        }

        fn open(&self, _: StoreScope) -> Result<Box<dyn StateStore>, StateError> {
            Ok(Box::new(Self))
        }

        fn roll_back(
            &self,
            _: StoreRemains,
            _: &StoreScope,
        ) -> Result<Box<dyn StateStore>, String> {
            Ok(Box::new(Self))
        }
    }

    #[test]
    fn what_may_have_come_from_a_damaged_file_is_not_gone_on_with() {
        let (remains, slot) = (Remains::default(), SlotIndex(3));
        let goes_on = || remains.roll_back(&Leaving, &StoreScope::new(slot)).is_some();
        assert!(!goes_on(), "nothing has been left");
        remains.keep(slot, Box::new(Leaving));
        assert!(goes_on());
        assert!(!goes_on(), "it is used once");
        let damaged = Damaged::from(["a.segment".to_owned()]);
        remains.keep(slot, Box::new(Leaving));
        remains.distrust(&damaged);
        assert!(!goes_on());
        // What was left later has been read since.
        remains.keep(slot, Box::new(Leaving));
        remains.distrust(&damaged);
        assert!(goes_on());
    }
}
