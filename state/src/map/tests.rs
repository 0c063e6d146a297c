use super::*;
use crate::testing::{At, Clash, MAX_PARALLELISM, rescale, rescaled, spec, stores};
use millstream_types::KeyGroup;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

type Model = BTreeMap<Clash, BTreeMap<Clash, u32>>;

#[derive(Clone, Debug)]
enum Operation {
    Put(u8, u32),
    Modify(u8, u32),
    Remove(u8),
    Drain,
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let key = 0u8..12;
    prop_oneof![
        8 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Put(k, v)),
        4 => (key.clone(), 0u32..99).prop_map(|(k, v)| Modify(k, v)),
        6 => key.prop_map(Remove),
        1 => Just(Drain),
        1 => Just(Clear),
    ]
}

fn apply(
    map: &mut MapState<Clash, Clash, u32>,
    model: &mut Model,
    key: &Clash,
    operation: Operation,
) {
    let (cx, expected) = (At(key), model.entry(key.clone()).or_default());
    match operation {
        Operation::Put(k, v) => {
            map.put(&cx, &Clash::new(k), v);
            expected.insert(Clash::new(k), v);
        }
        Operation::Modify(k, v) => {
            let f = |n: &mut u32| {
                *n = n.wrapping_add(v);
                *n
            };
            let result = map.modify(&cx, &Clash::new(k), || 3, f);
            assert_eq!(result, f(expected.entry(Clash::new(k)).or_insert(3)));
        }
        Operation::Remove(k) => {
            assert_eq!(map.remove(&cx, &Clash::new(k)), expected.remove(&Clash::new(k)));
        }
        Operation::Drain => {
            let mut drained = BTreeMap::new();
            map.drain(&cx, |k, v| assert!(drained.insert(k, v).is_none()));
            assert_eq!(drained, std::mem::take(expected));
        }
        Operation::Clear => {
            map.clear(&cx);
            expected.clear();
        }
    }
    for n in 0..6 {
        agree(map, &Clash::new(n), model.get(&Clash::new(n)).unwrap_or(&BTreeMap::new()));
    }
}

fn agree(map: &MapState<Clash, Clash, u32>, key: &Clash, expected: &BTreeMap<Clash, u32>) {
    let cx = At(key);
    let mut found = BTreeMap::new();
    map.for_each(&cx, |k, v| assert!(found.insert(k.clone(), *v).is_none(), "visited twice"));
    assert_eq!(found, *expected);
    assert_eq!(map.len(&cx), expected.len() as u64);
    assert_eq!(map.is_empty(&cx), expected.is_empty());
    for k in (0..12).map(Clash::new) {
        assert_eq!(map.get(&cx, &k), expected.get(&k).copied());
        assert_eq!(map.contains(&cx, &k), expected.contains_key(&k));
    }
}

impl<K, MK, MV> Deref for Maps<K, MK, MV> {
    type Target = Storage<K, MK, MV>;
    fn deref(&self) -> &Storage<K, MK, MV> {
        let Self::Lasting(storage) = self else { panic!("opened without a time to live") };
        storage
    }
}

impl<K, MK, MV> DerefMut for Maps<K, MK, MV> {
    fn deref_mut(&mut self) -> &mut Storage<K, MK, MV> {
        let Self::Lasting(storage) = self else { panic!("opened without a time to live") };
        storage
    }
}

rescaled!(maps: MapState<Clash, Clash, u32>);

proptest! {
    #[test]
    fn map_state_behaves_like_a_map_of_maps(
        run in prop::collection::vec((0u8..6, operation()), 0..60),
    ) {
        for store in stores() {
            let mut map = MapState::open(&store, &spec()).unwrap();
            let mut model = Model::new();
            for (key, operation) in &run {
                apply(&mut map, &mut model, &Clash::new(*key), operation.clone());
            }
            // Nothing is left of a map that is empty.
            if let Storage::Encoded(map) = &*map.maps {
                let entries: usize =
                    model.values().map(|m| if m.is_empty() { 0 } else { 2 * m.len() + 1 }).sum();
                prop_assert_eq!(map.byte_entry_count(), entries as u64);
            }
        }
    }

    #[test]
    fn rescale_keeps_the_maps(
        maps in prop::collection::btree_map(
            0u8..60, prop::collection::btree_map(0u8..12, any::<u32>(), 1..6), 0..20),
        before in 1..MAX_PARALLELISM, after in 1..MAX_PARALLELISM,
    ) {
        rescale::<MapState<Clash, Clash, u32>>(
            before,
            after,
            |state, owns| {
                for (key, map) in &maps {
                    let key = Clash::new(*key);
                    if owns(hash_key(&key)) {
                        map.iter().for_each(|(k, v)| state.put(&At(&key), &Clash::new(*k), *v));
                    }
                }
            },
            |states| {
                for n in 0..60 {
                    let key = Clash::new(n);
                    let expected = maps.get(&n).into_iter().flatten();
                    let expected = expected.map(|(k, v)| (Clash::new(*k), *v)).collect();
                    let owners = states.iter().filter(|(groups, _)| {
                        groups.contains(KeyGroup::of(hash_key(&key), MAX_PARALLELISM))
                    });
                    owners.for_each(|(_, state)| agree(state, &key, &expected));
                }
            },
        );
    }
}
