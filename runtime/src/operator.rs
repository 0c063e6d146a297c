//! Operators: the links of a chain.
//!
//! A chain is one value: each operator holds the next by value, and a record is pushed through
//! all of them by calls that the compiler resolves and inlines. Records come one by one
//! ([`Operator::record`]) or, at the head of a chain, in batches ([`Operator::batch`]); everything
//! else comes between records.
//!
//! # Invariants
//! - `watermark` never goes back. After it, records at or before it are late.
//! - A chain of a job that begins with a checkpoint sees `resume` first.
//! - At the end of input a chain sees `watermark(Timestamp::MAX)`, then
//!   `signal(Signal::EndOfInput)`, then only `tick`, `flush`, `is_blocked` and `is_finished`.
//! - An operator passes every call on to its successor, at the right moment: what it emits because
//!   of a watermark goes before the watermark.
//! - No operator blocks. [`Operator::is_blocked`] is asked before more input is pushed; what one
//!   push expands to is buffered by the outputs without limit.

mod blame;
mod process;
mod side_output;
mod sink;
mod stateless;
mod two_input;
mod watermarks;

pub(crate) use blame::enter_user_code;
pub use blame::{UserFailure, fail, in_user_code, take_blame};
pub use process::{Process, ProcessContext, ProcessFunction};
pub use side_output::{OutputTag, SideOutputs};
pub use sink::{SinkOperator, SinkState};
pub use stateless::{Filter, FilterMap, FlatMap, Inspect, Map};
pub use two_input::TwoInputOperator;
pub use watermarks::{AssignTimestamps, EventTime, WatermarkStrategy};

use crate::rows::Rows;
use millstream_types::{Barrier, LatencyMarker, Timestamp};

/// What a chain is told between records, watermarks apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A checkpoint barrier, and how it is passed on.
    Barrier(Barrier, Passing),
    /// A round of what was in flight in the restored checkpoint, whose barrier this is, has gone before. No
    /// snapshot is taken; what is emitted from now on must not overtake it.
    Recovering(Barrier),
    /// A latency probe.
    LatencyMarker(LatencyMarker),
    /// Inputs are idle: do not wait for this chain's watermark.
    Idle,
    /// Inputs are active again.
    Active,
    /// Nothing follows.
    EndOfInput,
}

/// How a barrier goes from one chain to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Behind everything that was emitted before it.
    InOrder,
    /// Ahead of what has not been received; that becomes part of the snapshot.
    Overtaking,
}

/// Where user code emits records.
pub trait Collector<T> {
    /// Emits a record with the timestamp of the record that is being processed.
    fn collect(&mut self, value: T);

    /// Emits a record with a timestamp of its own.
    fn collect_at(&mut self, value: T, timestamp: Timestamp);
}

/// A link of a chain, which consumes records of type `In`. See the module's invariants.
pub trait Operator<In>: 'static {
    /// Processes one record; [`Timestamp::MIN`] means that it has no timestamp.
    fn record(&mut self, value: In, timestamp: Timestamp);

    /// Processes a batch and leaves it empty.
    ///
    /// Operators with keyed state override it, to hash all keys before they touch any state.
    #[inline]
    fn batch(&mut self, rows: &mut Rows<In>) {
        rows.drain_each(|value, timestamp| self.record(value, timestamp));
    }

    /// Advances event time.
    fn watermark(&mut self, watermark: Timestamp);

    /// The job begins with a checkpoint, at which event time had come to this watermark: what it
    /// closes has been emitted before. Called once, before anything else; [`Timestamp::MIN`] for a
    /// chain that had got no watermark. What the operator's tables hold it finds there when it is
    /// built.
    fn resume(&mut self, watermark: Timestamp);

    /// Takes a signal.
    fn signal(&mut self, signal: Signal);

    /// Called once per poll of the subtask, with processing time: due timers fire, watermarks are
    /// generated.
    fn tick(&mut self, now: Timestamp);

    /// When `tick` must be called at the latest though no record comes; [`Timestamp::MAX`] for
    /// never.
    fn next_deadline(&self) -> Timestamp;

    /// Called when the input has run dry: what is buffered goes out now.
    fn flush(&mut self);

    /// True if an output has no credit or a sink cannot take more for now.
    fn is_blocked(&mut self) -> bool;

    /// After the end of input: true once everything has been handed over and made final.
    fn is_finished(&mut self) -> bool;
}

