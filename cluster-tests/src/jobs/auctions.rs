//! Queries of Nexmark over events that are made up while they are read, so that the numbers that are
//! left can be dealt to any number of subtasks. The windows are shorter than the benchmark's: there
//! are more of them in as many events.

use compact_str::CompactString;
use millstream::prelude::*;
use millstream::{Chain, Environment, Generator, Top1WithTies};
use millstream_workloads::nexmark::{self, Event};

/// Events of a run: a minute of event time.
pub(super) const EVENTS: u64 = 12_000;
const EVENTS_PER_SECOND: u64 = 200;

const SIZE: Duration = Duration::from_secs(2);
/// Long enough that some sell soon after they have registered.
const JOIN_SIZE: Duration = Duration::from_secs(8);
const SLIDE: Duration = Duration::from_millis(500);
const GAP: Duration = Duration::from_secs(1);
const OUT_OF_ORDERNESS: Duration = Duration::from_secs(4);

fn events(env: &Environment) -> DataStream<impl Chain<Out = Event>> {
    let settings = nexmark::Settings { rate: EVENTS_PER_SECOND, ..nexmark::Settings::default() };
    let generator = nexmark::Generator::new(settings);
    let events = Generator::new(move |number, _| generator.event(number)).count(EVENTS);
    env.generate("events", events).assign_timestamps(WatermarkStrategy::bounded_out_of_orderness(
        OUT_OF_ORDERNESS,
        |event: &Event| Timestamp::from_millis(event.timestamp_millis() as i64),
    ))
}

fn line(count: &WindowResult<u64, u64>) -> String {
    let TimeWindow { start, end } = count.window;
    format!("{} {} {start} {end}", count.key, count.value)
}

/// For each window the auctions that nobody outdoes in bids, with the number of these.
pub(super) fn q5(env: &Environment) -> DataStream<impl Chain<Out = String>> {
    events(env)
        .filter_map(|event| Some(event.into_bid()?.auction))
        .key_by(|auction| *auction)
        .window(Sliding::of(SIZE, SLIDE))
        .count()
        // As many windows end in one slide as there are: one.
        .window_all(Tumbling::of(SLIDE))
        .aggregate(Top1WithTies::new(|count: &WindowResult<u64, u64>| count.value))
        .flat_map(|most, out| most.value.iter().for_each(|count| out.collect(line(count))))
}

/// The persons who put something up for auction in the window in which they registered.
pub(super) fn q8(env: &Environment) -> DataStream<impl Chain<Out = String>> {
    let events = events(env).share();
    let persons = events.stream().filter_map(|event| {
        let person = event.into_person()?;
        Some(Person { id: person.id, name: person.name })
    });
    let sellers = events.stream().filter_map(|event| Some(event.into_auction()?.seller));
    let persons = persons.key_by(Person::clone).window(Tumbling::of(JOIN_SIZE)).count();
    let sellers = sellers.key_by(|seller| *seller).window(Tumbling::of(JOIN_SIZE)).count();
    persons
        .key_by(|person| person.key.id)
        .join(sellers.key_by(|seller| seller.key))
        .window(Tumbling::of(JOIN_SIZE))
        .apply(|person, auctions| {
            let Person { id, name } = &person.key;
            format!("{id} {name} {} {}", person.window.start, auctions.value)
        })
}

#[millstream::record]
#[derive(Clone, PartialEq, Eq, Hash)]
struct Person {
    id: u64,
    name: CompactString,
}

/// Bids per bidder and session.
pub(super) fn q11(env: &Environment) -> DataStream<impl Chain<Out = String>> {
    events(env)
        .filter_map(|event| Some(event.into_bid()?.bidder))
        .key_by(|bidder| *bidder)
        .sessions(Session::with_gap(GAP))
        .count()
        .map(|count| line(&count))
}
