//! How long a record takes from one host to another and back, beside plain sockets.
//!
//! # How it is measured
//! - One record is on its way at a time: the next is emitted when the one before has come back. Two
//!   processes on two hosts, each on a core of its own, spin.
//! - Ours is a job: a source on the first host, a map on the second, a sink on the first, joined by two
//!   exchanges. A record takes 40 bytes. The clock runs from before the source emits it until the sink
//!   has it.
//! - `sockets`: 64 bytes, which is less than the record with its frame, are written to a socket, read,
//!   written back and read by threads that do nothing else.
//!
//! The two sides take turns, each time with new processes; what counts is the median of the ratios of pairs.

mod job;
mod sockets;

use crate::latency::Percentiles;
use crate::statistics::Spread;
use crate::two_hosts::{Options, Place, Side, TwoHosts, wait_for_the_end};
use crate::{BenchError, Session, host};
use hdrhistogram::Histogram;
use millstream_ops::Interrupt;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long nothing is recorded.
const WARM_UP: Duration = Duration::from_millis(300);

/// A turn.
#[derive(Serialize)]
struct Sample {
    ours: Percentiles,
    socket: Percentiles,
}

#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    hosts: u32,
    p50_us: f64,
    p99_us: f64,
    socket_p50_us: f64,
    socket_p99_us: f64,
    /// The median of the ratios of pairs, of the medians.
    ratio: f64,
    host: host::Host,
    samples: Vec<Sample>,
}

/// Measures, and reports once.
///
/// # Errors
/// If no hosts can be made, or a process fails.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    host::warn_if_busy();
    let hosts = TwoHosts::new(options)?;
    let turn = |side| -> Result<Percentiles, BenchError> {
        let [mut first, _second] = hosts.start::<Percentiles>(side)?;
        first.expect(interrupt, |told, _| Some(told))
    };
    let mut samples = Vec::new();
    for pair in 1..=options.pairs {
        let socket = turn(Side::Plain)?;
        let ours = turn(Side::Ours)?;
        eprintln!("pair {pair}: p50 {:.1} us, plain sockets {:.1} us", ours.p50_us, socket.p50_us);
        samples.push(Sample { ours, socket });
    }
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).median;
    let figures = Figures {
        benchmark: "round-trip",
        hosts: 2,
        p50_us: median(|one| one.ours.p50_us),
        p99_us: median(|one| one.ours.p99_us),
        socket_p50_us: median(|one| one.socket.p50_us),
        socket_p99_us: median(|one| one.socket.p99_us),
        ratio: median(|one| one.ours.p50_us / one.socket.p50_us),
        host: host::Host::probe(),
        samples,
    };
    options.format.write(&figures, || figures.text())
}

/// Is one of the processes, until it is killed.
///
/// # Errors
/// If it does not reach the other, or the job fails.
pub fn serve(
    side: Side,
    place: &Place,
    duration: Duration,
    session: &Session,
) -> Result<(), BenchError> {
    place.pin()?;
    match side {
        Side::Plain => {
            if let Some(percentiles) = sockets::play(place, duration)? {
                crate::process::tell(&percentiles)?;
            }
            wait_for_the_end()
        }
        Side::Ours => job::run(place, duration, session),
    }
}

/// Records round trips.
#[derive(Debug)]
struct Recorder {
    begin: Instant,
    end: Instant,
    nanos: Histogram<u64>,
}

impl Recorder {
    /// From now on, after a while.
    fn start(duration: Duration) -> Self {
        let begin = Instant::now() + WARM_UP;
        let nanos = Histogram::new(3).expect("three digits are within the bounds");
        Self { begin, end: begin + duration, nanos }
    }

    /// One that has come back now; false if there need be no more.
    fn record(&mut self, sent: Instant) -> bool {
        let now = Instant::now();
        if now >= self.begin {
            // It grows as needed.
            let _ = self.nanos.record((now - sent).as_nanos() as u64);
        }
        now < self.end
    }

    fn percentiles(&self) -> Percentiles {
        Percentiles::of(&self.nanos)
    }
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "round trip between two hosts: p50 {:.1} us, p99 {:.1} us; plain sockets {:.1} us, {:.1} us; ratio \
             {:.2}, the median of {} pairs",
            self.p50_us,
            self.p99_us,
            self.socket_p50_us,
            self.socket_p99_us,
            self.ratio,
            self.samples.len()
        )
    }
}
