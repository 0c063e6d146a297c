//! The worker: slots, subtasks, operator chains, operators, windows, timers.

pub mod error;
pub mod metrics;
pub mod operator;
pub mod rows;
pub mod sink;
pub mod source;
pub mod window;

pub use millstream_types::Timestamp;
