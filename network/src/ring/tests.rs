use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Push(u32),
    Pop,
    PushUntilFull,
    PopUntilEmpty,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => any::<u32>().prop_map(Operation::Push),
        8 => Just(Operation::Pop),
        1 => Just(Operation::PushUntilFull),
        1 => Just(Operation::PopUntilEmpty),
    ]
}

proptest! {
    /// Boxed values, so that the address sanitizer sees one that is lost or read twice.
    #[test]
    fn ring_behaves_like_a_bounded_queue(
        capacity in 1_usize..10,
        start in prop_oneof![Just(0), (usize::MAX - 20)..=usize::MAX],
        operations in prop::collection::vec(operation(), 0..200),
    ) {
        let (mut producer, mut consumer) = ring_from::<Box<u32>>(capacity, start);
        let capacity = capacity.next_power_of_two();
        prop_assert_eq!(producer.capacity(), capacity);
        let mut model = VecDeque::new();
        for operation in operations {
            match operation {
                Operation::Push(value) => {
                    let accepted = producer.push(Box::new(value)).is_ok();
                    prop_assert_eq!(accepted, model.len() < capacity);
                    if accepted {
                        model.push_back(value);
                    }
                }
                Operation::Pop => {
                    prop_assert_eq!(consumer.pop().map(|value| *value), model.pop_front());
                }
                Operation::PushUntilFull => {
                    while producer.push(Box::new(7)).is_ok() {
                        model.push_back(7);
                    }
                }
                Operation::PopUntilEmpty => {
                    while let Some(value) = consumer.pop() {
                        prop_assert_eq!(Some(*value), model.pop_front());
                    }
                }
            }
            prop_assert_eq!(producer.is_full(), model.len() == capacity);
            prop_assert_eq!(producer.free(), capacity - model.len());
            prop_assert_eq!(consumer.is_empty(), model.is_empty());
            prop_assert_eq!(consumer.len(), model.len());
        }
    }
}

#[test]
fn a_refused_value_is_given_back() {
    let (mut producer, mut consumer) = ring(1);
    assert_eq!(producer.push("first"), Ok(()));
    assert_eq!(producer.push("second"), Err("second"));
    assert_eq!(consumer.pop(), Some("first"));
    assert_eq!(consumer.pop(), None);
}

#[test]
fn values_in_flight_are_dropped_once_with_the_last_side() {
    let value = Rc::new(());
    let (mut producer, mut consumer) = ring_from(4, usize::MAX - 1);
    for _ in 0..4 {
        producer.push(value.clone()).unwrap();
    }
    drop(consumer.pop());
    drop(consumer);
    assert_eq!(Rc::strong_count(&value), 4, "three values are in flight");
    assert!(producer.is_closed());
    drop(producer);
    assert_eq!(Rc::strong_count(&value), 1);
}

#[test]
fn a_closed_ring_can_be_drained() {
    let (mut producer, mut consumer) = ring(2);
    assert!(!consumer.is_closed());
    producer.push(1).unwrap();
    producer.push(2).unwrap();
    drop(producer);
    assert!(consumer.is_closed());
    assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(1), Some(2), None));
}

#[test]
fn values_without_size_are_counted() {
    let (mut producer, mut consumer) = ring(2);
    assert!(producer.push(()).is_ok() && producer.push(()).is_ok() && producer.push(()).is_err());
    assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(()), Some(()), None));
}

#[test]
#[should_panic(expected = "capacity zero")]
fn a_ring_of_capacity_zero_is_refused() {
    let _ = ring::<u8>(0);
}

#[test]
fn counters_have_cache_lines_of_their_own() {
    let shared = std::mem::offset_of!(Shared<u64>, head)
        .abs_diff(std::mem::offset_of!(Shared<u64>, tail))
        .min(
            std::mem::offset_of!(Shared<u64>, slots)
                .abs_diff(std::mem::offset_of!(Shared<u64>, head)),
        )
        .min(
            std::mem::offset_of!(Shared<u64>, slots)
                .abs_diff(std::mem::offset_of!(Shared<u64>, tail)),
        );
    assert!(shared >= 128, "two of them share a line: {shared} bytes apart");
}
