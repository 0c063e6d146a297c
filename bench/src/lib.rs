//! Benchmarks over the public API: throughput, Nexmark, latency, shuffles between hosts, comparison with other programs.
//!
//! Each module has its options, which a command line fills in, and a function that runs them.
//!
//! # Invariants
//! - Input is in memory before the timed region, which begins with the release of the sources and
//!   ends with the last result; threads are started before it.
//! - Figures go to standard output, one line or one JSON object per run; what people are told
//!   besides goes to standard error.
//! - A file under its final name is whole.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod compare;
mod destination;
mod error;
pub mod failover;
mod files;
pub mod generate;
mod host;
pub mod interactive;
pub mod latency;
mod limit;
pub mod nexmark;
mod process;
pub mod recovery;
pub mod replication;
mod report;
pub mod rollback;
pub mod round_trip;
mod scratch;
mod session;
pub mod shuffle;
pub mod state;
mod statistics;
mod steered;
pub mod throughput;
pub mod two_hosts;
mod updates;
pub mod zero_copy;

pub use destination::{Destination, Output};
pub use error::BenchError;
pub use report::Format;
pub use session::Session;
