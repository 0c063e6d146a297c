//! The window join: pairs of records with the same key in the same window.

use super::calendar::SliceCalendar;
use super::dense_table::DenseTable;
use super::one_or_more::OneOrMore;
use super::{Slicing, TimeWindow, WindowError};
use crate::metrics::JobCounters;
use crate::operator::{Operator, TwoInputOperator, fail, in_user_code};
use millstream_state::{Data, Key, WindowTable};
use millstream_types::{OperatorId, Timestamp, hash_key};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The type of the tables of a [`WindowJoin`], one for each input.
pub type JoinTable<K, T> = WindowTable<K, OneOrMore<T>>;

/// The inner join of two streams over windows: for each window and key, each record of the one with
/// each of the other, when the window fires.
///
/// Records are kept once, in their slices. A late record is counted and dropped; one within the
/// allowed lateness makes its windows fire again for its key, with all pairs, as in Flink.
pub struct WindowJoin<L, R, K, KL, KR, F, N> {
    id: OperatorId,
    slicing: Slicing,
    key_of_left: KL,
    key_of_right: KR,
    apply: F,
    left: JoinTable<K, L>,
    right: JoinTable<K, R>,
    /// The slice of the last record.
    recent: TimeWindow,
    calendar: SliceCalendar,
    /// Where a window of several slices is merged: the keys with a record on the left.
    merged: DenseTable<K, (Vec<L>, Vec<R>)>,
    counters: Arc<JobCounters>,
    next: N,
}

impl<L, R, K, KL, KR, F, Out, N> WindowJoin<L, R, K, KL, KR, F, N>
where
    L: Data + Clone,
    R: Data + Clone,
    K: Key,
    F: FnMut(&L, &R) -> Out + 'static,
    N: Operator<Out>,
{
    /// A link that joins on behalf of operator `id` and pushes what `apply` makes of each pair into
    /// `next`, with the window's [`TimeWindow::max_timestamp`]. `keys` take the keys of the left and
    /// the right records, `tables` keep them.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        id: OperatorId,
        slicing: impl Into<Slicing>,
        allowed_lateness: Duration,
        keys: (KL, KR),
        apply: F,
        tables: (JoinTable<K, L>, JoinTable<K, R>),
        counters: Arc<JobCounters>,
        next: N,
    ) -> Self {
        let (slicing, (left, right)) = (slicing.into(), tables);
        let slices = left.namespaces().into_iter().chain(right.namespaces());
        Self {
            id,
            slicing,
            key_of_left: keys.0,
            key_of_right: keys.1,
            apply,
            calendar: SliceCalendar::new(slicing, allowed_lateness, slices),
            left,
            right,
            recent: TimeWindow { start: Timestamp::MAX, end: Timestamp::MIN },
            merged: DenseTable::default(),
            counters,
            next,
        }
    }

    /// The slice of a record, if it is part of a window and not late.
    #[inline(always)]
    fn enter(&mut self, time: Timestamp) -> Option<Timestamp> {
        if !self.recent.contains(time) && !self.seek(time) {
            return None;
        }
        if !self.calendar.enter(self.recent.end) {
            self.counters.add_late(1);
            return None;
        }
        Some(self.recent.end)
    }

    #[cold]
    fn seek(&mut self, time: Timestamp) -> bool {
        if !time.is_some() && self.slicing.needs_time() {
            fail(self.id, Box::new(WindowError::NoTimestamp));
        }
        let slice = self.slicing.slice_of(time);
        self.recent = slice.unwrap_or(self.recent);
        slice.is_some()
    }

    #[cold]
    fn fire_again(&mut self, slice: Timestamp, hash: u64, key: &K) {
        for window in self.calendar.fired_windows(slice) {
            let slices = self.calendar.slices_of(window);
            let mut pairs =
                Pairs { id: self.id, apply: &mut self.apply, window, next: &mut self.next };
            for l in slices.clone() {
                self.left.with(self.calendar.slice(l), hash, key, |lefts| {
                    let Some(lefts) = lefts else { return };
                    for r in slices.clone() {
                        self.right.with(self.calendar.slice(r), hash, key, |rights| {
                            if let Some(rights) = rights {
                                pairs.emit(lefts.iter(), rights.iter());
                            }
                        });
                    }
                });
            }
        }
    }

    fn fire(&mut self, window: TimeWindow) {
        let slices = self.calendar.slices_of(window);
        if slices.len() == 1 {
            self.fire_slice(window, self.calendar.slice(slices.start));
        } else {
            self.fire_slices(window, slices);
        }
        let used_up = self.calendar.last_use(window);
        for at in used_up.clone() {
            self.forget(self.calendar.slice(at));
        }
        self.calendar.forget(used_up);
    }

    fn forget(&mut self, slice: Timestamp) {
        self.left.remove_namespace(slice);
        self.right.remove_namespace(slice);
    }

    /// Fires a window that is one slice: visits the side with fewer keys, looks into the other.
    fn fire_slice(&mut self, window: TimeWindow, slice: Timestamp) {
        let Self { left, right, id, apply, next, .. } = self;
        let mut pairs = Pairs { id: *id, apply, window, next };
        if left.len(slice) <= right.len(slice) {
            left.for_each_in(slice, |key, lefts| {
                right.with(slice, hash_key(key), key, |rights| {
                    if let Some(rights) = rights {
                        pairs.emit(lefts.iter(), rights.iter());
                    }
                });
            });
        } else {
            right.for_each_in(slice, |key, rights| {
                left.with(slice, hash_key(key), key, |lefts| {
                    if let Some(lefts) = lefts {
                        pairs.emit(lefts.iter(), rights.iter());
                    }
                });
            });
        }
    }

    /// Fires a window of several slices: gathers its records by key.
    fn fire_slices(&mut self, window: TimeWindow, slices: Range<usize>) {
        let Self { left, right, id, apply, next, merged, calendar, .. } = self;
        for at in slices.clone() {
            left.for_each_in(calendar.slice(at), |key, lefts| {
                let at = merged.find(key).unwrap_or_else(|vacant| {
                    merged.insert(vacant, key.clone(), Default::default())
                });
                merged.value_mut(at).0.extend(lefts.iter().cloned());
            });
        }
        for at in slices {
            right.for_each_in(calendar.slice(at), |key, rights| {
                if let Ok(at) = merged.find(key) {
                    merged.value_mut(at).1.extend(rights.iter().cloned());
                }
            });
        }
        let mut pairs = Pairs { id: *id, apply, window, next };
        for (_, (lefts, rights)) in merged.drain() {
            pairs.emit(lefts.iter(), rights.iter());
        }
    }
}

