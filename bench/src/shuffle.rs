//! How fast records go between two hosts, beside plain sockets.
//!
//! # How it is measured
//! - Two processes on two hosts, each on a core of its own, send to each other, both ways at once, and take
//!   what the other sends. What counts is the bytes of records that arrive, of both together.
//! - `batches`: batches of rows that need no partitioning go through the slot's links, as those of an
//!   exchange do: framed, with check-sums, by credits.
//! - `rows`: a job's exchange, from its source to its sink: rows of 40 bytes are partitioned by the hash
//!   of their key. The keys are such that all of them belong to the other host.
//! - `sockets`: the same threads write to a socket and read from it as fast as they can, 128 KiB at a
//!   time, and do not look at what they read.
//!
//! The two sides take turns, each time with new processes; what counts is the median of the ratios of pairs.

mod batches;
mod rows;
mod sockets;

use crate::statistics::Spread;
use crate::two_hosts::{Options, Place, Side, TwoHosts};
use crate::{BenchError, Session, host};
use millstream::LinkStats;
use millstream_ops::Interrupt;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::Duration;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Batches that need no partitioning.
    Batches,
    /// Rows that a job partitions.
    Rows,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "batches" => Ok(Self::Batches),
            "rows" => Ok(Self::Rows),
            _ => Err("batches or rows".to_owned()),
        }
    }
}

/// What a process has counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Told {
    bytes_per_second: f64,
    links: LinkFigures,
}

/// How bytes went.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct LinkFigures {
    /// Bytes of payloads that were used where they were received.
    bytes_in_place: u64,
    /// Bytes of payloads that were copied after they were received.
    bytes_copied: u64,
    /// Sends without copying that the kernel has reported on.
    notifications: u64,
    /// Those of them that it has copied nevertheless.
    copied: u64,
}

#[derive(Serialize)]
struct Sample {
    bytes_per_second: f64,
    plain_socket_bytes_per_second: f64,
}

#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    mode: Mode,
    hosts: u32,
    bytes_per_second: f64,
    plain_socket_bytes_per_second: f64,
    /// The median of the ratios of pairs.
    ratio: f64,
    links: LinkFigures,
    host: host::Host,
    samples: Vec<Sample>,
}

/// Measures, and reports once.
///
/// # Errors
/// If no hosts can be made, or a process fails.
pub fn run(mode: Mode, options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    host::warn_if_busy();
    let hosts = TwoHosts::new(options)?;
    let turn = |side| -> Result<Told, BenchError> {
        let mut processes = hosts.start::<Told>(side)?;
        let mut sum = Told::default();
        for process in &mut processes {
            let told = process.expect(interrupt, |told, _| Some(told))?;
            sum.bytes_per_second += told.bytes_per_second;
            sum.links.add(told.links);
        }
        Ok(sum)
    };
    let (mut samples, mut links) = (Vec::new(), LinkFigures::default());
    for pair in 1..=options.pairs {
        let plain = turn(Side::Plain)?;
        let ours = turn(Side::Ours)?;
        eprintln!(
            "pair {pair}: {} MB/s, plain sockets {} MB/s",
            megabytes(ours.bytes_per_second),
            megabytes(plain.bytes_per_second)
        );
        links.add(ours.links);
        samples.push(Sample {
            bytes_per_second: ours.bytes_per_second,
            plain_socket_bytes_per_second: plain.bytes_per_second,
        });
    }
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).median;
    let figures = Figures {
        benchmark: "shuffle",
        mode,
        hosts: 2,
        bytes_per_second: median(|one| one.bytes_per_second),
        plain_socket_bytes_per_second: median(|one| one.plain_socket_bytes_per_second),
        ratio: median(|one| one.bytes_per_second / one.plain_socket_bytes_per_second),
        links,
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
    mode: Mode,
    side: Side,
    place: &Place,
    duration: Duration,
    session: &Session,
) -> Result<(), BenchError> {
    place.pin()?;
    match (side, mode) {
        (Side::Plain, _) => sockets::exchange(place, duration),
        (Side::Ours, Mode::Batches) => batches::exchange(place, duration),
        (Side::Ours, Mode::Rows) => rows::run(duration, session),
    }
}

impl From<LinkStats> for LinkFigures {
    fn from(stats: LinkStats) -> Self {
        Self {
            bytes_in_place: stats.bytes_in_place,
            bytes_copied: stats.bytes_copied,
            notifications: stats.transport.notifications,
            copied: stats.transport.copied,
        }
    }
}

impl LinkFigures {
    fn add(&mut self, other: Self) {
        self.bytes_in_place += other.bytes_in_place;
        self.bytes_copied += other.bytes_copied;
        self.notifications += other.notifications;
        self.copied += other.copied;
    }
}

fn megabytes(bytes: f64) -> u64 {
    (bytes / 1e6).round() as u64
}

impl Figures {
    fn text(&self) -> String {
        let LinkFigures { bytes_in_place, bytes_copied, notifications, copied } = self.links;
        let in_place = bytes_in_place as f64 / (bytes_in_place + bytes_copied).max(1) as f64;
        format!(
            "{} MB/s between two hosts, both ways together; plain sockets {} MB/s; ratio {:.2}, the median of \
             {} pairs\n\
             {:.1} % of the bytes were used where they were received; the kernel has copied {copied} of \
             {notifications} sends that it was asked not to copy, and was asked no more",
            megabytes(self.bytes_per_second),
            megabytes(self.plain_socket_bytes_per_second),
            self.ratio,
            self.samples.len(),
            100.0 * in_place
        )
    }
}
