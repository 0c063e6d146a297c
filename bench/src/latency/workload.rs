//! What is measured.

use super::sink::{Due, Recording};
use millstream::prelude::*;
use millstream::{Chain, Generator, MaxBy, record};
use millstream_workloads::nexmark;
use millstream_workloads::throughput::data::{SETTINGS, compact};
use millstream_workloads::throughput::{Bid, WINDOW_MILLIS, WINDOW_SLIDE_MILLIS};
use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The events that bids are taken from, over and over.
const EVENTS: usize = 1_000_000;

/// Event time between two events: 10,000 per second, as in the throughput workloads.
const EVENT_TIME_STEP: Duration = Duration::from_micros(100);

/// A workload whose latency can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The running number of bids per auction: one result per bid.
    KeyedCount,
    /// The auction with the most bids in each window of 10 s of event time, every 2 s.
    Q5,
    /// The highest bid of each 10 s of event time.
    Q7,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KeyedCount, Self::Q5, Self::Q7];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyedCount => "keyed-count",
            Self::Q5 => "q5",
            Self::Q7 => "q7",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no workload's.
#[derive(Debug, thiserror::Error)]
#[error("there is no workload \"{0}\"; the workloads are {list}", list = Workload::ALL.map(Workload::name).join(", "))]
pub struct UnknownWorkload(String);

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        let found = Self::ALL.into_iter().find(|workload| workload.name() == name);
        found.ok_or_else(|| UnknownWorkload(name.to_owned()))
    }
}

/// Adds the workload to an environment.
pub(super) fn describe(
    env: &Environment,
    workload: Workload,
    rate: u64,
    events: u64,
    recording: &Recording,
) {
    let bids: Arc<[Bid]> = nexmark::Generator::new(SETTINGS)
        .take(EVENTS)
        .filter_map(|event| compact(&event).bid())
        .collect();
    let clock = recording.clock.clone();
    clock.read_in(env);
    let emitted = env.generate(
        "bids",
        Generator::new(move |number, due| {
            clock.observe(number, due);
            Emitted { number, due: due.as_nanos(), bid: bids[number as usize % bids.len()] }
        })
        .rate(rate as f64)
        .count(events),
    );
    match workload {
        Workload::KeyedCount => keyed_count(emitted, recording),
        Workload::Q5 => q5(emitted, recording),
        Workload::Q7 => q7(emitted, recording),
    }
}

/// A bid on its way from the source.
#[derive(Clone, Copy)]
struct Emitted {
    number: u64,
    due: i64,
    bid: Bid,
}

/// How many bids on an auction there are, and when the last of them was due.
#[record]
#[derive(Clone, Copy)]
struct Count {
    auction: u64,
    bids: u64,
    due: i64,
}

fn keyed_count<C: Chain<Out = Emitted>>(emitted: DataStream<C>, recording: &Recording) {
    let counts = emitted
        .map(|emitted| Count { auction: emitted.bid.auction, bids: 1, due: emitted.due })
        .key_by(|count| count.auction)
        .reduce(|before, one| Count { bids: before.bids + one.bids, ..one });
    recording.take(counts, |count| Due::At(Timestamp::from_nanos(count.due)));
}

fn q5<C: Chain<Out = Emitted>>(emitted: DataStream<C>, recording: &Recording) {
    let (size, slide) =
        (Duration::from_millis(WINDOW_MILLIS), Duration::from_millis(WINDOW_SLIDE_MILLIS));
    let hottest = in_event_time(emitted)
        .map(|bid| bid.auction)
        .key_by(|auction| *auction)
        .window(Sliding::of(size, slide))
        .count()
        .map(|count| (count.key, count.value))
        .window_all(Tumbling::of(slide))
        .aggregate(MaxBy::new(|(auction, count): &(u64, u64)| (*count, Reverse(*auction))));
    recording.take(hottest, |hottest| Due::With(first_behind(hottest.window)));
}

fn q7<C: Chain<Out = Emitted>>(emitted: DataStream<C>, recording: &Recording) {
    let highest = in_event_time(emitted)
        .window_all(Tumbling::of(Duration::from_millis(WINDOW_MILLIS)))
        .aggregate(MaxBy::new(|bid: &Bid| (bid.price, Reverse(bid.auction), Reverse(bid.bidder))));
    recording.take(highest, |highest| Due::With(first_behind(highest.window)));
}

fn in_event_time<C: Chain<Out = Emitted>>(
    emitted: DataStream<C>,
) -> DataStream<impl Chain<Out = Bid> + use<C>> {
    emitted
        .assign_timestamps(WatermarkStrategy::monotonic(|emitted: &Emitted| {
            event_time(emitted.number)
        }))
        .map(|emitted| emitted.bid)
}

fn event_time(number: u64) -> Timestamp {
    let base = Timestamp::from_millis(SETTINGS.base_time_millis as i64);
    base + Duration::from_nanos(EVENT_TIME_STEP.as_nanos() as u64 * number)
}

/// The number of the first event that does not belong to this window or one before it.
fn first_behind(window: TimeWindow) -> u64 {
    let since_base = window.end.as_nanos() - event_time(0).as_nanos();
    u64::try_from(since_base).unwrap_or(0).div_ceil(EVENT_TIME_STEP.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_behind_a_window_is_the_one_that_completes_it() {
        for number in [1, 19_999, 20_000, 20_001, 1_234_567] {
            let window = TimeWindow { start: event_time(0), end: event_time(number) };
            assert_eq!(first_behind(window), number);
            assert!(event_time(first_behind(window)) >= window.end);
            assert!(event_time(first_behind(window) - 1) < window.end);
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for workload in Workload::ALL {
            assert_eq!(workload.to_string().parse::<Workload>().unwrap(), workload);
        }
        let error = "q9".parse::<Workload>().unwrap_err().to_string();
        assert!(error.contains("keyed-count, q5, q7"), "{error}");
    }
}
