//! Timers in the numbers for which they are made, against an ordered set.

use millstream_state::{HeapBackend, SubtaskState, TableSpec, Timers};
use millstream_types::{KeyGroupRange, KeyHasher, Timestamp, hash_key};
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

const TIMER_COUNT: u64 = 60_000;

/// The i-th of a sequence of numbers below `end` without a pattern.
fn random(seed: &str, i: u64, end: u64) -> u64 {
    let mut hasher = KeyHasher::default();
    (seed, i).hash(&mut hasher);
    hasher.finish() % end
}

/// Registers a timer per step and deletes every third again, with `time` choosing the times; fires
/// every thousand steps what has come due.
fn behave_like_a_set(time: impl Fn(u64, u64) -> u64) {
    let store = SubtaskState::alone(&HeapBackend).unwrap();
    let spec = TableSpec::new("operator", "timers", KeyGroupRange(0..128), 128);
    let mut timers = Timers::<u64>::open(&store, &spec).unwrap();
    let mut model = BTreeSet::new();
    let fire = |timers: &mut Timers<u64>, model: &mut BTreeSet<(Timestamp, u64)>, now| {
        let mut fired = Vec::new();
        timers.pop_until(now, |time, _, key| fired.push((time, key)));
        assert!(fired.is_sorted_by_key(|(time, _)| *time));
        fired.sort_unstable();
        let due: Vec<_> = model.iter().take_while(|(time, _)| *time <= now).copied().collect();
        assert_eq!(fired, due);
        due.iter().for_each(|timer| assert!(model.remove(timer)));
    };
    for i in 0..TIMER_COUNT {
        let now = i * 1_000_000;
        let at = Timestamp::from_nanos((now + time(i, now)) as i64);
        let key = random("key", i, 5_000);
        assert_eq!(timers.register(at, hash_key(&key), &key), model.insert((at, key)));
        if i % 3 == 0 {
            let key = random("key", i / 2, 5_000);
            let at = i64::try_from(i / 2 * 1_000_000 + time(i / 2, i / 2 * 1_000_000)).unwrap();
            let at = Timestamp::from_nanos(at);
            assert_eq!(timers.delete(at, hash_key(&key), &key), model.remove(&(at, key)));
        }
        if i % 1_000 == 0 {
            fire(&mut timers, &mut model, Timestamp::from_nanos(now as i64));
        }
        assert_eq!(timers.next(), model.first().map(|(time, _)| *time));
        assert_eq!(timers.len(), model.len());
    }
    fire(&mut timers, &mut model, Timestamp::MAX);
    assert!(timers.is_empty() && timers.next().is_none());
}

#[test]
fn at_a_constant_delay() {
    behave_like_a_set(|_, _| 20_000_000_000);
}

#[test]
fn at_delays_of_all_magnitudes() {
    behave_like_a_set(|i, _| 1 << random("delay", i, 50));
}

#[test]
fn at_uniform_delays() {
    behave_like_a_set(|i, _| random("delay", i, 30_000_000_000));
}

#[test]
fn at_the_ends_of_windows() {
    behave_like_a_set(|_, now| 10_000_000_000 - now % 10_000_000_000);
}

#[test]
fn at_times_that_come_ever_earlier() {
    behave_like_a_set(|i, now| (TIMER_COUNT * 2_000_000).saturating_sub(now + i * 1_000));
}
