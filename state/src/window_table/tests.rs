use super::*;
use crate::testing::{Clash, MAX_PARALLELISM, rescale, rescaled, spec, stores};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<i64, BTreeMap<Clash, u64>>;

#[derive(Clone, Debug)]
enum Operation {
    Modify(i64, u8, u64),
    ModifyBatch(Vec<(i64, u8)>),
    Insert(i64, u8, u64),
    Remove(i64, u8),
    Take(i64),
    Merge(i64, i64),
    RemoveNamespace(i64),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let (time, key, value) = (-3i64..6, 0u8..12, 0u64..1000);
    prop_oneof![
        8 => (time.clone(), key.clone(), value.clone()).prop_map(|(t, k, v)| Modify(t, k, v)),
        2 => prop::collection::vec((time.clone(), key.clone()), 0..80).prop_map(ModifyBatch),
        3 => (time.clone(), key.clone(), value).prop_map(|(t, k, v)| Insert(t, k, v)),
        3 => (time.clone(), key).prop_map(|(t, k)| Remove(t, k)),
        1 => time.clone().prop_map(Take),
        1 => (time.clone(), time.clone()).prop_map(|(a, b)| Merge(a, b)),
        1 => time.prop_map(RemoveNamespace),
    ]
}

fn time(t: i64) -> Timestamp {
    Timestamp::from_nanos(t)
}

fn apply(table: &mut WindowTable<Clash, u64>, model: &mut Model, operation: Operation) {
    match operation {
        Operation::Modify(t, k, v) => {
            let k = Clash::new(k);
            let expected = model.entry(t).or_default().entry(k.clone()).or_insert(1);
            *expected += v;
            let sum = table.modify(
                time(t),
                hash_key(&k),
                &k,
                || 1,
                |sum| {
                    *sum += v;
                    *sum
                },
            );
            assert_eq!(sum, *expected);
        }
        Operation::ModifyBatch(records) => {
            let keys: Vec<Clash> = records.iter().map(|(_, k)| Clash::new(*k)).collect();
            let hashes: Vec<u64> = keys.iter().map(hash_key).collect();
            let add = |i, sum: &mut u64| *sum = sum.wrapping_mul(3) + i as u64;
            table.modify_batch(|i| time(records[i].0), &hashes, |i| &keys[i], || 1, add);
            for (i, key) in keys.into_iter().enumerate() {
                add(i, model.entry(records[i].0).or_default().entry(key).or_insert(1));
            }
        }
        Operation::Insert(t, k, v) => {
            let k = Clash::new(k);
            table.insert(time(t), hash_key(&k), &k, v);
            model.entry(t).or_default().insert(k, v);
        }
        Operation::Remove(t, k) => {
            let k = Clash::new(k);
            let expected = model.get_mut(&t).and_then(|slice| slice.remove(&k));
            assert_eq!(table.remove(time(t), hash_key(&k), &k), expected);
        }
        Operation::Take(t) => {
            let mut taken = BTreeMap::new();
            table.take(time(t), |k, v| assert!(taken.insert(k, v).is_none()));
            assert_eq!(taken, model.remove(&t).unwrap_or_default());
        }
        Operation::Merge(a, b) => {
            let (mut sums, mut last) = (BTreeMap::new(), Vec::new());
            table.merge_range(time(a)..time(b), |hash, k, v| {
                assert_eq!(hash, hash_key(k));
                *sums.entry(k.clone()).or_insert(0) += v;
                last.push(*v);
            });
            let mut expected = BTreeMap::new();
            for slice in model.iter().filter(|(t, _)| (a..b).contains(t)).map(|(_, slice)| slice) {
                slice.iter().for_each(|(k, v)| *expected.entry(k.clone()).or_insert(0) += v);
            }
            assert_eq!(sums, expected);
        }
        Operation::RemoveNamespace(t) => {
            table.remove_namespace(time(t));
            model.remove(&t);
        }
    }
    model.retain(|_, slice| !slice.is_empty());
    agree(table, model);
}

fn agree(table: &WindowTable<Clash, u64>, model: &Model) {
    assert_eq!(table.namespaces(), model.keys().map(|t| time(*t)).collect::<Vec<_>>());
    assert_eq!(table.first_namespace(), model.keys().next().map(|t| time(*t)));
    assert_eq!(table.is_empty(), model.is_empty());
    for t in -3..6 {
        let mut found = BTreeMap::new();
        table.for_each_in(time(t), |k, v| assert!(found.insert(k.clone(), *v).is_none()));
        assert_eq!(found, model.get(&t).cloned().unwrap_or_default());
        assert_eq!(table.len(time(t)), found.len() as u64);
        for (k, v) in &found {
            table.with(time(t), hash_key(k), k, |found| assert_eq!(found, Some(v)));
        }
    }
}

rescaled!(storage: WindowTable<Clash, u64>);

proptest! {
    #[test]
    fn window_table_behaves_like_a_map_of_maps(run in prop::collection::vec(operation(), 0..60)) {
        for store in stores() {
            let mut table = WindowTable::open(&store, &spec()).unwrap();
            let mut model = Model::new();
            for operation in &run {
                apply(&mut table, &mut model, operation.clone());
            }
        }
    }

    #[test]
    fn rescale_keeps_the_contents(
        entries in prop::collection::btree_map((-3i64..6, 0u8..40), any::<u64>(), 0..50),
        before in 1..MAX_PARALLELISM, after in 1..MAX_PARALLELISM,
    ) {
        rescale::<WindowTable<Clash, u64>>(
            before,
            after,
            |table, owns| {
                for ((t, k), v) in &entries {
                    let k = Clash::new(*k);
                    if owns(hash_key(&k)) {
                        table.insert(time(*t), hash_key(&k), &k, *v);
                    }
                }
            },
            |tables| {
                let mut found = BTreeMap::new();
                for (_, table) in tables {
                    for t in table.namespaces() {
                        table.for_each_in(t, |k, v| assert!(found.insert((t, k.clone()), *v).is_none()));
                    }
                }
                let expected = entries.iter().map(|((t, k), v)| ((time(*t), Clash::new(*k)), *v));
                assert_eq!(found, expected.collect());
            },
        );
    }
}

#[test]
fn a_steady_stream_of_slices_allocates_no_tables() {
    let mut slices = Slices::<u64, u64>::default();
    let fill = |slices: &mut Slices<u64, u64>, t| {
        for k in 0..1000u64 {
            slices.get_or_open(time(t)).insert(hash_key(&k), &k, k);
        }
        slices.get(time(t)).unwrap().capacity()
    };
    let capacity = fill(&mut slices, 0);
    for t in 1..20 {
        slices.close(time(t - 1), |_| {});
        assert_eq!(slices.get_or_open(time(t)).capacity(), capacity);
        fill(&mut slices, t);
    }
}

#[test]
fn a_table_much_larger_than_its_content_is_not_used_again() {
    let mut slices = Slices::<u64, u64>::default();
    let first = slices.get_or_open(time(0));
    for k in 0..1000u64 {
        first.insert(hash_key(&k), &k, k);
    }
    first.retain(|k, _| *k == 0);
    slices.close(time(0), |_| {});
    assert_eq!(slices.get_or_open(time(1)).capacity(), 0);
}
