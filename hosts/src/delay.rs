//! A detour on which packets take their time.
//!
//! The kernel's own delay (netem) is missing on many machines. So the two hosts send packets for each
//! other to the router, which sends them to a network card that a thread of this process plays
//! ([`tun`]). The thread keeps each for a while ([`queue`]) and sends it back from the same card;
//! from there on it goes as all others do. Programs see nothing of this but the time; a limit of
//! bandwidth and a partition hold on the detour too.

mod queue;
mod tun;

use crate::error::HostsError;
use crate::fault::{Fault, Tool, next_number};
use crate::process::time;
use crate::set::{Hosts, ROUTER};
use queue::Queue;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, PipeReader, PipeWriter};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tun::Tun;

/// What may wait on a detour.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// So many packets are taken in before the next are sent on.
const BATCH: usize = 64;
/// So many packets the system keeps for the relay.
const CARD_QUEUE: usize = 4096;
/// The longest wait, with nothing to send.
const IDLE: Duration = Duration::from_secs(1);
/// The largest packet of IPv4.
const PACKET_BYTES_MAX: usize = 65_536;

/// Routes the packets between two hosts over a relay.
pub(crate) fn between(
    hosts: &Hosts,
    a: usize,
    b: usize,
    by: RangeInclusive<Duration>,
) -> Result<Fault, HostsError> {
    if a == b || by.is_empty() {
        return Err(HostsError::Argument(format!("no delay of {by:?} between hosts {a} and {b}")));
    }
    let [a, b] = [a, b].map(|index| hosts.host(index));
    let [from, to] = [a.address(), b.address()];
    // Routing tables up to 255 are the system's.
    let number = next_number();
    let (card, table) = (format!("slow{number}"), 1000 + number);
    let mut fault = Fault::default();
    let bridge = hosts.bridge();
    let tun = bridge.within(|| Tun::open(&card))??;
    fault.keep(Relay::start(tun, by)?);
    // What comes out of the card must not go into it again.
    let rules = [
        format!("iif {card} lookup main priority 10"),
        format!("from {from} to {to} lookup {table} priority 100"),
        format!("from {to} to {from} lookup {table} priority 100"),
    ];
    let lines = |verb| rules.iter().map(move |rule| format!("rule {verb} {rule}\n"));
    let on = format!(
        "link set {card} txqueuelen {CARD_QUEUE} up\nroute add default dev {card} table {table}\n{}",
        lines("add").collect::<String>()
    );
    fault.run(bridge, Tool::Ip, &on, lines("del").collect())?;
    for (host, other) in [(a, to), (b, from)] {
        let route = format!("{other}/32 via {ROUTER}\n");
        let (on, off) = (format!("route add {route}"), format!("route del {route}"));
        fault.run(&host.namespace, Tool::Ip, &on, off)?;
    }
    Ok(fault)
}

/// The thread that keeps packets. It ends with this value, and then sends on what it has.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Closing it is the sign to stop.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(tun: Tun, by: RangeInclusive<Duration>) -> Result<Self, HostsError> {
        let begin = |()| {
            let (stopped, stop) = io::pipe()?;
            let work = move || relay(&tun, &stopped, &by);
            let thread = thread::Builder::new().name("delay".to_owned()).spawn(work)?;
            Ok(Self { stop: Some(stop), thread: Some(thread) })
        };
        begin(()).map_err(HostsError::io::<io::Error>("starting a thread for", "packets"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop = None;
        // It panics if this crate has an error: then packets are lost, which a test sees.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn relay(tun: &Tun, stopped: &PipeReader, by: &RangeInclusive<Duration>) {
    let mut random = SmallRng::from_entropy();
    let mut queue = Queue::new(WAITING_BYTES_MAX);
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let mut take_in = |count: usize, queue: &mut Queue| {
        for _ in 0..count {
            let Some(length) = tun.receive(&mut packet) else { break };
            let by = random.gen_range(by.clone());
            queue.push(Instant::now() + by, &packet[..length]);
        }
    };
    loop {
        let now = Instant::now();
        while let Some(packet) = queue.take_due(now) {
            tun.send(&packet);
        }
        let wait = queue.next_due().map_or(IDLE, |due| due.saturating_duration_since(now));
        let mut ready = [
            PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, Some(&time(wait))) {
            Ok(_) | Err(Errno::INTR) => {}
            // Nothing more can be known of the card.
            Err(_) => break,
        }
        if !ready[1].revents().is_empty() {
            break;
        }
        take_in(BATCH, &mut queue);
    }
    // Nothing is routed here any more.
    take_in(CARD_QUEUE, &mut queue);
    while let Some(packet) = queue.take_first() {
        tun.send(&packet);
    }
}
