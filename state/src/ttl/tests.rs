//! Time to live on every backend, with a clock that the test sets.

mod model;

use super::*;
use crate::subtask::tests::snapshot_of;
use crate::testing::{At, MAX_PARALLELISM, OrderedBackend};
use crate::{
    HeapBackend, ListState, MapState, MemberIndex, RestoredFiles, RestoredState, SegmentsBackend,
    SharedStore, StateBackend, StoreScope, SubtaskState, TableSpec, ValueState,
};
use millstream_types::{
    CheckpointId, KeyGroup, KeyGroupAssignment, KeyGroupRange, SlotIndex, SubtaskIndex, hash_key,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

#[test]
#[should_panic(expected = "a time to live of zero keeps nothing")]
fn nothing_lives_for_no_time() {
    let _ = Ttl::new(Duration::ZERO);
}

#[test]
#[should_panic(expected = "is longer than the 100 years")]
fn nothing_lives_for_ever() {
    let _ = Ttl::new(Duration::MAX);
}

#[test]
fn reads_make_live_on_what_lives_if_they_are_to() {
    let clock = StateClock::at(Timestamp::from_nanos(100));
    let ttl = Ttl::new(Duration::from_nanos(10));
    let of = |ttl| Lifetime::new(ttl, clock.clone(), Rc::default());
    let (written, read) = (of(ttl), of(ttl.update(TtlUpdate::OnReadAndWrite)));
    let at = Timestamp::from_nanos;
    assert_eq!(written.refreshed(at(105)), None);
    assert_eq!(read.refreshed(at(105)), Some(at(110)));
    assert_eq!(read.refreshed(at(100)), None, "it has expired");
    assert!(written.is_over(at(100)) && !written.is_over(at(101)));
    assert!(of(Ttl::new(Ttl::DURATION_MAX)).expiry() < Timestamp::MAX);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Heap,
    Ordered,
    Segments,
    /// Without a directory, and so without checkpoints.
    SegmentsInMemory,
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos as i64)
}

fn ranges(parallelism: u16) -> Vec<KeyGroupRange> {
    let assignment = KeyGroupAssignment::new(parallelism, MAX_PARALLELISM).unwrap();
    (0..parallelism).map(|s| assignment.range(SubtaskIndex(u32::from(s)))).collect()
}

fn store(
    kind: Kind,
    directory: &Path,
    now: u64,
    ranges: &[KeyGroupRange],
    restored: Option<RestoredFiles>,
) -> SharedStore {
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.now = at(now);
    scope.owned = ranges.iter().map(|groups| ("op".to_owned(), groups.clone())).collect();
    if kind == Kind::Segments {
        scope.directory = Some(directory.to_owned());
        scope.restored = restored;
    }
    let store = match kind {
        Kind::Heap => HeapBackend.open(scope),
        Kind::Ordered => OrderedBackend.open(scope),
        _ => SegmentsBackend::new()
            .with_segment_bytes(16 << 10)
            .with_mutable_bytes(40 << 10)
            .open(scope),
    };
    Rc::new(RefCell::new(store.unwrap()))
}

/// A store, and a subtask on it that owns everything.
fn alone(
    kind: Kind,
    directory: &Path,
    now: u64,
    restored: Option<(RestoredFiles, crate::Snapshot)>,
) -> (SharedStore, SubtaskState, StateClock) {
    let (files, snapshot) = restored.unzip();
    let store = store(kind, directory, now, &ranges(1), files);
    let restored = snapshot.map(|snapshot| Arc::new(RestoredState::new(vec![snapshot])));
    let subtask = SubtaskIndex(0);
    let state = SubtaskState::new(Rc::clone(&store), MemberIndex(0), subtask, restored);
    let clock = StateClock::at(at(now));
    (store, state.with_clock(clock.clone()), clock)
}

fn saved(store: &SharedStore, state: &SubtaskState) -> (RestoredFiles, crate::Snapshot) {
    let checkpoint = CheckpointId(1);
    let snapshot = snapshot_of(state, checkpoint);
    let (sender, receiver) = channel();
    store.borrow_mut().persist(checkpoint, Box::new(move |files| sender.send(files).unwrap()));
    let files = receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    (RestoredFiles { checkpoint, files }, snapshot)
}

fn spec(name: &str) -> TableSpec {
    TableSpec::new("op", name, KeyGroupRange(0..MAX_PARALLELISM), MAX_PARALLELISM)
}

fn nanos(ttl: u64) -> Ttl {
    Ttl::new(Duration::from_nanos(ttl))
}

const DURABLE: [Kind; 3] = [Kind::Heap, Kind::Ordered, Kind::Segments];

#[test]
fn state_with_a_time_to_live_and_without_is_not_taken_for_one_another() {
    for kind in DURABLE {
        let directory = tempfile::tempdir().unwrap();
        let (store, state, _) = alone(kind, directory.path(), 0, None);
        let (lasting, expiring) = (spec("lasting"), spec("expiring").with_ttl(nanos(10)));
        ValueState::open(&state, &lasting).unwrap().set(&At(&1u8), 7u64);
        ValueState::open(&state, &expiring).unwrap().set(&At(&1u8), 7u64);
        let saved = saved(&store, &state);
        let refused = |spec: &TableSpec| {
            let (_, state, _) = alone(kind, directory.path(), 0, Some(saved.clone()));
            let error = ValueState::<u8, u64>::open(&state, spec).map(|_| ()).unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error} {}", cause.unwrap_or_default())
        };
        let types = "u8 (1 bytes) -> u64 (8 bytes)";
        let (with, without) = (format!("{types}, with a time to live\""), format!("{types}\""));
        for spec in [lasting.clone().with_ttl(nanos(10)), spec("expiring")] {
            let error = refused(&spec);
            assert!(error.contains(&with) && error.contains(&without), "{kind:?}: {error}");
            assert!(error.contains("give the new state another name"), "{kind:?}: {error}");
        }
        let (_, state, _) = alone(kind, directory.path(), 5, Some(saved.clone()));
        let other = spec("expiring").with_ttl(nanos(99).update(TtlUpdate::OnReadAndWrite));
        let value = ValueState::open(&state, &other).unwrap();
        assert_eq!(value.get(&At(&1u8)), Some(7u64), "another duration is no other state");
    }
}

