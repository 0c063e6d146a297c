//! Random operations, clocks, checkpoints and restarts.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

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
