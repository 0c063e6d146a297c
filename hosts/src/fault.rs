//! What goes wrong between hosts, and its end.
//!
//! Packets are lost at the host that would have received them, behind everything that the sender can
//! see. So a sender meets silence, as on a real network, and not an error.

use crate::delay::{self, Relay};
use crate::error::HostsError;
use crate::host::{CARD, Host};
use crate::namespace::Namespace;
use crate::set::{Hosts, port};
use crate::tool;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a packet may wait where the bandwidth is limited: there is no room for more.
const WAIT_MS: u64 = 100;
/// What may pass at once where the bandwidth is limited, in bytes: less is below what a clock tick
/// lets through.
const BURST_MIN: u64 = 16 * 1024;
/// As a share of a second's bytes.
const BURST_PER_SECOND: u64 = 100;
/// Bytes per second: below, not even a packet a second would pass.
const BANDWIDTH_MIN: u64 = 2_000;
/// Into so many parts a probability is divided.
const LOSS_STEPS: f64 = 100_000.0;

/// Something that goes wrong, until [`Fault::heal`] or the end of this value.
#[must_use = "a fault ends with this value"]
#[derive(Debug, Default)]
pub struct Fault {
    undo: Vec<Undo>,
}

/// One step back.
#[derive(Debug)]
enum Undo {
    /// A program, where it runs, and what it is told.
    Run(Namespace, Tool, String),
    Stop(Relay),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Tool {
    Ip,
    Nft,
    Tc,
}

impl Tool {
    fn run(self, namespace: &Namespace, lines: &str) -> Result<(), HostsError> {
        let (program, from_input) = match self {
            Self::Ip => ("ip", ["-batch", "-"]),
            Self::Nft => ("nft", ["--file", "-"]),
            Self::Tc => ("tc", ["-batch", "-"]),
        };
        tool::run(namespace.command(program).args(from_input), lines)
    }
}

impl Fault {
    /// Undoes it. A set of hosts that is gone needs no healing.
    ///
    /// # Errors
    /// If the system does not: the first error, after all else was undone.
    pub fn heal(mut self) -> Result<(), HostsError> {
        self.undo_all()
    }

    /// Does something that is undone with this fault.
    pub(crate) fn run(
        &mut self,
        namespace: &Namespace,
        tool: Tool,
        lines: &str,
        undo: String,
    ) -> Result<(), HostsError> {
        tool.run(namespace, lines)?;
        self.undo.push(Undo::Run(namespace.clone(), tool, undo));
        Ok(())
    }

    /// Keeps a relay as long as this fault lasts.
    pub(crate) fn keep(&mut self, relay: Relay) {
        self.undo.push(Undo::Stop(relay));
    }

    /// Drops packets that a host receives from others and that fit the condition.
    fn drop_at(&mut self, host: &Host, condition: &str) -> Result<(), HostsError> {
        // A table of its own, which goes as a whole and leaves those of other faults alone.
        let table = format!("fault{}", next_number());
        let lines = format!(
            "table ip {table} {{\n\
                 chain input {{\n\
                     type filter hook input priority 0; policy accept;\n\
                     iifname \"{CARD}\" {condition} drop\n\
                 }}\n\
             }}\n"
        );
        self.run(&host.namespace, Tool::Nft, &lines, format!("delete table ip {table}\n"))
    }

