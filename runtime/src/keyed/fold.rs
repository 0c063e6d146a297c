//! A running value per key: reduce, aggregate, count, sum, min, max.

use super::lookahead::{Lookahead, Way, through_store};
use crate::forward_to_next;
use crate::operator::{Operator, enter_user_code, in_user_code};
use crate::rows::Rows;
use millstream_state::{Data, HeapTable, Key, Table};
use millstream_types::{OperatorId, Timestamp, hash_key};

/// How a value per key goes on with each record.
pub trait FoldFunction<K, In>: 'static {
    /// What is kept per key.
    type State: Data;
    /// What is emitted for each record.
    type Out: 'static;

    /// Takes up the first record of a key.
    fn first(&mut self, key: &K, value: In) -> (Self::State, Self::Out);

    /// Takes up one more record.
    fn next(&mut self, key: &K, state: &mut Self::State, value: In) -> Self::Out;
}

/// Below this many keys a table is in the second-level cache, and there is nothing to try.
const LOOKAHEAD_KEYS_MIN: usize = 32 << 10;
/// So many records ahead a key's entry is asked for. Of records that follow each other most have
/// keys that are in the cache, so of these only a few are misses.
const LOOKAHEAD_ROWS: usize = 64;

/// Keeps a value per key and emits what it came to after each record.
pub struct Fold<K, F, S, KF, N> {
    id: OperatorId,
    key: KF,
    function: F,
    table: Table<K, S>,
    lookahead: Lookahead,
    hashes: Vec<u64>,
    next: N,
}

impl<K, F, S, KF, N> Fold<K, F, S, KF, N> {
    /// A fold of `function` over `table`, with the key that `key` extracts.
    pub fn new(id: OperatorId, key: KF, function: F, table: Table<K, S>, next: N) -> Self {
        Self { id, key, function, table, lookahead: Lookahead::default(), hashes: Vec::new(), next }
    }
}

impl<K, In, F, KF, N> Operator<In> for Fold<K, F, F::State, KF, N>
where
    K: Key,
    In: 'static,
    F: FoldFunction<K, In>,
    KF: Fn(&In) -> K + 'static,
    N: Operator<F::Out>,
{
    #[inline(always)]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        let Self { id, key, function, table, next, .. } = self;
        let key = in_user_code(*id, || key(&value));
        let hash = hash_key(&key);
        let user_code = enter_user_code(*id);
        let out = table.upsert(
            hash,
            &key,
            (function, value),
            |(function, value)| function.first(&key, value),
            |(function, value), state| function.next(&key, state, value),
        );
        user_code.leave();
        next.record(out, timestamp);
    }

    #[inline]
    fn batch(&mut self, rows: &mut Rows<In>) {
        let Self { id, key, function, table, lookahead, hashes, next } = self;
        if table.is_partly_cold() {
            return self.ahead_in_store(rows);
        }
        let Some(table) = table.as_heap() else {
            let mut lookahead = std::mem::take(lookahead);
            lookahead.run(rows.len(), |way| match way {
                Way::Straight => rows.drain_each(|value, timestamp| self.record(value, timestamp)),
                Way::Ahead => self.ahead_in_store(rows),
            });
            self.lookahead = lookahead;
            return;
        };
        let mut fold = HeapFold { id: *id, key, function, table, next };
        if fold.table.len() < LOOKAHEAD_KEYS_MIN {
            return fold.straight(rows);
        }
        lookahead.run(rows.len(), |way| match way {
            Way::Straight => fold.straight(rows),
            Way::Ahead => fold.ahead(rows, hashes),
        });
    }

    forward_to_next!(
        watermark,
        resume,
        signal,
        tick,
        next_deadline,
        flush,
        is_blocked,
        is_finished
    );
}

impl<K, F, S, KF, N> Fold<K, F, S, KF, N>
where
    K: Key,
    S: Data,
{
    #[inline(never)]
    fn ahead_in_store<In>(&mut self, rows: &mut Rows<In>)
    where
        In: 'static,
        F: FoldFunction<K, In, State = S>,
        KF: Fn(&In) -> K + 'static,
        N: Operator<F::Out>,
    {
        let Self { id, key, function, table, hashes, next, .. } = self;
        hashes.clear();
        in_user_code(*id, || {
            hashes.extend(rows.values().iter().map(|value| hash_key(&key(value))));
        });
        through_store(
            rows,
            hashes,
            table,
            |table, hashes| table.prefetch(hashes),
            |table, hashes| table.prefetch_entries(hashes),
            |table, value, timestamp, hash| {
                let key = in_user_code(*id, || key(&value));
                let user_code = enter_user_code(*id);
                let out = table.upsert(
                    hash,
                    &key,
                    (&mut *function, value),
                    |(function, value)| function.first(&key, value),
                    |(function, value), state| function.next(&key, state, value),
                );
                user_code.leave();
                next.record(out, timestamp);
            },
        );
    }
}

/// A fold over a table in memory, for the time of a batch.
///
/// That the loops know the kind of table is worth a fifth of the rate of a count: otherwise each
/// record has to be in memory, at a place from which the code of another kind could take it.
struct HeapFold<'a, K, F, S, KF, N> {
    id: OperatorId,
    key: &'a KF,
    function: &'a mut F,
    table: &'a mut HeapTable<K, S>,
    next: &'a mut N,
}

impl<K: Key, F, S: 'static, KF, N> HeapFold<'_, K, F, S, KF, N> {
    #[inline(always)]
    fn record<In>(&mut self, key: K, hash: u64, value: In, timestamp: Timestamp)
    where
        S: Data,
        F: FoldFunction<K, In, State = S>,
        N: Operator<F::Out>,
    {
        let user_code = enter_user_code(self.id);
        let out = self.table.upsert(
            hash,
            &key,
            (&mut *self.function, value),
            |(function, value)| function.first(&key, value),
            |(function, value), state| function.next(&key, state, value),
        );
        user_code.leave();
        self.next.record(out, timestamp);
    }

    /// Row by row.
    #[inline(never)]
    fn straight<In>(&mut self, rows: &mut Rows<In>)
    where
        S: Data,
        F: FoldFunction<K, In, State = S>,
        KF: Fn(&In) -> K,
        N: Operator<F::Out>,
    {
        rows.drain_each(|value, timestamp| {
            let key = in_user_code(self.id, || (self.key)(&value));
            let hash = hash_key(&key);
            self.record(key, hash, value, timestamp);
        });
    }

    /// Row by row, the entries of the next ones on their way into the cache.
    #[inline(never)]
    fn ahead<In>(&mut self, rows: &mut Rows<In>, hashes: &mut Vec<u64>)
    where
        S: Data,
        F: FoldFunction<K, In, State = S>,
        KF: Fn(&In) -> K,
        N: Operator<F::Out>,
    {
        hashes.clear();
        in_user_code(self.id, || {
            hashes.extend(rows.values().iter().map(|value| hash_key(&(self.key)(value))));
        });
        self.table.prefetch(&hashes[..hashes.len().min(LOOKAHEAD_ROWS)]);
        let mut row = 0;
        rows.drain_each(|value, timestamp| {
            if let Some(hash) = hashes.get(row + LOOKAHEAD_ROWS) {
                self.table.prefetch(std::slice::from_ref(hash));
            }
            let key = in_user_code(self.id, || (self.key)(&value));
            self.record(key, hashes[row], value, timestamp);
            row += 1;
        });
    }
}
