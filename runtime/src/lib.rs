//! The worker: slots, subtasks, operator chains, operators, windows, timers.
//!
//! A [`graph::Graph`] of operator chains is put together by the crate `millstream`, and
//! [`job::start`]ed here. `ARCHITECTURE.md` tells the way of a record.
#![deny(unsafe_code)]

pub mod chain;
pub mod checkpoint;
pub mod clock;
pub mod config;
pub mod error;
pub mod exchange;
mod executor;
#[doc(hidden)]
pub mod fuzzing;
pub mod graph;
mod hosts;
pub mod job;
pub mod keyed;
pub mod links;
pub mod metrics;
pub mod operator;
pub mod rows;
pub mod sink;
mod slot;
pub mod source;
pub mod subtask;
pub mod window;

pub use millstream_types::Timestamp;