#[test]
fn time_passes_while_a_job_is_down() {
    for kind in DURABLE {
        let directory = tempfile::tempdir().unwrap();
        let (store, state, _) = alone(kind, directory.path(), 100, None);
        let spec = spec("value").with_ttl(nanos(50));
        ValueState::open(&state, &spec).unwrap().set(&At(&1u8), 7u64);
        let saved = saved(&store, &state);
        for (now, found) in [(149, Some(7u64)), (150, None), (1000, None)] {
            for visibility in
                [TtlVisibility::NeverReturnExpired, TtlVisibility::ReturnExpiredIfNotCleanedUp]
            {
                let (_, state, _) = alone(kind, directory.path(), now, Some(saved.clone()));
                let spec = spec.clone().with_ttl(nanos(50).visibility(visibility));
                let value = ValueState::open(&state, &spec).unwrap();
                assert_eq!(value.get(&At(&1u8)), found, "{kind:?} at {now}");
            }
        }
    }
}

#[test]
fn what_has_expired_is_seen_until_it_is_cleaned_up_if_that_is_wanted() {
    let visibility = TtlVisibility::ReturnExpiredIfNotCleanedUp;
    for kind in [Kind::Heap, Kind::Ordered, Kind::Segments, Kind::SegmentsInMemory] {
        let directory = tempfile::tempdir().unwrap();
        let (_, state, clock) = alone(kind, directory.path(), 0, None);
        let spec = |name| spec(name).with_ttl(nanos(10).visibility(visibility));
        let mut value = ValueState::open(&state, &spec("value")).unwrap();
        let mut list = ListState::open(&state, &spec("list")).unwrap();
        let mut map = MapState::open(&state, &spec("map")).unwrap();
        let cx = At(&1u8);
        value.set(&cx, 7u64);
        list.push(&cx, 8u64);
        map.put(&cx, &1u8, 9u64);
        clock.set(at(1000));
        assert_eq!((value.get(&cx), list.get(&cx)), (Some(7), vec![8]), "{kind:?}");
        assert_eq!((map.get(&cx, &1), map.len(&cx)), (Some(9), 1), "{kind:?}");
        // To change it makes it live on.
        value.modify(&cx, || 0, |n| *n += 1);
        map.modify(&cx, &1, || 0, |n| *n += 1);
        clock.set(at(1009));
        state.sweep();
        assert_eq!((value.get(&cx), map.get(&cx, &1)), (Some(8), Some(10)), "{kind:?}");
        assert_eq!(map.len(&cx), 1, "{kind:?}");
        clock.set(at(2000));
        if kind == Kind::Heap {
            state.sweep();
            assert_eq!((value.get(&cx), list.get(&cx), map.len(&cx)), (None, vec![], 0));
            assert_eq!(state.expired_values(), 3);
        }
    }
}

#[test]
fn tables_of_the_engine_have_no_time_to_live() {
    let state = SubtaskState::alone(&HeapBackend).unwrap();
    let spec = spec("table").with_ttl(nanos(1));
    let error = crate::Table::<u8, u8>::open(&state, &spec).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("\"op/table\" cannot have a time to live"), "{error}");
}

/// Ever new keys, elements of one list and entries of one map.
#[test]
fn what_is_never_asked_for_again_is_reclaimed() {
    const LIVE: u64 = 300;
    const COUNT: u64 = 20 * LIVE;
    for kind in [Kind::Heap, Kind::Ordered, Kind::Segments, Kind::SegmentsInMemory] {
        let directory = tempfile::tempdir().unwrap();
        let (store, state, clock) = alone(kind, directory.path(), 0, None);
        let spec = |name| spec(name).with_ttl(nanos(LIVE));
        let mut value = ValueState::open(&state, &spec("value")).unwrap();
        let mut list = ListState::open(&state, &spec("list")).unwrap();
        let mut map = MapState::open(&state, &spec("map")).unwrap();
        let mut maps = MapState::open(&state, &spec("maps")).unwrap();
        for n in 0..COUNT {
            clock.set(at(n));
            value.set(&At(&n), [n; 8]);
            list.push(&At(&1u8), n);
            map.put(&At(&1u8), &n, n);
            maps.put(&At(&n), &1u8, n);
            if n % 100 == 0 {
                while store.borrow_mut().maintain(Duration::ZERO) {}
            }
            if kind == Kind::Ordered && n % LIVE == 0 {
                // Nobody but a snapshot looks for it.
                snapshot_of(&state, CheckpointId(n));
            }
        }
        let expected: Vec<_> = (COUNT - LIVE..COUNT).collect();
        assert_eq!(list.get(&At(&1u8)), expected, "{kind:?}");
        assert_eq!(map.len(&At(&1u8)), LIVE, "{kind:?}");
        let reclaimed = state.expired_values();
        match kind {
            Kind::Heap => assert!(reclaimed > 4 * (COUNT - 4 * LIVE), "{reclaimed}"),
            Kind::Ordered => assert!(reclaimed > 3 * (COUNT - 4 * LIVE), "{reclaimed}"),
            // The store reclaims what it holds itself.
            _ => {}
        }
    }
}
