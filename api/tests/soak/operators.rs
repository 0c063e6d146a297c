//! Operators on a typed stream, whatever its chain: what a random program is made of.
//!
//! Each function appends one construct of the public API and yields values below 2^32 again, so that
//! any may follow any.

use crate::functions::{Buckets, Distinct};
use crate::model::{
    Aggregate, Row, TOP, Windows, add_within_key, decided_gap, digest, digest_unordered, result_row,
};
use millstream::prelude::*;
use millstream::{Chain, Count, Global, Max, Sum, TopK};
use millstream_runtime::chain::FromEdges;

/// A stream at the beginning of a chain: the one type that all streams between operators have.
pub type Open = DataStream<FromEdges<u64>>;

/// An operator over one keyed stream.
#[derive(Clone, Copy, Debug)]
pub enum Keyed {
    Count,
    Reduce,
    Sum,
    Distinct,
    Buckets { size: u64 },
    CountWindow { count: u64, aggregate: bool },
    Window { windows: Windows, aggregate: Aggregate, lateness: Lateness },
    WindowAll { windows: Windows, aggregate: Aggregate },
    Sessions { gap: u64, aggregate: Aggregate, lateness: Lateness },
}

impl Keyed {
    /// The same operator, such that what it makes of these rows does not depend on when
    /// watermarks come.
    pub fn decided_by(self, rows: &[Row], keys: u64) -> Self {
        match self {
            Self::Sessions { gap, aggregate, lateness } => {
                Self::Sessions { gap: decided_gap(rows, keys, gap), aggregate, lateness }
            }
            other => other,
        }
    }
}

/// What is asked for though no record is ever late.
#[derive(Clone, Copy, Debug)]
pub enum Lateness {
    None,
    Allowed(u64),
    /// Late records go out aside, and from there into the result, where they are wrong.
    SideOutput,
}

/// How a chain ends.
#[derive(Clone, Copy, Debug)]
pub enum Exchange {
    NewChain,
    DisableChaining,
    Rebalance,
    Rescale,
    Global,
    Custom,
}

impl Exchange {
    pub const ALL: [Self; 6] = [
        Self::NewChain,
        Self::DisableChaining,
        Self::Rebalance,
        Self::Rescale,
        Self::Global,
        Self::Custom,
    ];
}

/// Ends the chain, so that its type is forgotten.
pub fn close<C: Chain<Out = u64>>(
    stream: DataStream<C>,
    exchange: Exchange,
    parallelism: u32,
) -> Open {
    let stream = match exchange {
        Exchange::NewChain => stream.start_new_chain(),
        Exchange::DisableChaining => stream.disable_chaining(),
        Exchange::Rebalance => stream.rebalance(),
        Exchange::Rescale => stream.rescale(),
        Exchange::Global => return stream.global(),
        Exchange::Custom => stream.partition_custom(|value, targets| *value as usize % targets),
    };
    stream.set_parallelism(parallelism)
}

/// How the chain that a keyed operator begins goes on.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    pub keys: u64,
    /// Subtasks of the keyed operator.
    pub parallelism: u32,
    pub exchange: Exchange,
    /// Subtasks after the exchange.
    pub next: u32,
}

impl Placement {
    fn close<C: Chain<Out = u64>>(self, stream: DataStream<C>) -> Open {
        close(stream.set_parallelism(self.parallelism), self.exchange, self.next)
    }
}

/// Appends a keyed operator.
pub fn keyed<C: Chain<Out = u64>>(
    stream: DataStream<C>,
    operator: Keyed,
    placement: Placement,
) -> Open {
    let keys = placement.keys;
    let key = move |value: &u64| value % keys;
    match operator {
        Keyed::Count => {
            placement.close(stream.key_by(key).count().map(|(key, count)| digest([key, count])))
        }
        // Running results depend on the order; their greatest, as values only grow, does not.
        Keyed::Reduce => {
            let running = stream.key_by(key).reduce(move |a, b| add_within_key(a, b, keys));
            let last = running.key_by(key).window(Global).aggregate(Max::of(|sum: &u64| *sum));
            placement.close(last.map(|result| digest([result.value])))
        }
        Keyed::Sum => {
            let running = stream.key_by(key).sum(|value| *value);
            let last = running
                .set_parallelism(placement.next)
                .key_by(|(key, _)| *key)
                .window(Global)
                .aggregate(Max::of(|(_, sum): &(u64, u64)| *sum));
            placement.close(last.map(|result| digest([result.key, result.value])))
        }
        Keyed::Distinct => placement
            .close(stream.key_by(key).process(|state| Distinct { seen: state.map("seen") })),
        Keyed::Buckets { size } => {
            placement.close(stream.key_by(key).process(move |state| Buckets::open(state, size)))
        }
        Keyed::CountWindow { count, aggregate: true } => {
            let windows = stream.key_by(key).count_window(count).aggregate(Count);
            placement.close(windows.map(|result| digest([result.key, result.value])))
        }
        Keyed::CountWindow { count, aggregate: false } => {
            let whole = |key: &u64, _, values: &[u64], out: &mut dyn Collector<u64>| {
                out.collect(digest([*key, values.len() as u64]));
            };
            placement.close(stream.key_by(key).count_window(count).process(whole))
        }
        Keyed::Window { windows: Windows::Tumbling { size, offset }, aggregate, lateness } => {
            let windows = Tumbling::of(nanos(size)).with_offset(nanos(offset));
            windowed(stream, windows.into(), aggregate, lateness, placement)
        }
        Keyed::Window {
            windows: Windows::Sliding { size, slide, offset },
            aggregate,
            lateness,
        } => {
            let windows = Sliding::of(nanos(size), nanos(slide)).with_offset(nanos(offset));
            windowed(stream, windows.into(), aggregate, lateness, placement)
        }
        Keyed::Window { windows: Windows::Global, aggregate, lateness } => {
            windowed(stream, Global.into(), aggregate, lateness, placement)
        }
        Keyed::WindowAll { windows, aggregate } => {
            let stream = stream.window_all(slicing(windows));
            let result = |result: WindowResult<(), u64>| {
                result_row(0, result.window.start.as_nanos(), result.value)
            };
            let Placement { exchange, next, .. } = placement;
            match aggregate {
                Aggregate::Count => close(stream.count().map(result), exchange, next),
                Aggregate::Sum => {
                    close(stream.aggregate(Sum::of(|v: &u64| *v)).map(result), exchange, next)
                }
                _ => close(stream.reduce(|a, b| a + b).map(result), exchange, next),
            }
        }
        Keyed::Sessions { gap, aggregate, lateness } => {
            sessions(stream, gap, aggregate, lateness, placement)
        }
    }
}

