//! What people see while the job runs: a live view in a terminal, lines elsewhere.

mod live;
mod plain;
mod sampler;
mod screen;
#[cfg(test)]
mod tests;

pub(crate) use live::Live;
pub(crate) use plain::{Plain, final_lists, print};

use crate::board::Board;
use crate::service::Pace;
use millstream::{Canceller, JobMetrics, Timestamp};
use millstream_ops::{Interrupt, duration};
use std::time::{Duration, Instant};

/// What a view looks at.
pub(crate) struct Watched {
    pub(crate) metrics: JobMetrics,
    pub(crate) board: Board,
    /// How fast the events' time runs, if they are made up.
    pub(crate) pace: Option<Pace>,
    pub(crate) slots: u32,
    pub(crate) started: Instant,
    pub(crate) job: Canceller,
    pub(crate) interrupt: Interrupt,
}

/// Why a view ended before the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The job has ended.
    WithTheJob,
    /// Somebody has seen enough.
    Quit,
    /// Somebody pressed Ctrl-C, or a signal came.
    Interrupted,
}

/// A time of day as people read it.
fn clock(time: Timestamp) -> String {
    let text = time.to_string();
    // Whole seconds: `YYYY-MM-DD HH:MM:SS`.
    text.split('.').next().unwrap_or_default().to_owned()
}

/// A latency as people read it.
fn latency(time: Duration) -> String {
    // What stays within a chain takes no time that the slot's clock sees.
    if time < Duration::from_micros(1) { "< 1 us".to_owned() } else { duration(time) }
}