    fn undo_all(&mut self) -> Result<(), HostsError> {
        let mut result = Ok(());
        while let Some(step) = self.undo.pop() {
            match step {
                Undo::Run(namespace, tool, lines) => {
                    let done = tool.run(&namespace, &lines);
                    if namespace.exists() {
                        result = result.and(done);
                    }
                }
                Undo::Stop(relay) => drop(relay),
            }
        }
        result
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // A failure shows as a fault that stays; whoever wants to know calls `heal`.
        let _ = self.undo_all();
    }
}

/// A number that names a part of a fault.
pub(crate) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Hosts {
    /// Two hosts do not reach each other.
    ///
    /// # Errors
    /// If the system does not do it.
    ///
    /// # Panics
    /// This and all other faults, if the set has no such hosts.
    pub fn partition(&self, a: usize, b: usize) -> Result<Fault, HostsError> {
        self.partitions(&[(a, b), (b, a)])
    }

    /// One host does not reach another, but hears it.
    ///
    /// # Errors
    /// If the system does not do it.
    pub fn partition_one_way(&self, from: usize, to: usize) -> Result<Fault, HostsError> {
        self.partitions(&[(from, to)])
    }

    /// One host reaches no other, and is reached by none.
    ///
    /// # Errors
    /// If the system does not do it.
    pub fn isolate(&self, host: usize) -> Result<Fault, HostsError> {
        let others = (0..self.all().len()).filter(|other| *other != host);
        let pairs: Vec<_> = others.flat_map(|other| [(host, other), (other, host)]).collect();
        self.partitions(&pairs)
    }

    fn partitions(&self, pairs: &[(usize, usize)]) -> Result<Fault, HostsError> {
        let mut fault = Fault::default();
        for &(from, to) in pairs {
            let from = self.host(from).address();
            fault.drop_at(self.host(to), &format!("ip saddr {from}"))?;
        }
        Ok(fault)
    }

    /// Each packet from or to a host is lost with this probability, in percent.
    ///
    /// # Errors
    /// If the number is not above 0 and up to 100, or the system does not do it.
    pub fn loss(&self, host: usize, percent: f64) -> Result<Fault, HostsError> {
        if !(percent > 0.0 && percent <= 100.0) {
            return Err(HostsError::Argument(format!("{percent} % of packets cannot be lost")));
        }
        // From 0 to this one, because `nft` takes no number that cannot come.
        let unlucky = (percent / 100.0 * LOSS_STEPS).ceil() - 1.0;
        let chance = format!("numgen random mod {LOSS_STEPS} <= {unlucky}");
        let mut fault = Fault::default();
        let one = self.host(host);
        fault.drop_at(one, &chance)?;
        for other in self.all().iter().filter(|other| other.index != one.index) {
            fault.drop_at(other, &format!("ip saddr {} {chance}", one.address()))?;
        }
        Ok(fault)
    }

    /// A host sends at most so many bytes per second, and receives as many, with a short queue in
    /// front of either. A host has one such limit at a time.
    ///
    /// # Errors
    /// If that is below 2,000, the host has a limit already, or the system does not do it.
    pub fn bandwidth(&self, host: usize, bytes_per_second: u64) -> Result<Fault, HostsError> {
        if bytes_per_second < BANDWIDTH_MIN {
            let words = format!("{bytes_per_second} bytes per second carry no packets");
            return Err(HostsError::Argument(words));
        }
        let bits = bytes_per_second.saturating_mul(8);
        let burst = (bytes_per_second / BURST_PER_SECOND).max(BURST_MIN);
        let host = self.host(host);
        let mut fault = Fault::default();
        for (namespace, card) in [(&host.namespace, CARD), (self.bridge(), &*port(host))] {
            let limit = format!(
                "qdisc add dev {card} root tbf rate {bits}bit burst {burst} latency {WAIT_MS}ms\n"
            );
            fault.run(namespace, Tool::Tc, &limit, format!("qdisc del dev {card} root\n"))?;
        }
        Ok(fault)
    }

    /// Packets between two hosts take so much longer, in either direction: an answer takes twice as
    /// much. A pair has one such detour at a time.
    ///
    /// The detour is a thread of this process, good for about a hundred megabytes per second; what
    /// waits in it beyond 64 MiB is lost. When it ends, what waits arrives at once.
    ///
    /// # Errors
    /// If the pair has a detour already, or the system does not do it.
    pub fn delay(&self, a: usize, b: usize, by: Duration) -> Result<Fault, HostsError> {
        delay::between(self, a, b, by..=by)
    }

    /// As [`Hosts::delay`], but each packet takes a time of its own, so that they overtake each other.
    ///
    /// # Errors
    /// As [`Hosts::delay`].
    pub fn jitter(
        &self,
        a: usize,
        b: usize,
        by: RangeInclusive<Duration>,
    ) -> Result<Fault, HostsError> {
        delay::between(self, a, b, by)
    }
}