/// The pairs of two streams in the same windows.
pub fn join(left: Open, right: Open, windows: Windows, placement: Placement) -> Open {
    let keys = placement.keys;
    placement.close(
        left.key_by(move |value| value % keys)
            .join(right.key_by(move |value| value % keys))
            .window(slicing(windows))
            .apply(|left, right| digest([*left, *right])),
    )
}

/// Two streams into one function with timers.
pub fn connect(left: Open, right: Open, size: u64, placement: Placement) -> Open {
    let keys = placement.keys;
    placement.close(
        left.key_by(move |value| value % keys)
            .connect(right.key_by(move |value| value % keys))
            .process(move |state| Buckets::open(state, size)),
    )
}

fn nanos(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

type Slicing = millstream_runtime::window::Slicing;

fn slicing(windows: Windows) -> Slicing {
    match windows {
        Windows::Tumbling { size, offset } => {
            Tumbling::of(nanos(size)).with_offset(nanos(offset)).into()
        }
        Windows::Sliding { size, slide, offset } => {
            Sliding::of(nanos(size), nanos(slide)).with_offset(nanos(offset)).into()
        }
        Windows::Global => Global.into(),
    }
}

fn row(result: WindowResult<u64, u64>) -> u64 {
    result_row(result.key, result.window.start.as_nanos(), result.value)
}

fn top_row(result: WindowResult<u64, Vec<u64>>) -> u64 {
    result_row(result.key, result.window.start.as_nanos(), digest(result.value))
}

fn whole(key: &u64, window: TimeWindow, values: &[u64], out: &mut dyn Collector<u64>) {
    out.collect(result_row(*key, window.start.as_nanos(), digest_unordered(values)));
}

fn windowed<C: Chain<Out = u64>>(
    stream: DataStream<C>,
    windows: Slicing,
    aggregate: Aggregate,
    lateness: Lateness,
    placement: Placement,
) -> Open {
    let keys = placement.keys;
    let stream = stream.key_by(move |value| value % keys).window(windows);
    let stream = match lateness {
        Lateness::None => stream,
        Lateness::Allowed(lateness) => stream.allowed_lateness(nanos(lateness)),
        Lateness::SideOutput => {
            let late = OutputTag::new("late");
            let stream = stream.late_output(&late);
            return match aggregate {
                Aggregate::Process => {
                    let out = stream.process(whole);
                    let late = out.side_output(&late);
                    placement.close(out.union(late))
                }
                _ => {
                    let out = stream.aggregate(Sum::of(|value: &u64| *value));
                    let late = out.side_output(&late);
                    placement.close(out.map(row).union(late))
                }
            };
        }
    };
    match aggregate {
        Aggregate::Count => placement.close(stream.count().map(row)),
        Aggregate::Sum => placement.close(stream.aggregate(Sum::of(|value: &u64| *value)).map(row)),
        Aggregate::Reduce => placement.close(stream.reduce(|a, b| a + b).map(row)),
        Aggregate::Top => {
            placement.close(stream.aggregate(TopK::new(TOP, |value: &u64| *value)).map(top_row))
        }
        Aggregate::Process => placement.close(stream.process(whole)),
    }
}

fn sessions<C: Chain<Out = u64>>(
    stream: DataStream<C>,
    gap: u64,
    aggregate: Aggregate,
    lateness: Lateness,
    placement: Placement,
) -> Open {
    let keys = placement.keys;
    let stream = stream.key_by(move |value| value % keys).sessions(Session::with_gap(nanos(gap)));
    let late = OutputTag::new("late");
    let stream = match lateness {
        Lateness::None => stream,
        Lateness::Allowed(lateness) => stream.allowed_lateness(nanos(lateness)),
        Lateness::SideOutput => {
            let stream = stream.late_output(&late);
            return match aggregate {
                Aggregate::Process => {
                    let out = stream.process(whole);
                    let late = out.side_output(&late);
                    placement.close(out.union(late))
                }
                _ => {
                    let out = stream.reduce(|a, b| a + b);
                    let late = out.side_output(&late);
                    placement.close(out.map(row).union(late))
                }
            };
        }
    };
    match aggregate {
        Aggregate::Count => placement.close(stream.count().map(row)),
        Aggregate::Sum | Aggregate::Reduce => placement.close(stream.reduce(|a, b| a + b).map(row)),
        Aggregate::Top => {
            placement.close(stream.aggregate(TopK::new(TOP, |value: &u64| *value)).map(top_row))
        }
        Aggregate::Process => placement.close(stream.process(whole)),
    }
}