/// Passes the named calls of [`Operator`] on to `self.next`.
#[macro_export]
macro_rules! forward_to_next {
    ($($method:ident),+ $(,)?) => { $($crate::forward_to_next!(@ $method);)+ };
    (@ watermark) => {
        #[inline]
        fn watermark(&mut self, watermark: $crate::Timestamp) { self.next.watermark(watermark) }
    };
    (@ resume) => {
        fn resume(&mut self, watermark: $crate::Timestamp) { self.next.resume(watermark) }
    };
    (@ signal) => {
        #[inline]
        fn signal(&mut self, signal: $crate::operator::Signal) { self.next.signal(signal) }
    };
    (@ tick) => {
        #[inline]
        fn tick(&mut self, now: $crate::Timestamp) { self.next.tick(now) }
    };
    (@ next_deadline) => {
        #[inline]
        fn next_deadline(&self) -> $crate::Timestamp { self.next.next_deadline() }
    };
    (@ flush) => {
        #[inline]
        fn flush(&mut self) { self.next.flush() }
    };
    (@ is_blocked) => {
        #[inline]
        fn is_blocked(&mut self) -> bool { self.next.is_blocked() }
    };
    (@ is_finished) => {
        #[inline]
        fn is_finished(&mut self) -> bool { self.next.is_finished() }
    };
}

/// Passes the named calls of [`Operator`] on to the [`SideOutputs`] in the named field, and to
/// `self.next`.
macro_rules! forward_to_next_and_sides {
    ($sides:tt: $($method:ident),+ $(,)?) => {
        $($crate::operator::forward_to_next_and_sides!(@ $method $sides);)+
    };
    (@ signal [$($sides:ident).+]) => {
        fn signal(&mut self, signal: $crate::operator::Signal) {
            self.$($sides).+.signal(signal);
            self.next.signal(signal);
        }
    };
    (@ tick [$($sides:ident).+]) => {
        fn tick(&mut self, now: $crate::Timestamp) {
            self.$($sides).+.tick(now);
            self.next.tick(now);
        }
    };
    (@ next_deadline [$($sides:ident).+]) => {
        fn next_deadline(&self) -> $crate::Timestamp {
            self.$($sides).+.next_deadline().min(self.next.next_deadline())
        }
    };
    (@ flush [$($sides:ident).+]) => {
        fn flush(&mut self) {
            self.$($sides).+.flush();
            self.next.flush();
        }
    };
    // In these two, both are asked: either may be doing work when it is.
    (@ is_blocked [$($sides:ident).+]) => {
        fn is_blocked(&mut self) -> bool {
            self.$($sides).+.is_blocked() | self.next.is_blocked()
        }
    };
    (@ is_finished [$($sides:ident).+]) => {
        fn is_finished(&mut self) -> bool {
            self.$($sides).+.is_finished() & self.next.is_finished()
        }
    };
}
pub(crate) use forward_to_next_and_sides;

/// A collector that pushes into the next operator of a chain.
pub struct Emit<'a, N> {
    next: &'a mut N,
    timestamp: Timestamp,
}

impl<'a, N> Emit<'a, N> {
    /// Emits into `next`; records without a timestamp of their own get `timestamp`.
    #[inline(always)]
    pub fn new(next: &'a mut N, timestamp: Timestamp) -> Self {
        Self { next, timestamp }
    }
}

impl<T, N: Operator<T>> Collector<T> for Emit<'_, N> {
    #[inline(always)]
    fn collect(&mut self, value: T) {
        self.next.record(value, self.timestamp);
    }

    #[inline(always)]
    fn collect_at(&mut self, value: T, timestamp: Timestamp) {
        self.next.record(value, timestamp);
    }
}
