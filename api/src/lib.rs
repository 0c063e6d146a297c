//! Millstream: stateful stream processing at the speed of a hand-written loop.
//!
//! A program describes a dataflow with an [`Environment`] and typed streams, then executes it.
//!
//! ```
//! use millstream::prelude::*;
//!
//! let env = Environment::new(Config::default());
//! let counts = env
//!     .from_collection("lines", ["to be or", "not to be"].map(String::from))
//!     .flat_map(|line: String, out| {
//!         line.split_whitespace().for_each(|word| out.collect(word.to_owned()))
//!     })
//!     .key_by(|word| word.clone())
//!     .count()
//!     .collect();
//! env.execute("word count")?;
//! assert!(counts.take().contains(&("be".to_owned(), 2)));
//! # Ok::<(), millstream::JobError>(())
//! ```
//!
//! Streams are bounded or unbounded alike: when a bounded source ends, event time goes to its end,
//! every window fires, and the job ends.
#![forbid(unsafe_code)]

// `#[record]` expands to paths that begin with `::millstream`; they must resolve here too.
extern crate self as millstream;

mod config;
mod connected;
mod count_window;
mod environment;
mod join;
mod keyed;
mod signals;
mod sinks;
mod sources;
mod stream;
mod window;

pub mod connector;

pub use config::{Config, ConfigError};
pub use connected::ConnectedStreams;
pub use count_window::CountWindowedStream;
pub use environment::{Environment, RunningJob};
pub use join::{JoinedStreams, WindowedJoin};
pub use keyed::KeyedStream;
pub use sinks::{CollectSink, Collected, Total, TotalSink};
pub use sources::{Blocks, Collection, Generated, Generator, Paced, ParallelIterator};
pub use stream::{DataStream, SharedStream, StreamSink};
pub use window::{AllWindowedStream, DirectWindowedStream, SessionStream, WindowedStream};

pub use millstream_macros::record;
pub use millstream_runtime::chain::Chain;
pub use millstream_runtime::config::IdlePolicy;
pub use millstream_runtime::error::{BoxError, JobError};
pub use millstream_runtime::job::{Canceller, JobMetrics, JobResult, JobStatus, VertexMetrics};
pub use millstream_runtime::keyed::{
    KeyedCoProcessFunction, KeyedContext, KeyedProcessFunction, KeyedState,
};
pub use millstream_runtime::metrics::{LinkStats, SlotMetrics};
pub use millstream_runtime::operator::{
    Collector, OutputTag, ProcessContext, ProcessFunction, WatermarkStrategy,
};
pub use millstream_runtime::window::{
    AggregateFunction, Count, Global, Max, MaxBy, Min, MinBy, ProcessWindowFunction, Reduce,
    Session, Sliding, Sum, TimeWindow, Top1WithTies, TopK, Tumbling, WindowResult,
};
pub use millstream_state::{
    CurrentKey, Data, HeapBackend, Key, ListState, MapState, SegmentsBackend, StateBackend, Ttl,
    TtlUpdate, TtlVisibility, ValueState,
};
pub use millstream_types::Timestamp;
pub use rkyv;

/// All that most programs need.
pub mod prelude {
    pub use crate::{
        AggregateFunction, BoxError, Collected, Collector, Config, CurrentKey, DataStream,
        Environment, IdlePolicy, JobError, JobResult, KeyedCoProcessFunction, KeyedContext,
        KeyedProcessFunction, KeyedState, KeyedStream, ListState, MapState, OutputTag,
        ProcessContext, ProcessFunction, Session, Sliding, TimeWindow, Timestamp, Ttl, TtlUpdate,
        TtlVisibility, Tumbling, ValueState, WatermarkStrategy, WindowResult,
    };
    pub use std::time::Duration;
}
