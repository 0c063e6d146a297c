use super::*;
use crate::testing::{At, Clash, MAX_PARALLELISM, rescale, rescaled, spec, stores};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

type Model = BTreeMap<Clash, Vec<String>>;

#[derive(Clone, Debug)]
enum Operation {
    Push(String),
    Extend(Vec<String>),
    Update,
    Set(Vec<String>),
    Take,
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let values = prop::collection::vec("[a-z]{0,20}", 0..4);
    prop_oneof![
        8 => "[a-z]{0,20}".prop_map(Push),
        2 => values.clone().prop_map(Extend),
        2 => Just(Update),
        1 => values.prop_map(Set),
        1 => Just(Take),
        1 => Just(Clear),
    ]
}

fn apply(
    list: &mut ListState<Clash, String>,
    model: &mut Model,
    key: &Clash,
    operation: Operation,
) {
    let (cx, expected) = (At(key), model.entry(key.clone()).or_default());
    match operation {
        Operation::Push(value) => {
            list.push(&cx, value.clone());
            expected.push(value);
        }
        Operation::Extend(values) => {
            list.extend(&cx, values.clone());
            expected.extend(values);
        }
        Operation::Update => {
            let f = |list: &mut Vec<String>| {
                list.reverse();
                list.pop()
            };
            assert_eq!(list.update(&cx, f), f(expected));
        }
        Operation::Set(values) => {
            list.set(&cx, values.clone());
            *expected = values;
        }
        Operation::Take => assert_eq!(list.take(&cx), std::mem::take(expected)),
        Operation::Clear => {
            list.clear(&cx);
            expected.clear();
        }
    }
    for n in 0..8 {
        let key = Clash::new(n);
        let expected = model.get(&key).cloned().unwrap_or_default();
        assert_eq!(list.is_empty(&At(&key)), expected.is_empty());
        assert_eq!(list.get(&At(&key)), expected);
    }
}

impl<K, V> Deref for Lists<K, V> {
    type Target = Content<K, V>;
    fn deref(&self) -> &Content<K, V> {
        let Self::Lasting(content) = self else { panic!("opened without a time to live") };
        content
    }
}

impl<K, V> DerefMut for Lists<K, V> {
    fn deref_mut(&mut self) -> &mut Content<K, V> {
        let Self::Lasting(content) = self else { panic!("opened without a time to live") };
        content
    }
}

rescaled!(lists: ListState<Clash, String>);

proptest! {
    #[test]
    fn list_state_behaves_like_a_map_of_vectors(
        run in prop::collection::vec((0u8..8, operation()), 0..50),
    ) {
        for store in stores() {
            let mut list = ListState::open(&store, &spec()).unwrap();
            let mut model = Model::new();
            for (key, operation) in &run {
                apply(&mut list, &mut model, &Clash::new(*key), operation.clone());
            }
        }
    }

    #[test]
    fn rescale_keeps_the_lists_in_order(
        lists in prop::collection::btree_map(
            0u8..60, prop::collection::vec("[a-z]{0,20}", 1..6), 0..20),
        before in 1..MAX_PARALLELISM, after in 1..MAX_PARALLELISM,
    ) {
        rescale::<ListState<Clash, String>>(
            before,
            after,
            |state, owns| {
                for (key, list) in &lists {
                    let key = Clash::new(*key);
                    if owns(hash_key(&key)) {
                        state.set(&At(&key), list.clone());
                    }
                }
            },
            |states| {
                for n in 0..60 {
                    let key = Clash::new(n);
                    let found: Vec<_> = states.iter().map(|(_, s)| s.get(&At(&key))).collect();
                    let expected = lists.get(&n).cloned().unwrap_or_default();
                    assert_eq!(found.concat(), expected);
                }
            },
        );
    }

    #[test]
    fn a_damaged_list_is_an_error(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
        for store in stores() {
            let mut list = ListState::<u64, String>::open(&store, &spec()).unwrap();
            let key = 7u64.to_le_bytes();
            let entry = StoredEntry {
                namespace: PLAIN,
                group: list.lists.coding.group(hash_key(&7u64)),
                key: &key,
                value: &bytes,
            };
            match list.lists.restore(entry) {
                Ok(()) => prop_assert!(!list.get(&At(&7)).is_empty()),
                Err(error) => prop_assert!(error.to_string().contains("operator/table")),
            }
        }
    }
}
