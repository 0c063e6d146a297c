//! Count windows: every so many records of a key.

use super::TimeWindow;
use super::function::WindowFunction;
use crate::operator::{Operator, in_user_code};
use millstream_state::{AlignedVec, Data, DecodeError, EncodeError, Key, Table};
use millstream_types::{OperatorId, Timestamp, hash_key};
use std::num::NonZeroU64;
use std::time::Duration;

/// The type of the table of a [`CountWindow`].
pub type CountTable<K, S> = Table<K, Counted<S>>;

/// Emits what `F` makes of every `count` records of a key, as soon as the last of them has come.
///
/// Event time plays no part, so nothing is late. A window's bounds are those of its records'
/// timestamps, and a window that is not full at the end of the input does not fire, as in Flink.
pub struct CountWindow<In, K, KF, F: WindowFunction<K, In>, N> {
    id: OperatorId,
    count: NonZeroU64,
    key: KF,
    function: F,
    table: CountTable<K, F::State>,
    next: N,
}

/// What a window that is not full holds.
pub struct Counted<S> {
    count: u64,
    first: Timestamp,
    last: Timestamp,
    state: S,
}

impl<In, K, KF, F: WindowFunction<K, In>, N> CountWindow<In, K, KF, F, N> {
    /// A link that keeps windows of `count` records in `table` on behalf of operator `id` and
    /// pushes into `next`.
    pub fn new(
        id: OperatorId,
        count: NonZeroU64,
        key: KF,
        function: F,
        table: CountTable<K, F::State>,
        next: N,
    ) -> Self {
        Self { id, count, key, function, table, next }
    }
}

impl<In, K, KF, F, N> Operator<In> for CountWindow<In, K, KF, F, N>
where
    In: 'static,
    K: Key,
    KF: Fn(&In) -> K + 'static,
    F: WindowFunction<K, In>,
    N: Operator<F::Out>,
{
    #[inline]
    fn record(&mut self, value: In, timestamp: Timestamp) {
        let key = in_user_code(self.id, || (self.key)(&value));
        let hash = hash_key(&key);
        let function = &self.function;
        let count = self.table.modify(
            hash,
            &key,
            || Counted { count: 0, first: timestamp, last: timestamp, state: function.create() },
            |window| {
                window.count += 1;
                window.first = window.first.min(timestamp);
                window.last = window.last.max(timestamp);
                function.add(&mut window.state, value);
                window.count
            },
        );
        if count == self.count.get() {
            let full = self.table.remove(hash, &key).expect("the window that is now full");
            let window = TimeWindow { start: full.first, end: full.last + Duration::from_nanos(1) };
            self.function.fire(key, window, &full.state, &mut self.next);
        }
    }

    crate::forward_to_next!(
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

/// Count, first and last timestamp, and the encoding of the state: that the state has an encoding
/// does not say that it is rkyv's.
impl<S: Data> Data for Counted<S> {
    const ARCHIVED_BYTES: usize = S::ARCHIVED_BYTES;

    fn encode(&self, out: &mut AlignedVec) -> Result<(), EncodeError> {
        self.state.encode(out)?;
        (self.count, self.first.as_nanos(), self.last.as_nanos(), out.to_vec()).encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (count, first, last, state) = <(u64, i64, i64, Vec<u8>)>::decode(bytes)?;
        let [first, last] = [first, last].map(Timestamp::from_nanos);
        Ok(Self { count, first, last, state: S::decode(&state)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::testing::*;
    use crate::window::{WindowAggregate, WindowResult};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ID: OperatorId = OperatorId(5);

    proptest! {
        #[test]
        fn every_so_many_records_of_a_key_fire(steps in script(100), kept in kept(), size in 1u64..6) {
            let (store, spec) = store(kept);
            let (sink, seen) = Sink::new();
            let mut window = CountWindow::new(
                ID,
                NonZeroU64::new(size).unwrap(),
                |e: &Event| e.key,
                WindowAggregate::new(ID, All),
                CountTable::open(&store, &spec).unwrap(),
                sink,
            );
            let (mut open, mut fired) = (BTreeMap::<u8, Vec<Event>>::new(), Vec::new());
            for step in steps {
                push(&mut window, step);
                let Step::Record(event) = step else { continue };
                let of_key = open.entry(event.key).or_default();
                of_key.push(event);
                if of_key.len() as u64 == size {
                    let events = std::mem::take(of_key);
                    let times = || events.iter().map(|e| e.time);
                    let (start, last) = (times().min().unwrap(), times().max().unwrap());
                    let window = TimeWindow { start: t(start), end: t(last + 1) };
                    let value = events.iter().map(|e| e.id).collect();
                    fired.push((WindowResult { key: event.key, window, value }, t(last)));
                }
            }
            finish(&mut window);
            prop_assert_eq!(&seen.borrow().records, &fired);
        }
    }

    #[test]
    fn records_without_timestamps_make_results_without() {
        let (store, spec) = store(Kept::Typed);
        let (sink, seen) = Sink::new();
        let table = CountTable::open(&store, &spec).unwrap();
        let function = WindowAggregate::new(ID, All);
        let mut window =
            CountWindow::new(ID, NonZeroU64::MIN, |e: &Event| e.key, function, table, sink);
        window.record(Event { key: 0, id: 1, time: 0 }, Timestamp::MIN);
        assert_eq!(seen.borrow().records[0].1, Timestamp::MIN);
    }

    #[test]
    fn an_open_window_survives_encoding() {
        let window = Counted { count: 2, first: t(-3), last: t(8), state: "ab".to_owned() };
        let mut out = AlignedVec::new();
        window.encode(&mut out).unwrap();
        let Counted { count, first, last, state } = Counted::<String>::decode(&out).unwrap();
        assert_eq!((count, first, last, state), (2, t(-3), t(8), "ab".to_owned()));
    }
}
