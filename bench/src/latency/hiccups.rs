//! The machine's own pauses, as a stream would feel them.
//!
//! Threads on the cores of the slots do nothing but look at the clock and note how late they see the
//! time at which each of so many ticks a second was due. What they see is there without any job:
//! interrupts, other programs, a hypervisor. After Gil Tene's jHiccup, but with ticks at the rate of
//! the stream, so that percentiles compare.

use super::histogram;
use crate::BenchError;
use hdrhistogram::Histogram;
use millstream_ops::Interrupt;
use millstream_tuning::{Topology, pin_current_thread};
use std::time::{Duration, Instant};

/// What to look at the clock for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    /// Ticks per second, over all threads.
    pub(crate) rate: u64,
    /// Threads; fewer if there are fewer cores, since they would measure each other.
    pub(crate) slots: u32,
    /// For how long.
    pub(crate) duration: Duration,
}

/// Measures.
///
/// # Errors
/// If a signal came.
pub(crate) fn measure(
    Ticks { rate, slots, duration }: Ticks,
    interrupt: &Interrupt,
) -> Result<Histogram<u64>, BenchError> {
    let topology = Topology::detect();
    let threads = (slots as usize).min(topology.slots_max()).max(1);
    let interval = Duration::from_secs_f64(threads as f64 / rate as f64);
    let mut total = histogram::empty();
    std::thread::scope(|scope| {
        let measuring: Vec<_> = topology
            .assign(threads)
            .into_iter()
            .map(|placement| {
                scope.spawn(move || {
                    if let Err(error) = pin_current_thread(placement.core) {
                        eprintln!("warning: hiccups are measured on any core: {error}");
                    }
                    tick(duration, interval, interrupt)
                })
            })
            .collect();
        for thread in measuring {
            let ticks = thread.join().expect("looking at the clock does not panic");
            total.add(ticks).expect("all histograms have the same bounds");
        }
    });
    if interrupt.is_raised() { Err(BenchError::Cancelled) } else { Ok(total) }
}

fn tick(duration: Duration, interval: Duration, interrupt: &Interrupt) -> Histogram<u64> {
    let mut late = histogram::empty();
    let interval_nanos = interval.as_nanos().max(1) as u64;
    let duration_nanos = duration.as_nanos() as u64;
    let start = Instant::now();
    let mut due = 0;
    while due < duration_nanos {
        let now = start.elapsed().as_nanos() as u64;
        if due > now {
            std::hint::spin_loop();
            continue;
        }
        if interrupt.is_raised() {
            break;
        }
        while due <= now && due < duration_nanos {
            late.saturating_record((now - due).max(1));
            due += interval_nanos;
        }
    }
    late
}
