use super::*;
use crate::testing::{Clash, MAX_PARALLELISM, rescale, rescaled, spec, stores};
use proptest::prelude::*;
use std::collections::BTreeSet;

type Model = BTreeSet<(Timestamp, Clash)>;

#[derive(Clone, Debug)]
enum Operation {
    Register(i64, u8),
    Delete(i64, u8),
    /// Deletes the model's n-th timer, so that deletions meet timers also when times are sparse.
    DeleteNth(usize),
    PopUntil(i64),
    Pop(i64),
}

/// Times within `span`, so that duplicates are the rule (a small one) or the exception.
fn run(span: i64) -> impl Strategy<Value = Vec<Operation>> {
    use Operation::*;
    let (time, key) = (-span..span, 0u8..12);
    let operation = prop_oneof![
        12 => (time.clone(), key.clone()).prop_map(|(t, k)| Register(t, k)),
        3 => (time.clone(), key).prop_map(|(t, k)| Delete(t, k)),
        3 => any::<usize>().prop_map(DeleteNth),
        1 => time.clone().prop_map(PopUntil),
        2 => time.prop_map(Pop),
    ];
    prop::collection::vec(operation, 0..300)
}

fn at(t: i64) -> Timestamp {
    Timestamp::from_nanos(t)
}

fn apply(timers: &mut Timers<Clash>, model: &mut Model, operation: &Operation) {
    match *operation {
        Operation::Register(t, k) => {
            let k = Clash::new(k);
            assert_eq!(timers.register(at(t), hash_key(&k), &k), model.insert((at(t), k)));
        }
        Operation::Delete(t, k) => {
            let k = Clash::new(k);
            assert_eq!(timers.delete(at(t), hash_key(&k), &k), model.remove(&(at(t), k)));
        }
        Operation::DeleteNth(n) => {
            let Some(timer) = model.iter().nth(n % model.len().max(1)).cloned() else { return };
            assert!(timers.delete(timer.0, hash_key(&timer.1), &timer.1));
            model.remove(&timer);
        }
        Operation::PopUntil(t) => {
            let (mut fired, mut last) = (Model::new(), Timestamp::MIN);
            timers.pop_until(at(t), |time, hash, key| {
                assert!(last <= time && time <= at(t));
                assert_eq!(hash, hash_key(&key));
                last = time;
                assert!(fired.insert((time, key)), "fired twice");
            });
            let later = model.split_off(&(at(t + 1), Clash::new(0)));
            assert_eq!(fired, std::mem::replace(model, later));
        }
        Operation::Pop(t) => match timers.pop(at(t)) {
            None => assert!(model.first().is_none_or(|(first, _)| *first > at(t))),
            Some((time, _, key)) => {
                assert!(time <= at(t));
                assert_eq!(Some(time), model.first().map(|(first, _)| *first));
                assert!(model.remove(&(time, key)));
            }
        },
    }
    assert_eq!(timers.len(), model.len());
    assert_eq!(timers.is_empty(), model.is_empty());
    assert_eq!(timers.next(), model.first().map(|(time, _)| *time));
}

fn behave_like_an_ordered_set(run: &[Operation]) {
    for store in stores() {
        let mut timers = Timers::open(&store, &spec()).unwrap();
        let mut model = Model::new();
        for operation in run {
            apply(&mut timers, &mut model, operation);
        }
        let mut left = Model::new();
        timers
            .content
            .snapshot(&spec().key_groups, &mut |entry| {
                left.insert(decode_timer(&timers.content.coding, entry.key)?);
                Ok(())
            })
            .unwrap();
        assert_eq!(left, model);
        if let Some(bytes) = &timers.content.stored {
            assert_eq!(bytes.len(PLAIN), model.len() as u64);
        }
    }
}

rescaled!(content: Timers<Clash>);

proptest! {
    #[test]
    fn timers_behave_like_an_ordered_set(
        dense in run(20), sparse in run(1 << 40), sparser in run(i64::MAX - 1),
    ) {
        behave_like_an_ordered_set(&dense);
        behave_like_an_ordered_set(&sparse);
        behave_like_an_ordered_set(&sparser);
    }

    #[test]
    fn rescale_keeps_the_timers(
        entries in prop::collection::btree_set((-9i64..9, 0u8..60), 0..50),
        before in 1..MAX_PARALLELISM, after in 1..MAX_PARALLELISM,
    ) {
        rescale::<Timers<Clash>>(
            before,
            after,
            |timers, owns| {
                for (t, k) in &entries {
                    let k = Clash::new(*k);
                    if owns(hash_key(&k)) {
                        timers.register(at(*t), hash_key(&k), &k);
                    }
                }
            },
            |all| {
                let mut found = Model::new();
                for (_, timers) in all {
                    found.extend(timers.content.queue.iter().map(|(time, _, key)| (time, key.clone())));
                }
                let expected: Model = entries.iter().map(|(t, k)| (at(*t), Clash::new(*k))).collect();
                assert_eq!(found, expected);
            },
        );
    }
}

#[test]
fn the_order_of_equal_times_does_not_depend_on_the_order_of_registration() {
    let fired = |keys: &[u64]| {
        let [heap, ..] = stores();
        let mut timers = Timers::open(&heap, &spec()).unwrap();
        for k in keys {
            assert!(timers.register(at(5), hash_key(k), k));
        }
        let mut fired = Vec::new();
        timers.pop_until(Timestamp::MAX, |_, _, key| fired.push(key));
        fired
    };
    let ascending: Vec<u64> = (0..2000).collect();
    let descending: Vec<u64> = (0..2000).rev().collect();
    assert_eq!(fired(&ascending), fired(&descending));
}

#[test]
fn a_timer_registered_for_the_past_while_firing_fires_in_the_same_round() {
    for store in stores() {
        let mut timers = Timers::<u64>::open(&store, &spec()).unwrap();
        for t in [10, 20, 30] {
            timers.register(at(t), hash_key(&1u64), &1);
        }
        let mut fired = Vec::new();
        while let Some((time, hash, key)) = timers.pop(at(20)) {
            fired.push(time.as_nanos());
            if fired.len() == 1 {
                timers.register(at(3), hash, &key);
            }
        }
        assert_eq!(fired, [10, 3, 20]);
        assert_eq!(timers.next(), Some(at(30)));
    }
}
