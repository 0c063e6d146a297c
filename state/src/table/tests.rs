use super::*;
use crate::testing::{Clash, MAX_PARALLELISM, rescale, rescaled, spec, stores};
use millstream_types::KeyGroup;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Operation {
    Modify(u8, u32),
    ModifyBatch(Vec<u8>),
    Insert(u8, u32),
    Remove(u8),
    Get(u8),
    Retain(u32),
    Drain,
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let key = 0u8..24;
    prop_oneof![
        8 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Modify(k, v)),
        2 => prop::collection::vec(key.clone(), 0..80).prop_map(ModifyBatch),
        4 => (key.clone(), any::<u32>()).prop_map(|(k, v)| Insert(k, v)),
        4 => key.clone().prop_map(Remove),
        4 => key.prop_map(Get),
        1 => (1u32..4).prop_map(Retain),
        1 => Just(Drain),
        1 => Just(Clear),
    ]
}

fn contents<K: Key + Ord, V: Data + Clone>(table: &Table<K, V>) -> BTreeMap<K, V> {
    let mut all = BTreeMap::new();
    table.for_each(|k, v| assert!(all.insert(k.clone(), v.clone()).is_none(), "visited twice"));
    all
}

fn apply<K: Key + Ord + std::fmt::Debug>(
    table: &mut Table<K, Vec<u32>>,
    model: &mut BTreeMap<K, Vec<u32>>,
    key: fn(u8) -> K,
    operation: Operation,
) {
    match operation {
        Operation::Modify(k, v) => {
            let key = key(k);
            let expected = model.entry(key.clone()).or_insert_with(|| vec![7]);
            expected.push(v);
            let len = table.modify(
                hash_key(&key),
                &key,
                || vec![7],
                |list| {
                    list.push(v);
                    list.len()
                },
            );
            assert_eq!(len, expected.len());
        }
        Operation::ModifyBatch(keys) => {
            let keys: Vec<K> = keys.into_iter().map(key).collect();
            let hashes: Vec<u64> = keys.iter().map(hash_key).collect();
            let push = |i, list: &mut Vec<u32>| list.push(i as u32);
            table.modify_batch(&hashes, |i| &keys[i], || vec![5], push);
            for (i, key) in keys.into_iter().enumerate() {
                push(i, model.entry(key).or_insert_with(|| vec![5]));
            }
        }
        Operation::Insert(k, v) => {
            table.insert(hash_key(&key(k)), &key(k), vec![v]);
            model.insert(key(k), vec![v]);
        }
        Operation::Remove(k) => {
            assert_eq!(table.remove(hash_key(&key(k)), &key(k)), model.remove(&key(k)));
        }
        Operation::Get(k) => {
            let (hash, key) = (hash_key(&key(k)), key(k));
            assert_eq!(table.get(hash, &key), model.get(&key).cloned());
            assert_eq!(table.with(hash, &key, |v| v.is_some()), model.contains_key(&key));
        }
        Operation::Retain(n) => {
            table.retain(|_, v| v[0] % n == 0);
            model.retain(|_, v| v[0] % n == 0);
        }
        Operation::Drain => {
            let mut drained = BTreeMap::new();
            table.drain(|k, v| assert!(drained.insert(k, v).is_none()));
            assert_eq!(drained, std::mem::take(model));
        }
        Operation::Clear => {
            table.clear();
            model.clear();
        }
    }
    assert_eq!(table.len(), model.len() as u64);
    assert_eq!(table.is_empty(), model.is_empty());
    assert_eq!(contents(table), *model);
}

fn behaves_like_a_map<K: Key + Ord + std::fmt::Debug>(key: fn(u8) -> K, run: &[Operation]) {
    for store in stores() {
        let mut table = Table::<K, Vec<u32>>::open(&store, &spec()).unwrap();
        let mut model = BTreeMap::new();
        for operation in run {
            apply(&mut table, &mut model, key, operation.clone());
        }
    }
}

rescaled!(storage: Table<Clash, u64>);

proptest! {
    #[test]
    fn table_behaves_like_a_map(run in prop::collection::vec(operation(), 0..60)) {
        behaves_like_a_map(u64::from, &run);
        behaves_like_a_map(Clash::new, &run);
    }

    #[test]
    fn rescale_keeps_the_contents(
        entries in prop::collection::btree_map(any::<u8>(), any::<u64>(), 0..50),
        before in 1..MAX_PARALLELISM, after in 1..MAX_PARALLELISM,
    ) {
        rescale::<Table<Clash, u64>>(
            before,
            after,
            |table, owns| {
                for (k, v) in entries.iter().map(|(k, v)| (Clash::new(*k), *v)) {
                    if owns(hash_key(&k)) {
                        table.insert(hash_key(&k), &k, v);
                    }
                }
            },
            |tables| {
                let mut found = BTreeMap::new();
                for (groups, table) in tables {
                    let here = contents(table);
                    for (k, v) in &here {
                        assert!(groups.contains(KeyGroup::of(hash_key(k), MAX_PARALLELISM)));
                        assert_eq!(table.get(hash_key(k), k), Some(*v), "found where it is looked for");
                    }
                    found.extend(here);
                }
                assert_eq!(found, entries.iter().map(|(k, v)| (Clash::new(*k), *v)).collect());
            },
        );
    }
}

#[test]
fn an_entry_of_other_types_is_refused_at_restore() {
    for store in stores() {
        let mut numbers = Table::<u64, u64>::open(&store, &spec().with_name("numbers")).unwrap();
        numbers.insert(hash_key(&1u64), &1, u64::MAX);
        let mut strings = Table::<u64, String>::open(&store, &spec()).unwrap();
        let mut results = Vec::new();
        numbers
            .storage
            .snapshot(&spec().key_groups, &mut |entry| {
                results.push(strings.storage.restore(entry));
                Ok(())
            })
            .unwrap();
        let [Err(error @ StateError::Decode { .. })] = &results[..] else {
            panic!("{results:?}");
        };
        assert!(error.to_string().contains("operator/table"), "{error}");
        assert!(strings.is_empty());
    }
}

#[test]
fn a_snapshot_stops_at_the_error_of_its_sink() {
    for store in stores() {
        let mut table = Table::<u64, u64>::open(&store, &spec()).unwrap();
        for k in 0..9u64 {
            table.insert(hash_key(&k), &k, k);
        }
        let mut calls = 0;
        let result = table.storage.snapshot(&spec().key_groups, &mut |_| {
            calls += 1;
            Err(StateError::Malformed { table: "sink".into(), reason: "full" })
        });
        assert!(matches!(result, Err(StateError::Malformed { reason: "full", .. })));
        assert_eq!(calls, 1);
    }
}
