//! The workloads, as a user of the API would write them.

use super::{
    BLOCK_EVENTS, Bid, Checksum, Ev, WINDOW_MILLIS, WINDOW_SLIDE_MILLIS, count_signature,
    q5_signature, q7_signature, q8_signature, word_signature,
};
use compact_str::CompactString;
use millstream::prelude::*;
use millstream::{Chain, Global, MaxBy, Total};
use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

/// The text is dealt to the source's subtasks in blocks of this size.
const TEXT_BLOCK_BYTES: usize = 256 << 10;

/// A workload of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// Every event, unchanged.
    Q0,
    /// Bids, their prices in euros.
    Q1,
    /// Bids on some auctions.
    Q2,
    /// The running number of bids per auction; whole bids cross the exchange.
    Count,
    /// As [`Workload::Count`], but only the auction's id crosses the exchange.
    Countp,
    /// The auction with the most bids in each window of 10 s, every 2 s.
    Q5,
    /// The highest bid of each 10 s.
    Q7,
    /// Persons and the auctions they opened within the same 10 s.
    Q8,
    /// How often each word occurs in a text.
    Wc,
}

impl Workload {
    /// All, in the order in which they are reported.
    pub const ALL: [Self; 9] = [
        Self::Q0,
        Self::Q1,
        Self::Q2,
        Self::Count,
        Self::Countp,
        Self::Q5,
        Self::Q7,
        Self::Q8,
        Self::Wc,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q0 => "q0",
            Self::Q1 => "q1",
            Self::Q2 => "q2",
            Self::Count => "count",
            Self::Countp => "countp",
            Self::Q5 => "q5",
            Self::Q7 => "q7",
            Self::Q8 => "q8",
            Self::Wc => "wc",
        }
    }

    /// True if the workload reads the text, not the events.
    pub fn reads_text(self) -> bool {
        self == Self::Wc
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

/// What a workload reads, in memory before it starts.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// Events, in the order of their timestamps.
    Events(&'static [Ev]),
    /// A text of lines.
    Text(&'static str),
}

impl Input {
    /// The number of events, or of words.
    pub fn events(&self) -> u64 {
        match self {
            Self::Events(events) => events.len() as u64,
            Self::Text(text) => text.split_ascii_whitespace().count() as u64,
        }
    }

    fn event_slice(&self) -> &'static [Ev] {
        match self {
            Self::Events(events) => events,
            Self::Text(_) => panic!("this workload reads events, not text"),
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Self::Text(text) => text,
            Self::Events(_) => panic!("this workload reads text, not events"),
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Time, processor time, counters.
    pub result: JobResult,
    /// Over all results.
    pub checksum: Checksum,
}

/// Runs a workload once.
///
/// # Errors
/// If the job cannot start or fails.
///
/// # Panics
/// If the input is not what the workload [reads](Workload::reads_text).
pub fn run(workload: Workload, input: Input, config: Config) -> Result<Outcome, JobError> {
    let env = Environment::new(config);
    let sink = ChecksumSink::default();
    match workload {
        Workload::Q0 => sink.take(events(&env, input), Ev::signature),
        Workload::Q1 => sink.take(bids(&env, input).map(Bid::in_euros), Bid::signature),
        Workload::Q2 => {
            sink.take(bids(&env, input).filter(Bid::is_on_watched_auction), Bid::signature);
        }
        Workload::Count => {
            let counts = bids(&env, input).key_by(|bid| bid.auction).count();
            sink.take(counts, |(auction, count)| count_signature(*auction, *count));
        }
        Workload::Countp => {
            let counts =
                bids(&env, input).map(|bid| bid.auction).key_by(|auction| *auction).count();
            sink.take(counts, |(auction, count)| count_signature(*auction, *count));
        }
        Workload::Q5 => q5(&env, input, &sink),
        Workload::Q7 => q7(&env, input, &sink),
        Workload::Q8 => q8(&env, input, &sink),
        Workload::Wc => {
            let text = input.text();
            let counts = env
                .from_blocks("text", text.len().div_ceil(TEXT_BLOCK_BYTES) as u64, move |block| {
                    lines(text, block as usize)
                })
                .flat_map(|line: &str, out| {
                    line.split_ascii_whitespace().for_each(|word| out.collect(word.into()));
                })
                .key_by(|word: &CompactString| word.clone())
                .window(Global)
                .count();
            sink.take(counts, |count| word_signature(&count.key, count.value));
        }
    }
    let result = env.execute(workload.name())?;
    Ok(Outcome { checksum: Checksum::of(sink.0.get(), sink.0.records()), result })
}

/// The auction with the most bids per window; of several, the one with the smallest id.
fn q5(env: &Environment, input: Input, sink: &ChecksumSink) {
    let (size, slide) =
        (Duration::from_millis(WINDOW_MILLIS), Duration::from_millis(WINDOW_SLIDE_MILLIS));
    let hottest = in_event_time(events(env, input))
        .filter_map(|event| event.bid().map(|bid| bid.auction))
        .key_by(|auction| *auction)
        .window(Sliding::of(size, slide))
        .count()
        .map(|count| (count.key, count.value))
        .window_all(Tumbling::of(slide))
        .aggregate(MaxBy::new(|(auction, count): &(u64, u64)| (*count, Reverse(*auction))));
    sink.take(hottest, |hottest| {
        let (auction, count) = hottest.value;
        q5_signature(hottest.window.end.as_millis() as u64, auction, count)
    });
}

/// The highest bid per window; of several, the one on the auction, then by the bidder, with the
/// smallest id.
fn q7(env: &Environment, input: Input, sink: &ChecksumSink) {
    let highest = in_event_time(events(env, input))
        .filter_map(Ev::bid)
        .window_all(Tumbling::of(Duration::from_millis(WINDOW_MILLIS)))
        .aggregate(MaxBy::new(|bid: &Bid| (bid.price, Reverse(bid.auction), Reverse(bid.bidder))));
    sink.take(highest, |highest| {
        q7_signature(highest.window.end.as_millis() as u64, &highest.value)
    });
}

/// Persons who opened auctions in the window in which they registered, with each auction's reserve.
fn q8(env: &Environment, input: Input, sink: &ChecksumSink) {
    let new_auctions = OutputTag::new("auctions");
    let persons =
        in_event_time(events(env, input)).process(SplitEvents { auctions: new_auctions.clone() });
    let auctions = persons.side_output(&new_auctions);
    let sellers = persons
        .key_by(|person| person.id)
        .join(auctions.key_by(|auction| auction.seller))
        .window(Tumbling::of(Duration::from_millis(WINDOW_MILLIS)))
        .apply(|person, auction| (person.ts, person.id, person.name, auction.reserve));
    sink.take(sellers, |&(ts, id, name, reserve)| {
        q8_signature(ts / WINDOW_MILLIS * WINDOW_MILLIS + WINDOW_MILLIS, id, name, reserve)
    });
}

#[millstream::record]
#[derive(Clone, Copy)]
struct NewPerson {
    id: u64,
    name: u64,
    ts: u64,
}

#[millstream::record]
#[derive(Clone, Copy)]
struct NewAuction {
    seller: u64,
    reserve: u64,
}

/// Emits persons, and auctions into a side output.
#[derive(Clone)]
struct SplitEvents {
    auctions: OutputTag<NewAuction>,
}

impl ProcessFunction<Ev> for SplitEvents {
    type Out = NewPerson;

    #[inline]
    fn process(
        &mut self,
        event: Ev,
        context: &mut ProcessContext<'_>,
        out: &mut impl Collector<NewPerson>,
    ) -> Result<(), BoxError> {
        match event {
            Ev::Person { id, name, ts } => out.collect(NewPerson { id, name, ts }),
            Ev::Auction { seller, reserve, .. } => {
                context.emit_to(&self.auctions, NewAuction { seller, reserve });
            }
            Ev::Bid(_) => {}
        }
        Ok(())
    }
}

/// The events, dealt out to the subtasks in blocks.
fn events(env: &Environment, input: Input) -> DataStream<impl Chain<Out = Ev> + use<>> {
    let events = input.event_slice();
    env.from_blocks("events", events.len().div_ceil(BLOCK_EVENTS) as u64, move |block| {
        let first = block as usize * BLOCK_EVENTS;
        events[first..events.len().min(first + BLOCK_EVENTS)].iter().copied()
    })
}

fn bids(env: &Environment, input: Input) -> DataStream<impl Chain<Out = Bid> + use<>> {
    events(env, input).filter_map(Ev::bid)
}

fn in_event_time<C: Chain<Out = Ev>>(
    events: DataStream<C>,
) -> DataStream<impl Chain<Out = Ev> + use<C>> {
    events.assign_timestamps(WatermarkStrategy::monotonic(|event: &Ev| {
        Timestamp::from_millis(event.timestamp_millis() as i64)
    }))
}

/// The lines of a text that begin in one of its blocks.
fn lines(text: &'static str, block: usize) -> std::str::Lines<'static> {
    // The first line at or behind this place: one that begins there follows the end of another.
    let line_from = |place: usize| {
        let Some(before) = place.checked_sub(1) else { return 0 };
        let rest = text.as_bytes().get(before..).unwrap_or_default();
        rest.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| place + end)
    };
    let start = block * TEXT_BLOCK_BYTES;
    text[line_from(start)..line_from(start + TEXT_BLOCK_BYTES)].lines()
}

/// Takes results one by one and sums up their signatures.
#[derive(Clone, Default)]
struct ChecksumSink(Total);

impl ChecksumSink {
    fn take<C: Chain>(
        &self,
        results: DataStream<C>,
        signature: impl Fn(&C::Out) -> u64 + Clone + Send + 'static,
    ) {
        results.sink_to("checksum", self.0.sink(signature));
    }
}
