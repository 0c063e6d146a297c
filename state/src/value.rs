//! One value for the current key.

use crate::{Data, Key, StateError, SubtaskState, Table, TableSpec};

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
pub struct ValueState<K, V> {
    table: Table<K, V>,
}

impl<K: Key, V: Data> ValueState<K, V> {
    /// Opens the state.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn open(state: &SubtaskState, spec: &TableSpec) -> Result<Self, StateError> {
        Ok(Self { table: Table::open(state, spec)? })
    }

    /// A copy of the value.
    #[inline]
    pub fn get(&self, cx: &impl CurrentKey<K>) -> Option<V>
    where
        V: Clone,
    {
        self.table.get(cx.hash(), cx.key())
    }

    /// Hands the value, or `None`, to `f`, without a copy where the backend can.
    #[inline]
    pub fn with<R>(&self, cx: &impl CurrentKey<K>, f: impl FnOnce(Option<&V>) -> R) -> R {
        self.table.with(cx.hash(), cx.key(), f)
    }

    /// Sets the value.
    #[inline]
    pub fn set(&mut self, cx: &impl CurrentKey<K>, value: V) {
        self.table.insert(cx.hash(), cx.key(), value);
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
        self.table.modify(cx.hash(), cx.key(), init, f)
    }

    /// Removes the value and returns it.
    #[inline]
    pub fn take(&mut self, cx: &impl CurrentKey<K>) -> Option<V> {
        self.table.remove(cx.hash(), cx.key())
    }

    /// Removes the value.
    #[inline]
    pub fn clear(&mut self, cx: &impl CurrentKey<K>) {
        self.take(cx);
    }

    /// As [`Table::prefetch`].
    pub fn prefetch(&self, hashes: &[u64]) {
        self.table.prefetch(hashes);
    }
}
