//! The throughput workloads: what an engine costs, over events that cost nothing.
//!
//! Compact 40-byte Nexmark events (strings dropped) and a text of 200 MB, both in memory before the
//! timed region; results are consumed one by one into a check-sum. `bench/peers` holds the same
//! work as hand-written loops and in other engines, over the same files and with equal check-sums.

pub mod data;
mod model;
mod workload;

pub use model::{
    BLOCK_EVENTS, Bid, Checksum, Ev, WINDOW_MILLIS, WINDOW_SLIDE_MILLIS, count_signature, mix,
    q5_signature, q7_signature, q8_signature, word_hash, word_signature,
};
pub use workload::{Input, Outcome, UnknownWorkload, Workload, run};
