//! Event by event against the crate `nexmark`.

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use proptest::prelude::*;

use super::*;

fn of_the_crate(settings: Settings) -> EventGenerator {
    EventGenerator::new(NexmarkConfig {
        base_time: settings.base_time_millis,
        first_rate: settings.rate as usize,
        next_rate: settings.rate as usize,
        ..NexmarkConfig::default()
    })
}

/// The crate's event as one of ours, by a mapping that leaves no field out.
fn convert(event: nexmark::event::Event) -> Event {
    match event {
        nexmark::event::Event::Person(nexmark::event::Person {
            id,
            name,
            email_address,
            credit_card,
            city,
            state,
            date_time,
            extra,
        }) => Event::Person(Person {
            id: id as u64,
            name: name.into(),
            email_address: email_address.into(),
            credit_card: credit_card.into(),
            city: city.into(),
            state: state.into(),
            date_time,
            extra,
        }),
        nexmark::event::Event::Auction(nexmark::event::Auction {
            id,
            item_name,
            description,
            initial_bid,
            reserve,
            date_time,
            expires,
            seller,
            category,
            extra,
        }) => Event::Auction(Auction {
            id: id as u64,
            item_name: item_name.into(),
            description,
            initial_bid: initial_bid as u64,
            reserve: reserve as u64,
            date_time,
            expires,
            seller: seller as u64,
            category: category as u64,
            extra,
        }),
        nexmark::event::Event::Bid(nexmark::event::Bid {
            auction,
            bidder,
            price,
            channel,
            url,
            date_time,
            extra,
        }) => Event::Bid(Bid {
            auction: auction as u64,
            bidder: bidder as u64,
            price: price as u64,
            channel: channel.into(),
            url,
            date_time,
            extra,
        }),
    }
}

#[test]
fn the_first_events_equal_those_of_the_crate() {
    let settings = Settings { base_time_millis: 1_436_918_400_000, rate: 1_000 };
    let pairs = Generator::new(settings).zip(of_the_crate(settings)).take(300_000);
    for (number, (ours, theirs)) in pairs.enumerate() {
        assert_eq!(ours, convert(theirs), "event {number}");
    }
}

/// The timestamps lose precision in steps as numbers grow; the generators must lose the same.
#[test]
fn late_events_equal_those_of_the_crate() {
    let settings = Settings { base_time_millis: 1_700_000_000_000, rate: 10_000 };
    for offset in [9_990_000, 16_777_200, 99_999_000, 3_000_000_000] {
        let ours = Generator::new(settings).partition(offset, 1);
        let theirs = of_the_crate(settings).with_offset(offset);
        for (number, (ours, theirs)) in ours.zip(theirs).take(5_000).enumerate() {
            assert_eq!(ours, convert(theirs), "event {}", offset + number as u64);
        }
    }
}

proptest! {
    #[test]
    fn any_partition_of_any_stream_equals_that_of_the_crate(
        base_time_millis in 0..4_000_000_000_000u64,
        rate in prop_oneof![1..100u64, 1..50_000_000u64],
        offset in prop_oneof![0..1_000u64, 0..10_000_000u64, 0..1_000_000_000u64],
        step in 1..200u64,
    ) {
        let settings = Settings { base_time_millis, rate };
        let ours = Generator::new(settings).partition(offset, step);
        let theirs = of_the_crate(settings).with_offset(offset).with_step(step);
        for (ours, theirs) in ours.zip(theirs).take(200) {
            prop_assert_eq!(ours, convert(theirs));
        }
    }
}

#[test]
fn partitions_of_a_stream_make_up_the_whole() {
    let settings = Settings::default();
    let mut parts: Vec<_> =
        (0..3).map(|offset| Generator::new(settings).partition(offset, 3)).collect();
    for (number, event) in Generator::new(settings).take(3_000).enumerate() {
        assert_eq!(parts[number % 3].next(), Some(event));
    }
}

#[test]
#[should_panic(expected = "zero events per second")]
fn a_rate_of_zero_is_refused() {
    Generator::new(Settings { base_time_millis: 0, rate: 0 });
}
