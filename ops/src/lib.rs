//! What a job's program has around the job: flags, logs, signals, metrics, a summary, exit codes.
//!
//! [`run`] is all that a program with one job needs:
//!
//! ```no_run
//! use millstream::prelude::*;
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     millstream_ops::run("squares", |env| {
//!         env.from_collection("numbers", 0..10u64).map(|n| n * n).discard();
//!     })
//! }
//! ```
//!
//! [`run_with`] does the same for a program with flags of its own. One of several commands flattens
//! [`JobArgs`] and [`LogArgs`] into its clap parser and calls [`execute`].
//!
//! # Invariants
//! - What people are told goes to standard error; standard output belongs to the job's results.
//! - Nothing here runs on a slot: metrics are read from counters, by a thread of their own.
#![forbid(unsafe_code)]

mod args;
mod exit;
mod interrupt;
mod metrics_server;
mod process;
mod program;
pub mod prometheus;
mod summary;

pub use args::{JobArgs, LogArgs, LogLevel};
pub use exit::Exit;
pub use interrupt::Interrupt;
pub use metrics_server::{MetricsServer, MetricsServerError};
pub use process::{Usage, reset_peak_resident, threads_cpu};
pub use program::{execute, run, run_with};
pub use summary::{Summary, count, duration, mebibytes};
