//! A running value per key: reduce, aggregate, count, sum, min, max.

use super::lookahead::{Lookahead, Way};
use crate::forward_to_next;
use crate::operator::{Operator, enter_user_code, in_user_code};
use crate::rows::Rows;
use millstream_state::{Data, Key, Table};
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
const LOOKAHEAD_KEYS_MIN: u64 = 32 << 10;
/// Keys looked up at once: about as many misses as a core can have on the way.
const GROUP_ROWS: usize = 32;

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
        let key = in_user_code(self.id, || (self.key)(&value));
        let hash = hash_key(&key);
        self.fold(key, hash, value, timestamp);
    }

    #[inline]
    fn batch(&mut self, rows: &mut Rows<In>) {
        if self.table.len() < LOOKAHEAD_KEYS_MIN {
            rows.drain_each(|value, timestamp| self.record(value, timestamp));
            return;
        }
        let mut lookahead = std::mem::take(&mut self.lookahead);
        lookahead.run(rows.len(), |way| match way {
            Way::Straight => rows.drain_each(|value, timestamp| self.record(value, timestamp)),
            Way::Ahead => self.batch_ahead(rows),
        });
        self.lookahead = lookahead;
    }

    forward_to_next!(watermark, signal, tick, next_deadline, flush, is_blocked, is_finished);
}

impl<K, F, S, KF, N> Fold<K, F, S, KF, N> {
    #[inline(never)]
    fn batch_ahead<In>(&mut self, rows: &mut Rows<In>)
    where
        K: Key,
        S: Data,
        F: FoldFunction<K, In, State = S>,
        KF: Fn(&In) -> K + 'static,
        N: Operator<F::Out>,
    {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        in_user_code(self.id, || {
            hashes.extend(rows.values().iter().map(|value| hash_key(&(self.key)(value))));
        });
        let mut row = 0;
        rows.drain_each(|value, timestamp| {
            if row % GROUP_ROWS == 0 {
                let group = row..hashes.len().min(row + GROUP_ROWS);
                self.table.prefetch(&hashes[group]);
            }
            let key = in_user_code(self.id, || (self.key)(&value));
            self.fold(key, hashes[row], value, timestamp);
            row += 1;
        });
        self.hashes = hashes;
    }

    #[inline(always)]
    fn fold<In>(&mut self, key: K, hash: u64, value: In, timestamp: Timestamp)
    where
        K: Key,
        S: Data,
        F: FoldFunction<K, In, State = S>,
        N: Operator<F::Out>,
    {
        let Self { id, function, table, next, .. } = self;
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
}
