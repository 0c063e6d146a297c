//! Time to live on every backend against a naive model, with a clock that the test sets.

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
use proptest::prelude::*;
use std::collections::BTreeMap;
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

#[derive(Clone, Debug)]
enum Operation {
    Set(u8, usize),
    Modify(u8, usize),
    Take(u8),
    Push(u8, usize),
    UpdateList(u8),
    ClearList(u8),
    Put(u8, u8, usize),
    ModifyEntry(u8, u8),
    RemoveEntry(u8, u8),
    Drain(u8),
    Read(u8),
    Advance(u64),
    Maintain,
    Checkpoint,
    /// Goes on from a checkpoint after some time, with another number of subtasks and time to live.
    Restart {
        which: usize,
        down: u64,
        parallelism: u16,
        ttl: usize,
    },
}

/// Durations in nanoseconds; a run begins with the second.
const TTLS: [u64; 3] = [40, 300, 2500];
const KEYS: u8 = 10;
const ENTRIES: u8 = 7;

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    use Operation::*;
    let (key, entry) = (0..KEYS, 0..ENTRIES);
    let len = prop_oneof![3 => 0usize..40, 1 => 500usize..2500];
    let operation = prop_oneof![
        8 => (key.clone(), len.clone()).prop_map(|(k, len)| Set(k, len)),
        6 => (key.clone(), len.clone()).prop_map(|(k, len)| Modify(k, len)),
        2 => key.clone().prop_map(Take),
        8 => (key.clone(), len.clone()).prop_map(|(k, len)| Push(k, len)),
        1 => key.clone().prop_map(UpdateList),
        1 => key.clone().prop_map(ClearList),
        10 => (key.clone(), entry.clone(), len).prop_map(|(k, e, len)| Put(k, e, len)),
        4 => (key.clone(), entry.clone()).prop_map(|(k, e)| ModifyEntry(k, e)),
        4 => (key.clone(), entry).prop_map(|(k, e)| RemoveEntry(k, e)),
        1 => key.clone().prop_map(Drain),
        6 => key.prop_map(Read),
        10 => (0u64..100).prop_map(Advance),
        1 => (100u64..3000).prop_map(Advance),
        5 => Just(Maintain),
        4 => Just(Checkpoint),
        1 => (any::<usize>(), 0u64..300, 1u16..4, 0..TTLS.len())
            .prop_map(|(which, down, parallelism, ttl)| Restart { which, down, parallelism, ttl }),
    ];
    prop::collection::vec(operation, 1..150)
}

type Aged<T> = (u64, T);

/// What there is, with expiries; all of it may have expired.
#[derive(Clone, Default)]
struct Model {
    values: BTreeMap<u8, Aged<Vec<u8>>>,
    lists: BTreeMap<u8, Vec<Aged<Vec<u8>>>>,
    maps: BTreeMap<(u8, u8), Aged<Vec<u8>>>,
}

struct Member {
    groups: KeyGroupRange,
    state: SubtaskState,
    value: ValueState<u8, Vec<u8>>,
    list: ListState<u8, Vec<u8>>,
    map: MapState<u8, u8, Vec<u8>>,
}

struct Saved {
    files: RestoredFiles,
    snapshots: Vec<crate::Snapshot>,
    model: Model,
}

struct World<'a> {
    kind: Kind,
    update: TtlUpdate,
    directory: &'a Path,
    store: SharedStore,
    members: Vec<Member>,
    clock: StateClock,
    now: u64,
    ttl: u64,
    model: Model,
    next: u64,
    saved: Vec<Saved>,
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

impl<'a> World<'a> {
    fn new(kind: Kind, update: TtlUpdate, directory: &'a Path) -> Self {
        let mut world = Self {
            kind,
            update,
            directory,
            store: store(kind, directory, 0, &[], None),
            members: Vec::new(),
            clock: StateClock::default(),
            now: 0,
            ttl: TTLS[1],
            model: Model::default(),
            next: 0,
            saved: Vec::new(),
        };
        world.open(2, None);
        world
    }

    fn open(&mut self, parallelism: u16, saved: Option<usize>) {
        self.members.clear();
        let ranges = ranges(parallelism);
        let saved = saved.map(|which| &self.saved[which]);
        let files = saved.map(|saved| saved.files.clone());
        self.store = store(self.kind, self.directory, self.now, &ranges, files);
        self.clock = StateClock::at(at(self.now));
        let restored = saved.map(|saved| Arc::new(RestoredState::new(saved.snapshots.clone())));
        for (index, groups) in ranges.into_iter().enumerate() {
            let state = SubtaskState::new(
                Rc::clone(&self.store),
                MemberIndex(index as u32),
                SubtaskIndex(index as u32),
                restored.clone(),
            )
            .with_clock(self.clock.clone());
            let spec = |name: &str, ttl| {
                TableSpec::new("op", name, groups.clone(), MAX_PARALLELISM)
                    .with_ttl(Ttl::new(Duration::from_nanos(ttl)).update(self.update))
            };
            self.members.push(Member {
                value: ValueState::open(&state, &spec("value", self.ttl)).unwrap(),
                // A list lives as long as its newest element: with a shorter time to live than before
                // older ones may go with it.
                list: ListState::open(&state, &spec("list", TTLS[1])).unwrap(),
                map: MapState::open(&state, &spec("map", self.ttl)).unwrap(),
                groups: groups.clone(),
                state,
            });
        }
    }

