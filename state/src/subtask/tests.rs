use super::*;
use crate::testing::{At, MAX_PARALLELISM, OrderedBackend};
use crate::{HeapBackend, ListState, MapState, Table, Timers, ValueState, WindowTable};
use millstream_types::{KeyGroup, KeyGroupAssignment, Timestamp, hash_key};

/// One of each kind of state.
struct Everything {
    table: Table<u64, u64>,
    windows: WindowTable<u64, String>,
    value: ValueState<u64, u32>,
    list: ListState<u64, u64>,
    map: MapState<u64, u8, u64>,
    timers: Timers<u64>,
    positions: OperatorList<u8>,
}

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

impl Everything {
    fn open(state: &SubtaskState, groups: KeyGroupRange) -> Result<Self, StateError> {
        let spec = TableSpec::new("op", "table", groups, MAX_PARALLELISM);
        Ok(Self {
            table: Table::open(state, &spec)?,
            windows: WindowTable::open(state, &spec.with_name("windows"))?,
            value: ValueState::open(state, &spec.with_name("value"))?,
            list: ListState::open(state, &spec.with_name("list"))?,
            map: MapState::open(state, &spec.with_name("map"))?,
            timers: Timers::open(state, &spec.with_name("timers"))?,
            positions: state.list("op", "positions")?,
        })
    }

    fn put(&mut self, key: u64) {
        let (hash, cx) = (hash_key(&key), At(&key));
        self.table.insert(hash, &key, key + 1);
        self.windows.insert(at(key as i64 % 3), hash, &key, format!("{key}"));
        self.value.set(&cx, 7);
        self.list.extend(&cx, [key, key + 2]);
        self.map.put(&cx, &9, key);
        self.timers.register(at(key as i64), hash, &key);
    }

    fn has(&self, key: u64) -> bool {
        let (hash, cx) = (hash_key(&key), At(&key));
        let found = [
            self.table.get(hash, &key) == Some(key + 1),
            self.windows.with(at(key as i64 % 3), hash, &key, |v| v == Some(&format!("{key}"))),
            self.value.get(&cx) == Some(7),
            self.list.get(&cx) == [key, key + 2],
            self.map.get(&cx, &9) == Some(key),
        ];
        assert!(found.iter().all(|f| *f == found[0]), "{key}: {found:?}");
        found[0]
    }
}

fn backends() -> [&'static dyn StateBackend; 2] {
    [&HeapBackend, &OrderedBackend]
}

fn state(
    backend: &dyn StateBackend,
    subtask: u32,
    restored: Option<&Arc<RestoredState>>,
) -> SubtaskState {
    let store = Rc::new(RefCell::new(backend.open(StoreScope::default()).unwrap()));
    SubtaskState::new(store, MemberIndex(0), SubtaskIndex(subtask), restored.cloned())
}

fn ranges(parallelism: u16) -> Vec<KeyGroupRange> {
    let assignment = KeyGroupAssignment::new(parallelism, MAX_PARALLELISM).unwrap();
    (0..parallelism).map(|s| assignment.range(SubtaskIndex(u32::from(s)))).collect()
}

/// What a subtask adds to a checkpoint, of which it is a part from now on no more.
pub(crate) fn snapshot_of(state: &SubtaskState, checkpoint: CheckpointId) -> Snapshot {
    let mut writer = SnapshotWriter::new();
    // SAFETY: this function is called when no operation is in progress, as tests do not nest them.
    unsafe { state.snapshot(checkpoint, &mut writer) }.unwrap();
    Snapshot::read(writer.finish()).unwrap()
}

fn owned(groups: &KeyGroupRange, key: u64) -> bool {
    groups.contains(KeyGroup::of(hash_key(&key), MAX_PARALLELISM))
}

/// Two subtasks of keys below 200; the keys above 100 come after the barrier.
fn checkpoint(backend: &dyn StateBackend) -> Arc<RestoredState> {
    let mut snapshots = Vec::new();
    for (subtask, groups) in ranges(2).into_iter().enumerate() {
        let state = state(backend, subtask as u32, None);
        let mut all = Everything::open(&state, groups.clone()).unwrap();
        assert!(all.positions.take_restored().is_none(), "this is a fresh start");
        (0..100).filter(|key| owned(&groups, *key)).for_each(|key| all.put(key));
        all.positions.set([subtask as u8, 10 + subtask as u8]).unwrap();
        let snapshot = snapshot_of(&state, CheckpointId(1));
        (100..200).filter(|key| owned(&groups, *key)).for_each(|key| all.put(key));
        snapshots.push(snapshot);
    }
    // Slots report in any order.
    snapshots.reverse();
    Arc::new(RestoredState::new(snapshots))
}

#[test]
fn whatever_was_opened_is_restored_on_any_backend_and_number_of_subtasks() {
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let restored = checkpoint(backends()[from]);
        for parallelism in [1, 2, 3] {
            let mut timers = Vec::new();
            for (subtask, groups) in ranges(parallelism).into_iter().enumerate() {
                let state = state(backends()[to], subtask as u32, Some(&restored));
                let mut all = Everything::open(&state, groups.clone()).unwrap();
                for key in 0..200 {
                    assert_eq!(all.has(key), key < 100 && owned(&groups, key), "{key}");
                }
                all.timers.pop_until(Timestamp::MAX, |time, hash, key| {
                    assert_eq!((time, hash), (at(key as i64), hash_key(&key)));
                    timers.push(key);
                });
                let positions = all.positions.take_restored().expect("restored");
                assert_eq!(positions, [0, 10, 1, 11], "all of them, by subtask");
            }
            timers.sort_unstable();
            assert_eq!(timers, (0..100).collect::<Vec<_>>());
        }
    }
}

#[test]
fn state_of_other_types_is_refused_with_both_of_them() {
    let restored = checkpoint(&HeapBackend);
    let state = state(&HeapBackend, 0, Some(&restored));
    let spec = TableSpec::new("op", "table", KeyGroupRange(0..8), MAX_PARALLELISM);
    let Err(error) = Table::<u64, u32>::open(&state, &spec) else { panic!("not refused") };
    let message = error.to_string();
    assert!(message.contains("u64 (8 bytes) -> u64 (8 bytes)"), "{message}");
    assert!(message.contains("u64 (8 bytes) -> u32 (4 bytes)"), "{message}");
    let spec = TableSpec::new("op", "table", KeyGroupRange(0..8), 64);
    let Err(error) = Table::<u64, u64>::open(&state, &spec) else { panic!("not refused") };
    assert!(error.to_string().contains("set max_parallelism to 16"), "{error}");
}

#[test]
fn an_operator_that_the_checkpoint_does_not_know_begins_empty() {
    let restored = checkpoint(&HeapBackend);
    let state = state(&HeapBackend, 0, Some(&restored));
    let spec = TableSpec::new("new", "table", KeyGroupRange(0..16), MAX_PARALLELISM);
    assert!(Table::<u64, String>::open(&state, &spec).unwrap().is_empty());
    assert_eq!(state.list::<u8>("new", "positions").unwrap().take_restored(), None);
}
