//! Sending without copying, where that is real, beside plain sends.
//!
//! # How it is measured
//! - Datagrams of 60 KB are sent by a network card that drops them (`ifb`), on a host of its own, by one
//!   thread that keeps to a core. Datagrams, because TCP needs somebody who answers.
//! - Ours is the transport of a slot: registered buffers, on several sockets at once, as a socket has one
//!   buffer on its way at a time. The kernel says of each whether it has copied.
//! - The plain side calls `send` for one socket after the other.
//! - Neither fills its buffers but for a number at the beginning.
//!
//! The two sides take turns; what counts is the median of the ratios of pairs.

use crate::statistics::Spread;
use crate::two_hosts::{CountingTime, make_hosts};
use crate::{BenchError, Format, host};
use millstream_hosts::Host;
use millstream_network::transport::{Transport, TransportEvent, TransportSettings, ZeroCopy};
use millstream_ops::{Interrupt, count};
use millstream_tuning::pin_current_thread;
use serde::Serialize;
use std::io;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Of a datagram.
const BYTES: usize = 60_000;
const SOCKETS: usize = 8;
/// A port of nobody.
const PORT: u16 = 9;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each side has its turn.
    pub pairs: u32,
    /// How long a turn is counted.
    pub duration: Duration,
    /// How figures are written.
    pub format: Format,
}

/// A turn of ours.
#[derive(Clone, Copy, Debug)]
struct Turn {
    bytes_per_second: f64,
    notifications: u64,
    copied: u64,
}

#[derive(Serialize)]
struct Sample {
    bytes_per_second: f64,
    plain_bytes_per_second: f64,
}

#[derive(Serialize)]
struct Figures {
    benchmark: &'static str,
    datagram_bytes: usize,
    sockets: usize,
    bytes_per_second: f64,
    plain_bytes_per_second: f64,
    /// The median of the ratios of pairs.
    ratio: f64,
    /// Datagrams that the kernel has reported on.
    notifications: u64,
    /// Those of them that it has copied.
    copied: u64,
    host: host::Host,
    samples: Vec<Sample>,
}

/// Measures, and reports once.
///
/// # Errors
/// If no host or card can be made, or the kernel does not send.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<(), BenchError> {
    host::warn_if_busy();
    let hosts = make_hosts(1)?;
    let host = hosts.host(0);
    let failed = |error: &dyn std::error::Error| BenchError::Different(error.to_string());
    let nobody = host.add_dropping_card().map_err(|error| failed(&error))?;
    let (mut samples, mut notifications, mut copied) = (Vec::new(), 0, 0);
    for pair in 1..=options.pairs {
        if interrupt.is_raised() {
            return Err(BenchError::Cancelled);
        }
        let plain = on(host, || send_plainly(nobody, options.duration))?;
        let ours = on(host, || send_by_transport(nobody, options.duration))?;
        eprintln!(
            "pair {pair}: {:.1} GB/s, plain sends {:.1} GB/s",
            ours.bytes_per_second / 1e9,
            plain / 1e9
        );
        (notifications, copied) = (notifications + ours.notifications, copied + ours.copied);
        samples.push(Sample {
            bytes_per_second: ours.bytes_per_second,
            plain_bytes_per_second: plain,
        });
    }
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of)).median;
    let figures = Figures {
        benchmark: "zero-copy",
        datagram_bytes: BYTES,
        sockets: SOCKETS,
        bytes_per_second: median(|one| one.bytes_per_second),
        plain_bytes_per_second: median(|one| one.plain_bytes_per_second),
        ratio: median(|one| one.bytes_per_second / one.plain_bytes_per_second),
        notifications,
        copied,
        host: host::Host::probe(),
        samples,
    };
    options.format.write(&figures, || figures.text())
}

/// Runs a turn on the host, in a thread that keeps to a core.
fn on<T: Send>(host: &Host, turn: impl FnOnce() -> io::Result<T> + Send) -> Result<T, BenchError> {
    let pinned = || {
        pin_current_thread(host::core(0)).map_err(io::Error::other)?;
        turn()
    };
    host.within(pinned)
        .map_err(|error| BenchError::Different(error.to_string()))?
        .map_err(|error| BenchError::Different(format!("datagrams cannot be sent: {error}")))
}

/// Sockets that send to nobody.
fn sockets(nobody: Ipv4Addr) -> io::Result<Vec<UdpSocket>> {
    let open = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((nobody, PORT))?;
        Ok(socket)
    };
    (0..SOCKETS).map(|_| open()).collect()
}

fn send_plainly(nobody: Ipv4Addr, duration: Duration) -> io::Result<f64> {
    let sockets = sockets(nobody)?;
    let mut buffers = vec![vec![7; BYTES]; SOCKETS];
    let mut sent = 0;
    let mut time = CountingTime::start(duration);
    while time.lasts(sent) {
        for (socket, buffer) in sockets.iter().zip(&mut buffers) {
            buffer[..8].copy_from_slice(&sent.to_le_bytes());
            sent += socket.send(buffer)? as u64;
        }
    }
    Ok(time.per_second())
}

fn send_by_transport(nobody: Ipv4Addr, duration: Duration) -> io::Result<Turn> {
    let mut transport = Transport::open(TransportSettings {
        send_buffers: 2 * SOCKETS as u16,
        send_buffer_bytes: BYTES.next_multiple_of(4_096),
        receive_buffers: 1,
        receive_buffer_bytes: 4_096,
        zero_copy: ZeroCopy::From(BYTES),
    })?;
    let connections: Vec<_> = sockets(nobody)?
        .into_iter()
        .map(|socket| transport.add(TcpStream::from(OwnedFd::from(socket))))
        .collect::<Result<_, _>>()?;
    let mut failure = None;
    let mut number = 0_u64;
    let mut time = CountingTime::start(duration);
    while time.lasts(transport.stats().bytes_sent) {
        for connection in &connections {
            if transport.queued(*connection) > 0 {
                continue;
            }
            let Some(mut buffer) = transport.buffer() else { break };
            if let Some([first, ..]) = buffer.room(BYTES).map(|room| room.as_chunks_mut().0) {
                *first = number.to_le_bytes();
            }
            number += 1;
            transport.send(*connection, buffer);
        }
        transport.tick(&mut |_, event| {
            if let TransportEvent::Closed(error) = event {
                failure = Some(error.unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()));
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
    }
    let stats = transport.stats();
    Ok(Turn {
        bytes_per_second: time.per_second(),
        notifications: stats.notifications,
        copied: stats.copied,
    })
}

impl Figures {
    fn text(&self) -> String {
        format!(
            "{:.1} GB/s in datagrams of {} KB, plain sends {:.1} GB/s; ratio {:.2}, the median of {} pairs\n\
             the kernel has reported on {} of them and copied {}",
            self.bytes_per_second / 1e9,
            self.datagram_bytes / 1_000,
            self.plain_bytes_per_second / 1e9,
            self.ratio,
            self.samples.len(),
            count(self.notifications),
            count(self.copied)
        )
    }
}
