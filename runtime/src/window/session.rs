//! Session windows: a key's records until none has come for a while.

use super::function::WindowFunction;
use super::late::LateRecords;
use super::{Session, TimeWindow, WindowError};
use crate::operator::{Operator, fail, forward_to_next_and_sides, in_user_code};
use millstream_state::{Key, Table, Timers};
use millstream_types::{OperatorId, Timestamp, hash_key};
use sessions::Sessions;
use std::cell::Cell;
use std::time::Duration;

mod sessions;

/// The type of the table of a [`SessionWindow`].
pub type SessionTable<K, S> = Table<K, Sessions<S>>;

/// Keeps the sessions of each key, and emits what `F` makes of a session when it ends.
///
/// A record alone makes the session `[t, t + gap)`, and sessions that overlap or touch become one.
/// Whether a record is late is judged by the session that it ends up in, as in Flink; and as there,
/// a record exactly `gap` after the last one prolongs the session if it comes before the watermark
/// at which that fires, and begins another one if it comes after.
///
/// # Timers
/// A session whose end is yet to come has a timer at or before its last instant, one that has ended
/// but not expired has one at or before its expiry. A timer that comes too early, because the
/// session has grown, is set anew when it fires: so a record that only prolongs a session touches
/// no timer.
pub struct SessionWindow<In, K, KF, F: WindowFunction<K, In>, N> {
    id: OperatorId,
    gap: Duration,
    lateness: Duration,
    key: KF,
    function: F,
    table: SessionTable<K, F::State>,
    timers: Timers<K>,
    watermark: Timestamp,
    late: LateRecords<In>,
    next: N,
}

impl<In, K, KF, F, N> SessionWindow<In, K, KF, F, N>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + 'static,
    F: WindowFunction<K, In>,
    N: Operator<F::Out>,
{
    /// A link that keeps sessions in `table` and `timers` on behalf of operator `id` and pushes into
    /// `next`.
    ///
    /// A session keeps its state for `allowed_lateness` after it has fired. A record that comes in
    /// this time makes it fire again: at once, or at its new end if that is yet to come.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
    pub fn new(
        id: OperatorId,
        sessions: Session,
        allowed_lateness: Duration,
        key: KF,
        function: F,
        table: SessionTable<K, F::State>,
        timers: Timers<K>,
        late: LateRecords<In>,
        next: N,
    ) -> Self {
        Self {
            id,
            gap: sessions.gap(),
            lateness: allowed_lateness,
            key,
            function,
            table,
            timers,
            watermark: Timestamp::MIN,
            late,
            next,
        }
    }

    /// The watermark at which a window expires.
    fn expires(&self, window: TimeWindow) -> Timestamp {
        window.max_timestamp() + self.lateness
    }

    /// True if no session that has not expired would take in `window`, and it has expired itself.
    #[cold]
    fn is_late(&self, hash: u64, key: &K, window: TimeWindow) -> bool {
        self.table.with(hash, key, |sessions| sessions.is_none_or(|s| !s.touch(window)))
    }

    /// Emits the session of a key that contains `within`.
    #[cold]
    fn fire_again(&mut self, hash: u64, key: K, within: TimeWindow) {
        let Self { table, function, next, .. } = self;
        table.with(hash, &key, |sessions| {
            let session = sessions
                .and_then(|sessions| sessions.iter().find(|s| s.window.contains(within.start)))
                .expect("the session that the record was added to");
            function.fire(key.clone(), session.window, &session.state, next);
        });
    }

    /// A timer of a key: sessions end, expire, or get another timer.
    fn on_timer(&mut self, time: Timestamp, hash: u64, key: K) {
        let Self { table, timers, .. } = self;
        // The common case first: the session has grown.
        let only_grown = table.with(hash, &key, |sessions| {
            sessions.is_none_or(|sessions| {
                let grown = sessions.iter().all(|s| s.window.max_timestamp() > time);
                if grown {
                    for session in sessions.iter() {
                        timers.register(session.window.max_timestamp(), hash, &key);
                    }
                }
                grown
            })
        });
        if only_grown {
            return;
        }
        let Some(sessions) = table.remove(hash, &key) else { return };
        let mut kept: Option<Sessions<F::State>> = None;
        for session in sessions.into_iter() {
            let (ends, expires) = (session.window.max_timestamp(), self.expires(session.window));
            if ends == time {
                self.function.fire(key.clone(), session.window, &session.state, &mut self.next);
            }
            let due = if ends > time { ends } else { expires };
            if due > time {
                self.timers.register(due, hash, &key);
                match &mut kept {
                    None => kept = Some(Sessions::one(session)),
                    Some(kept) => kept.push(session),
                }
            }
        }
        if let Some(kept) = kept {
            self.table.insert(hash, &key, kept);
        }
    }
}

impl<In, K, KF, F, N> Operator<In> for SessionWindow<In, K, KF, F, N>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + 'static,
    F: WindowFunction<K, In>,
    N: Operator<F::Out>,
{
    #[inline]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        if !timestamp.is_some() {
            fail(self.id, Box::new(WindowError::NoTimestamp));
        }
        let key = in_user_code(self.id, || (self.key)(&value));
        let hash = hash_key(&key);
        let window = TimeWindow { start: timestamp, end: timestamp + self.gap };
        if self.expires(window) <= self.watermark && self.is_late(hash, &key, window) {
            self.late.take(value, timestamp);
            return;
        }

        let (function, watermark) = (&self.function, self.watermark);
        let first = Cell::new(false);
        let (end, has_timer) = self.table.modify(
            hash,
            &key,
            || {
                first.set(true);
                Sessions::new(window, function.create())
            },
            |sessions| {
                // A timer is pending for the end of the session, or of one that becomes part of it.
                let mut has_timer = false;
                let session = if first.get() {
                    sessions.latest_mut()
                } else {
                    sessions.take_in(
                        window,
                        || function.create(),
                        |state, other| function.merge(state, other),
                        |taken_in| has_timer |= taken_in.max_timestamp() > watermark,
                    )
                };
                function.add(&mut session.state, value);
                (session.window.max_timestamp(), has_timer)
            },
        );
        if end <= self.watermark {
            // Its expiry was set when it fired first; if it never did, nothing is set yet.
            self.timers.register(end + self.lateness, hash, &key);
            self.fire_again(hash, key, window);
        } else if !has_timer {
            self.timers.register(end, hash, &key);
        }
    }

    fn resume(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        self.late.outputs.resume(watermark);
        self.next.resume(watermark);
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
        while let Some((time, hash, key)) = self.timers.pop(watermark) {
            self.on_timer(time, hash, key);
        }
        self.late.outputs.watermark(watermark);
        self.next.watermark(watermark);
    }

    forward_to_next_and_sides!(
        [late.outputs]: signal, tick, next_deadline, flush, is_blocked, is_finished
    );
}

#[cfg(test)]
mod tests;