/// Where the pairs of a window go.
struct Pairs<'a, F, N> {
    id: OperatorId,
    apply: &'a mut F,
    window: TimeWindow,
    next: &'a mut N,
}

impl<F, N> Pairs<'_, F, N> {
    fn emit<'t, L: 't, R: 't, Out>(
        &mut self,
        lefts: impl Iterator<Item = &'t L>,
        rights: impl Iterator<Item = &'t R> + Clone,
    ) where
        F: FnMut(&L, &R) -> Out,
        N: Operator<Out>,
    {
        for left in lefts {
            for right in rights.clone() {
                let joined = in_user_code(self.id, || (self.apply)(left, right));
                self.next.record(joined, self.window.max_timestamp());
            }
        }
    }
}

impl<L, R, K, KL, KR, F, Out, N> TwoInputOperator<L, R> for WindowJoin<L, R, K, KL, KR, F, N>
where
    L: Data + Clone,
    R: Data + Clone,
    K: Key,
    KL: Fn(&L) -> K + 'static,
    KR: Fn(&R) -> K + 'static,
    F: FnMut(&L, &R) -> Out + 'static,
    N: Operator<Out>,
{
    #[inline]
    fn left(&mut self, value: L, timestamp: Timestamp) {
        let Some(slice) = self.enter(timestamp) else { return };
        let key = in_user_code(self.id, || (self.key_of_left)(&value));
        let hash = hash_key(&key);
        add(&mut self.left, slice, hash, &key, value);
        if self.calendar.entered_has_fired() {
            self.fire_again(slice, hash, &key);
        }
    }

    #[inline]
    fn right(&mut self, value: R, timestamp: Timestamp) {
        let Some(slice) = self.enter(timestamp) else { return };
        let key = in_user_code(self.id, || (self.key_of_right)(&value));
        let hash = hash_key(&key);
        add(&mut self.right, slice, hash, &key, value);
        if self.calendar.entered_has_fired() {
            self.fire_again(slice, hash, &key);
        }
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.calendar.advance(watermark);
        while let Some(window) = self.calendar.next_due() {
            self.fire(window);
        }
        while let Some(slice) = self.calendar.forget_expired() {
            self.forget(slice);
        }
        self.next.watermark(watermark);
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.calendar.resume(watermark);
        self.next.resume(watermark);
    }

    crate::forward_to_next!(signal, tick, next_deadline, flush, is_blocked, is_finished);
}

/// Adds a record to those of its key and slice.
#[inline]
fn add<K: Key, T: Data>(
    table: &mut JoinTable<K, T>,
    slice: Timestamp,
    hash: u64,
    key: &K,
    value: T,
) {
    let first = |value| (OneOrMore::one(value), ());
    table.upsert(slice, hash, key, value, first, |value, list| list.push(value));
}

#[cfg(test)]
mod tests;
