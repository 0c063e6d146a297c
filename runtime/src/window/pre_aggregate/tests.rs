use super::*;
use crate::operator::{UserFailure, take_blame};
use crate::window::testing::*;
use crate::window::{Count, Tumbling};

const ID: OperatorId = OperatorId(7);

fn records(n: u64, keys: u64) -> impl Iterator<Item = u64> {
    (0..n).map(move |i| i % keys)
}

#[test]
fn it_switches_itself_off_where_keys_do_not_repeat_and_tries_again() {
    let (sink, seen) = Sink::new();
    let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, Count, sink);
    for key in records(20_000, u64::MAX) {
        first.record(key, t(1));
    }
    assert!(!first.is_aggregating());
    // Every record on its own from now on.
    seen.borrow_mut().records.clear();
    first.record(5, t(2));
    let partial = Partial { key: 5, slice_end: t(10), accumulator: 1, records: 1 };
    assert_eq!(seen.borrow_mut().records.split_off(0), [(partial, t(9))]);
    // Until it tries again, and now it pays.
    for key in records(PAUSE_RECORDS.0, 100) {
        first.record(key, t(3));
    }
    assert!(first.is_aggregating());
    first.watermark(t(9));
    assert!(first.is_aggregating());
    seen.borrow_mut().records.clear();
    for key in records(SAMPLE_RECORDS, 100) {
        first.record(key, t(14));
    }
    first.watermark(t(19));
    let counts = seen.borrow().records.iter().map(|(p, _)| p.records).collect::<Vec<_>>();
    assert_eq!((counts.len(), counts.iter().sum()), (100, SAMPLE_RECORDS));
}

#[test]
fn it_stays_on_where_keys_repeat_only_after_thousands_of_others() {
    let (sink, seen) = Sink::new();
    let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, Count, sink);
    for key in records(100_000, 10_000) {
        first.record(key, t(1));
    }
    first.watermark(t(9));
    assert!(first.is_aggregating());
    assert_eq!(seen.borrow().records.len(), 10_000);
}

#[test]
fn it_holds_a_bounded_number_of_keys() {
    let (sink, seen) = Sink::new();
    let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, Count, sink);
    // Two slices, each key twice: worth aggregating, but too many keys.
    for key in records(200_000, u64::MAX) {
        for _ in 0..2 {
            first.record(key, t((key % 20) as i64));
        }
        let out: u64 = seen.borrow().records.iter().map(|(p, _)| p.records).sum();
        assert!(key * 2 + 2 - out <= 2 * KEYS_MAX as u64);
    }
    assert!(first.is_aggregating());
}

#[test]
fn open_slices_leave_before_barriers_and_idleness_but_not_when_the_input_runs_dry() {
    for signal in [barrier(), Signal::Idle, Signal::EndOfInput] {
        let (sink, seen) = Sink::new();
        let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, Count, sink);
        first.record(1, t(15));
        first.record(1, t(5));
        first.watermark(t(3));
        first.flush();
        assert!(seen.borrow().records.is_empty());
        first.signal(signal);
        let ends: Vec<_> = seen.borrow().records.iter().map(|(p, _)| p.slice_end).collect();
        assert_eq!(ends, [t(10), t(20)]);
        assert_eq!(seen.borrow().signals, [signal]);
    }
}

#[test]
fn a_late_record_leaves_when_the_input_runs_dry() {
    let (sink, seen) = Sink::new();
    let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, Count, sink);
    first.watermark(t(9));
    first.record(1, t(5));
    first.record(1, t(15));
    first.flush();
    let ends: Vec<_> = seen.borrow().records.iter().map(|(p, _)| p.slice_end).collect();
    assert_eq!(ends, [t(10)]);
}

#[test]
fn a_record_without_a_timestamp_fails_the_job_in_words() {
    let failure = std::panic::catch_unwind(|| {
        let (sink, _) = Sink::new();
        let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, Count, sink);
        first.record(1, Timestamp::MIN);
    })
    .unwrap_err();
    let failure = failure.downcast::<UserFailure>().unwrap();
    assert_eq!(failure.operator, ID);
    assert!(failure.error.to_string().contains("give the stream timestamps"));
}

#[test]
fn a_panic_in_an_aggregate_names_the_operator() {
    let result = std::panic::catch_unwind(|| {
        let (sink, _) = Sink::new();
        let sum = crate::window::Sum::of(|k: &u64| -> u64 { panic!("user code fails on {k}") });
        let mut first = PreAggregate::new(ID, Tumbling::of(d(10)), |k: &u64| *k, sum, sink);
        first.record(1, t(0));
    });
    assert!(result.is_err());
    assert_eq!(take_blame(), Some(ID));
}

#[test]
fn a_partial_survives_encoding() {
    let partial = Partial {
        key: "key".to_owned(),
        slice_end: t(10),
        accumulator: vec![Some(3_u64)],
        records: 4,
    };
    let mut out = AlignedVec::new();
    partial.encode(&mut out).unwrap();
    assert_eq!(Partial::decode(&out).unwrap(), partial);
    assert!(Partial::<String, Vec<Option<u64>>>::decode(&out[..out.len() - 8]).is_err());
}
