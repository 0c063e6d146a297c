//! One value for the current key.

use crate::{Data, Key, StateError, SubtaskState, Table, TableSpec};
use expiring::ExpiringValues;

mod expiring;

pub(crate) use expiring::{Aged, modify_aged, put};

/// The key whose record or timer is being processed, as the runtime's context knows it.
pub trait CurrentKey<K> {
    /// The key.
    fn key(&self) -> &K;
    /// Its hash, of [`millstream_types::hash_key`].
    fn hash(&self) -> u64;
}

/// One value for each key, as user functions see it: every operation is about the current key.
///
/// ```
/// # use millstream_state::*;
/// # use millstream_types::{KeyGroupRange, hash_key};
/// # struct Context(String);
/// # impl CurrentKey<String> for Context {
/// #     fn key(&self) -> &String { &self.0 }
/// #     fn hash(&self) -> u64 { hash_key(&self.0) }
/// # }
/// # let state = SubtaskState::alone(&HeapBackend)?;
/// # let spec = TableSpec::new("operator", "count", KeyGroupRange(0..128), 128);
/// let mut count = ValueState::<String, u64>::open(&state, &spec)?;
/// # let cx = Context("a key".into());
/// count.modify(&cx, || 0, |n| *n += 1);
/// assert_eq!(count.get(&cx), Some(1));
/// # Ok::<(), StateError>(())
/// ```
///
/// With a time to live ([`TableSpec::with_ttl`]) a value is gone when it expires. To write it makes it
/// live on: [`set`](Self::set) and [`modify`](Self::modify), and every read if the
/// [`Ttl`](crate::Ttl) says so.
pub struct ValueState<K, V> {
    storage: Storage<K, V>,
}

enum Storage<K, V> {
    Lasting(Table<K, V>),
    Expiring(ExpiringValues<K, V>),
}

impl<K: Key, V: Data> ValueState<K, V> {
    /// Opens the state.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError> {
        let storage = match spec.ttl {
            None => Storage::Lasting(Table::open(state, spec)?),
            Some(ttl) => Storage::Expiring(ExpiringValues::open(state, spec, ttl)?),
        };
        Ok(Self { storage })
    }

    /// A copy of the value.
    #[inline]
    pub fn get(&self, cx: &impl CurrentKey<K>) -> Option<V>
    where
        V: Clone,
    {
        match &self.storage {
            Storage::Lasting(table) => table.get(cx.hash(), cx.key()),
            Storage::Expiring(values) => values.with(cx, |value| value.cloned()),
        }
    }

    /// Hands the value, or `None`, to `f`, without a copy where the backend can.
    #[inline]
    pub fn with<R>(&self, cx: &impl CurrentKey<K>, f: impl FnOnce(Option<&V>) -> R) -> R {
        match &self.storage {
            Storage::Lasting(table) => table.with(cx.hash(), cx.key(), f),
            Storage::Expiring(values) => values.with(cx, f),
        }
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, cx: &impl CurrentKey<K>, value: V) {
        match &mut self.storage {
            Storage::Lasting(table) => table.insert(cx.hash(), cx.key(), value),
            Storage::Expiring(values) => values.set(cx, value),
        }
    }

    /// Changes the value in place, made by `init` if there is none: one look-up, where
    /// [`get`](Self::get) and [`set`](Self::set) are two.
    #[inline]
    pub fn modify<R>(
        &mut self,
        cx: &impl CurrentKey<K>,
        init: impl FnOnce() -> V,
        f: impl FnOnce(&mut V) -> R,
    ) -> R {
        match &mut self.storage {
            Storage::Lasting(table) => table.modify(cx.hash(), cx.key(), init, f),
            Storage::Expiring(values) => values.modify(cx, init, f),
        }
    }

    /// Removes the value and returns it.
    #[inline]
    pub fn take(&mut self, cx: &impl CurrentKey<K>) -> Option<V> {
        match &mut self.storage {
            Storage::Lasting(table) => table.remove(cx.hash(), cx.key()),
            Storage::Expiring(values) => values.take(cx),
        }
    }

    /// Removes the value.
    #[inline]
    pub fn clear(&mut self, cx: &impl CurrentKey<K>) {
        self.take(cx);
    }

    /// As [`Table::prefetch`].
    pub fn prefetch(&self, hashes: &[u64]) {
        match &self.storage {
            Storage::Lasting(table) => table.prefetch(hashes),
            Storage::Expiring(values) => values.prefetch(hashes),
        }
    }
}