    fn apply(&mut self, operation: &Operation) {
        let (now, update) = (self.now, self.update);
        let (expiry, list_expiry) = (now + self.ttl, now + TTLS[1]);
        let reads = update == TtlUpdate::OnReadAndWrite;
        let Self { members, model, .. } = self;
        let member = |members: &'_ mut Vec<Member>, key: u8| {
            let group = KeyGroup::of(hash_key(&key), MAX_PARALLELISM);
            members.iter().position(|member| member.groups.contains(group)).unwrap()
        };
        match *operation {
            Operation::Set(key, len) => {
                let value = vec![key; len];
                let of = member(members, key);
                members[of].value.set(&At(&key), value.clone());
                model.values.insert(key, (expiry, value));
            }
            Operation::Modify(key, len) => {
                let of = member(members, key);
                let seen = members[of].value.modify(
                    &At(&key),
                    || vec![99],
                    |value| {
                        let seen = value.clone();
                        value.resize(len, 1);
                        seen
                    },
                );
                let live = model.values.remove(&key).filter(|(expiry, _)| *expiry > now);
                let mut value = live.map_or(vec![99], |(_, value)| value);
                assert_eq!(seen, value);
                value.resize(len, 1);
                model.values.insert(key, (expiry, value));
            }
            Operation::Take(key) => {
                let of = member(members, key);
                let live = model.values.remove(&key).filter(|(expiry, _)| *expiry > now);
                assert_eq!(members[of].value.take(&At(&key)), live.map(|(_, value)| value));
            }
            Operation::Push(key, len) => {
                let of = member(members, key);
                let value = vec![len as u8; len];
                members[of].list.push(&At(&key), value.clone());
                model.lists.entry(key).or_default().push((list_expiry, value));
            }
            Operation::UpdateList(key) => {
                let of = member(members, key);
                let list = model.lists.entry(key).or_default();
                list.retain(|(expiry, _)| *expiry > now);
                list.reverse();
                list.iter_mut().for_each(|(expiry, _)| *expiry = list_expiry);
                let len = members[of].list.update(&At(&key), |list| {
                    list.reverse();
                    list.len()
                });
                assert_eq!(len, list.len());
            }
            Operation::ClearList(key) => {
                let of = member(members, key);
                members[of].list.clear(&At(&key));
                model.lists.remove(&key);
            }
            Operation::Put(key, entry, len) => {
                let of = member(members, key);
                let value = vec![entry; len];
                members[of].map.put(&At(&key), &entry, value.clone());
                model.maps.insert((key, entry), (expiry, value));
            }
            Operation::ModifyEntry(key, entry) => {
                let of = member(members, key);
                let live = model.maps.remove(&(key, entry)).filter(|(expiry, _)| *expiry > now);
                let mut value = live.map_or(vec![7], |(_, value)| value);
                value.push(3);
                let push = |value: &mut Vec<u8>| {
                    value.push(3);
                    value.clone()
                };
                let seen = members[of].map.modify(&At(&key), &entry, || vec![7], push);
                assert_eq!(seen, value);
                model.maps.insert((key, entry), (expiry, value));
            }
            Operation::RemoveEntry(key, entry) => {
                let of = member(members, key);
                let live = model.maps.remove(&(key, entry)).filter(|(expiry, _)| *expiry > now);
                let removed = members[of].map.remove(&At(&key), &entry);
                assert_eq!(removed, live.map(|(_, value)| value));
            }
            Operation::Drain(key) => {
                let of = member(members, key);
                let mut drained = BTreeMap::new();
                members[of].map.drain(&At(&key), |entry, value| {
                    assert!(drained.insert((key, entry), value).is_none());
                });
                let live = model.maps.iter().filter(|((of, _), (e, _))| *of == key && *e > now);
                let live = live.map(|(name, (_, value))| (*name, value.clone())).collect();
                assert_eq!(drained, live);
                model.maps.retain(|(of, _), _| *of != key);
            }
            Operation::Read(key) => {
                let of = member(members, key);
                let cx = &At(&key);
                let refresh = |aged: &mut u64, to: u64| {
                    let live = *aged > now;
                    if live && reads {
                        *aged = to;
                    }
                    live
                };
                let value = model.values.get_mut(&key);
                let value = value.filter(|(aged, _)| *aged > now).map(|(aged, value)| {
                    refresh(aged, expiry);
                    value.clone()
                });
                assert_eq!(members[of].value.get(cx), value);
                let list: Vec<_> = model
                    .lists
                    .get_mut(&key)
                    .into_iter()
                    .flatten()
                    .filter_map(|(aged, value)| refresh(aged, list_expiry).then(|| value.clone()))
                    .collect();
                assert_eq!(members[of].list.is_empty(cx), list.is_empty());
                assert_eq!(members[of].list.get(cx), list);
                // Of the map one entry, or all.
                let one = (now % 3 != 0).then_some((now % u64::from(ENTRIES)) as u8);
                let entries: BTreeMap<_, _> = model
                    .maps
                    .iter_mut()
                    .filter(|((of, entry), _)| *of == key && one.is_none_or(|one| one == *entry))
                    .filter_map(|((_, entry), (aged, value))| {
                        refresh(aged, expiry).then(|| (*entry, value.clone()))
                    })
                    .collect();
                let map = &members[of].map;
                if let Some(one) = one {
                    assert_eq!(map.get(cx, &one), entries.get(&one).cloned());
                    return;
                }
                assert_eq!(map.len(cx), entries.len() as u64);
                let mut found = BTreeMap::new();
                map.for_each(cx, |entry, value| {
                    assert!(found.insert(*entry, value.clone()).is_none(), "visited twice");
                });
                assert_eq!(found, entries);
            }
            Operation::Advance(by) => {
                self.now += by;
                self.clock.set(at(self.now));
            }
            Operation::Maintain => {
                let mut steps = 0;
                while self.store.borrow_mut().maintain(Duration::ZERO) {
                    steps += 1;
                    assert!(steps < 10_000, "compaction without end");
                }
                members.iter().for_each(|member| member.state.sweep());
            }
            Operation::Checkpoint => self.checkpoint(),
            Operation::Restart { which, down, parallelism, ttl } => {
                if self.saved.is_empty() {
                    return;
                }
                let which = which % self.saved.len();
                self.model = self.saved[which].model.clone();
                self.now += down;
                self.ttl = TTLS[ttl];
                self.open(parallelism, Some(which));
                // Ids are not used twice, and neither are those of what was never restored.
                self.next = self.next.max(self.saved[which].files.checkpoint.0 + 1);
            }
        }
    }

    fn checkpoint(&mut self) {
        if self.kind == Kind::SegmentsInMemory {
            return;
        }
        let checkpoint = CheckpointId(self.next);
        self.next += 1;
        let snapshots = self.members.iter().map(|m| snapshot_of(&m.state, checkpoint)).collect();
        let (sender, receiver) = channel();
        let done = move |files| sender.send(files).unwrap();
        self.store.borrow_mut().persist(checkpoint, Box::new(done));
        let files = receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        let files = RestoredFiles { checkpoint, files };
        self.saved.push(Saved { files, snapshots, model: self.model.clone() });
    }
}

