//! The queries' rows are those of naive models, which look at all events at once.

mod models;

use millstream::Config;
use millstream_workloads::nexmark::{
    Auction, Bid, Event, Generator, Person, Query, RowsTo, Settings, run,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// How far events may come out of order: as far as the queries' watermarks allow.
const OUT_OF_ORDERNESS_MILLIS: u64 = 4_000;

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

fn rows(query: Query, events: &Arc<[Event]>, slots: u32) -> Vec<String> {
    let config = Config::default().with_slots(slots);
    let outcome = run(query, Arc::clone(events), config, RowsTo::Collect)
        .unwrap_or_else(|error| panic!("{query} at {slots} slots: {error}"));
    let metrics = &outcome.result.metrics;
    assert_eq!(metrics.counters.late(), 0, "{query} at {slots} slots dropped late records");
    assert_eq!(metrics.source_records(), events.len() as u64, "{query} reads events once");
    sorted(outcome.rows)
}

fn agrees_with_the_models(events: Vec<Event>, input: &str) {
    let events: Arc<[Event]> = events.into();
    for query in Query::ALL {
        let expected = sorted(models::rows(query, &events));
        assert!(!expected.is_empty(), "{query} has rows over {input}");
        for slots in 1..=3 {
            let rows = rows(query, &events, slots);
            let differs = rows.iter().zip(&expected).find(|(row, expected)| row != expected);
            assert_eq!(differs, None, "{query}, {slots} slots, {input}");
            assert_eq!(rows.len(), expected.len(), "{query}, {slots} slots, {input}");
        }
    }
}

/// The first events of a stream with this many a second.
fn generated(count: usize, rate: u64) -> Vec<Event> {
    Generator::new(Settings { rate, ..Settings::default() }).take(count).collect()
}

/// Brings events out of order, as far as is allowed and no further.
fn shuffle(events: &mut [Event], rng: &mut SmallRng) {
    events.sort_by_cached_key(|event| {
        event.timestamp_millis() + rng.gen_range(0..=OUT_OF_ORDERNESS_MILLIS)
    });
}

/// Half an hour of events with little to choose from, so that prices tie, bids fall on the ends of
/// windows and on the opening and the expiry of their auctions, and sessions are exactly one gap
/// apart.
fn coinciding(rng: &mut SmallRng) -> Vec<Event> {
    const STEPS: u64 = 3_600;
    let time = |step: u64| 1_000_000 + 500 * step;
    // A number that goes from 0 to `count` as time goes on, give or take a few.
    let around = |rng: &mut SmallRng, step: u64, count: u64| {
        (step * count / STEPS + rng.gen_range(0..8)).saturating_sub(4)
    };
    let mut events = Vec::new();
    for id in 0..600u64 {
        events.push(Event::Person(Person {
            id,
            name: ["ann", "bob"][rng.gen_range(0..2)].into(),
            email_address: "".into(),
            credit_card: "".into(),
            city: "bend".into(),
            state: ["or", "wa"][rng.gen_range(0..2)].into(),
            date_time: time(id * STEPS / 600),
            extra: String::new(),
        }));
    }
    for id in 0..1_000u64 {
        let step = id * STEPS / 1_000;
        events.push(Event::Auction(Auction {
            id,
            item_name: "".into(),
            description: String::new(),
            initial_bid: 0,
            reserve: 0,
            date_time: time(step),
            expires: time(step + rng.gen_range(0..20)),
            seller: around(rng, step, 600),
            category: rng.gen_range(9..12),
            extra: String::new(),
        }));
    }
    for number in 0..20_000 {
        let step = rng.gen_range(0..STEPS);
        events.push(Event::Bid(Bid {
            auction: around(rng, step, 1_000),
            bidder: rng.gen_range(0..200),
            price: rng.gen_range(0..30),
            channel: "".into(),
            url: String::new(),
            date_time: time(step),
            extra: format!("bid {number}"),
        }));
    }
    events
}

#[test]
fn rows_over_generated_events_are_those_of_the_models() {
    agrees_with_the_models(generated(5_000, 100), "in order");
}

#[test]
fn rows_over_events_out_of_order_are_those_of_the_models() {
    let mut events = generated(30_000, 500);
    shuffle(&mut events, &mut SmallRng::seed_from_u64(1));
    agrees_with_the_models(events, "out of order");
}

#[test]
fn rows_over_coinciding_events_are_those_of_the_models() {
    for seed in 0..3 {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut events = coinciding(rng);
        shuffle(&mut events, rng);
        agrees_with_the_models(events, &format!("coinciding, seed {seed}"));
    }
}

#[test]
fn a_query_over_no_events_has_no_rows() {
    for query in Query::ALL {
        assert_eq!(rows(query, &Vec::new().into(), 2), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn discarded_rows_are_counted() {
    let events: Arc<[Event]> = generated(5_000, 100).into();
    for query in Query::ALL {
        let config = || Config::default().with_slots(1);
        let kept = run(query, Arc::clone(&events), config(), RowsTo::Collect).unwrap();
        let dropped = run(query, Arc::clone(&events), config(), RowsTo::Discard).unwrap();
        assert_eq!(dropped.rows, Vec::<String>::new(), "{query}");
        assert_eq!(dropped.rows_out, kept.rows_out, "{query}");
        if query != Query::Q4 {
            assert_eq!(kept.rows_out, kept.rows.len() as u64, "{query}");
        }
    }
}
