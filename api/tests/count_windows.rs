//! Count windows over the public API, against the naive model.

use millstream::Sum;
use millstream::prelude::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A key, a value, and a time in nanoseconds.
type Row = (u8, u64, i64);
type Found = WindowResult<u8, Vec<u64>>;

/// Every `count` records of a key: values in the order in which they came.
fn model(rows: &[Row], count: usize) -> Vec<Found> {
    let mut by_key: BTreeMap<u8, Vec<Row>> = BTreeMap::new();
    for row in rows {
        by_key.entry(row.0).or_default().push(*row);
    }
    let mut windows = Vec::new();
    for (key, rows) in by_key {
        for full in rows.chunks_exact(count) {
            let times = || full.iter().map(|row| row.2);
            let (first, last) = (times().min().unwrap(), times().max().unwrap());
            let window = TimeWindow {
                start: Timestamp::from_nanos(first),
                end: Timestamp::from_nanos(last + 1),
            };
            windows.push(Found { key, window, value: full.iter().map(|row| row.1).collect() });
        }
    }
    windows
}

fn run(rows: &[Row], count: u64, slots: u32) -> [Vec<Found>; 3] {
    let env = Environment::new(Config::default().with_slots(slots));
    let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::ZERO, |row: &Row| {
        Timestamp::from_nanos(row.2)
    });
    let rows = env.from_collection("rows", rows.to_vec()).assign_timestamps(strategy).share();
    // One subtask, so that the records of a key come in the order in which they are.
    let windows = || rows.stream().set_parallelism(1).key_by(|row| row.0).count_window(count);
    let whole = |key: &u8, window, rows: &[Row], out: &mut dyn Collector<Found>| {
        out.collect(Found { key: *key, window, value: rows.iter().map(|row| row.1).collect() });
    };
    let number = |key, window, number| Found { key, window, value: vec![number] };
    let processed = windows().process(whole).collect();
    // A function that tells in which order it has met the records.
    let reduced = windows()
        .reduce(|a, b| (a.0, a.1.wrapping_mul(31).wrapping_add(b.1), a.2))
        .map(move |r| number(r.key, r.window, r.value.1))
        .collect();
    let summed = windows()
        .aggregate(Sum::of(|row: &Row| row.1))
        .map(move |r| number(r.key, r.window, r.value))
        .collect();
    let result = env.execute("count windows").unwrap();
    assert_eq!(result.metrics.counters.late(), 0, "nothing is late for a count window");
    [processed, reduced, summed].map(|found| {
        let mut found = found.take();
        // Stable: windows of a key stay in the order in which they came.
        found.sort_by_key(|result| result.key);
        found
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_so_many_records_of_a_key_give_a_result(
        rows in prop::collection::vec((0u8..5, 0u64..1_000, -50i64..50), 0..200),
        count in 1u64..8,
        slots in 1u32..4,
    ) {
        let [processed, reduced, summed] = run(&rows, count, slots);
        let expected = model(&rows, count as usize);
        let folded = |fold: fn(u64, u64) -> u64| -> Vec<Found> {
            let fold_one = |found: &Found| Found {
                value: vec![found.value.iter().copied().reduce(fold).unwrap()],
                ..found.clone()
            };
            expected.iter().map(fold_one).collect()
        };
        prop_assert_eq!(&processed, &expected);
        prop_assert_eq!(reduced, folded(|a, b| a.wrapping_mul(31).wrapping_add(b)));
        prop_assert_eq!(summed, folded(|a, b| a + b));
    }
}

#[test]
#[should_panic(expected = "ask for at least 1")]
fn a_window_of_no_records_is_refused_where_it_is_asked_for() {
    let env = Environment::new(Config::default());
    let _ = env.from_collection("numbers", [1u64]).key_by(|n| *n).count_window(0);
}