fn run(kind: Kind, update: TtlUpdate, operations: &[Operation]) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut world = World::new(kind, update, directory.path());
    for operation in operations {
        world.apply(operation);
    }
    // All keys are as in the model, and so they are in each checkpoint, whenever it is restored.
    let check = |world: &mut World<'_>| {
        for key in 0..KEYS {
            world.apply(&Operation::Read(key));
        }
    };
    check(&mut world);
    for which in 0..world.saved.len() {
        let parallelism = which as u16 % 3 + 1;
        world.apply(&Operation::Restart { which, down: 20, parallelism, ttl: which % 3 });
        check(&mut world);
    }
}

proptest! {
    #[test]
    fn what_expires_is_gone_and_nothing_else_on_heap(
        run_on in operations(), reads in any::<bool>(),
    ) {
        run(Kind::Heap, update_if(reads), &run_on);
    }

    #[test]
    fn what_expires_is_gone_and_nothing_else_in_a_table_of_bytes(
        run_on in operations(), reads in any::<bool>(),
    ) {
        run(Kind::Ordered, update_if(reads), &run_on);
    }

    #[test]
    fn what_expires_is_gone_and_nothing_else_in_segments(
        run_on in operations(), reads in any::<bool>(),
    ) {
        run(Kind::Segments, update_if(reads), &run_on);
    }

    #[test]
    fn what_expires_is_gone_and_nothing_else_in_segments_in_memory(
        run_on in operations(), reads in any::<bool>(),
    ) {
        run(Kind::SegmentsInMemory, update_if(reads), &run_on);
    }
}

fn update_if(reads: bool) -> TtlUpdate {
    if reads { TtlUpdate::OnReadAndWrite } else { TtlUpdate::OnCreateAndWrite }
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
            let (_, state, _) = alone(kind, directory.path(), now, Some(saved.clone()));
            let value = ValueState::open(&state, &spec).unwrap();
            assert_eq!(value.get(&At(&1u8)), found, "{kind:?} at {now}");
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
