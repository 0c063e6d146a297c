//! Packets and when they are due.
//!
//! Pure: no clock.
//!
//! # Invariants
//! - Packets come out by the time that they are due, those of one time in the order they came in.
//! - No more bytes wait than there is room for: a packet that comes then is lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A packet that waits. The number keeps the order of those that are due at once.
type Waiting = Reverse<(Instant, u64, Box<[u8]>)>;

#[derive(Debug)]
pub(crate) struct Queue {
    waiting: BinaryHeap<Waiting>,
    count: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { waiting: BinaryHeap::new(), count: 0, bytes: 0, bytes_max }
    }

    pub(crate) fn push(&mut self, due: Instant, packet: &[u8]) {
        if self.bytes + packet.len() > self.bytes_max {
            return;
        }
        self.bytes += packet.len();
        self.count += 1;
        self.waiting.push(Reverse((due, self.count, packet.into())));
    }

    /// When the first packet is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((due, ..))| *due)
    }

    /// The first packet, if it is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Box<[u8]>> {
        if self.next_due()? <= now { self.take_first() } else { None }
    }

    /// The first packet.
    pub(crate) fn take_first(&mut self) -> Option<Box<[u8]>> {
        let Reverse((_, _, packet)) = self.waiting.pop()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn packets_come_out_when_due_and_in_order() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = Queue::new(100);
        for (due, packet) in [(20, b"c"), (10, b"a"), (20, b"d"), (10, b"b")] {
            queue.push(at(due), packet);
        }
        assert_eq!(queue.take_due(at(9)), None);
        assert_eq!(queue.next_due(), Some(at(10)));
        for packet in [b"a", b"b"] {
            assert_eq!(queue.take_due(at(10)).as_deref(), Some(&packet[..]));
        }
        assert_eq!(queue.take_due(at(19)), None);
        for packet in [b"c", b"d"] {
            assert_eq!(queue.take_first().as_deref(), Some(&packet[..]));
        }
        assert_eq!(queue.take_first(), None);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn what_there_is_no_room_for_is_lost() {
        let now = Instant::now();
        let mut queue = Queue::new(5);
        queue.push(now, b"123");
        queue.push(now, b"456");
        assert_eq!(queue.take_due(now).as_deref(), Some(&b"123"[..]));
        assert_eq!(queue.take_due(now), None);
        queue.push(now, b"45678");
        assert_eq!(queue.take_due(now).as_deref(), Some(&b"45678"[..]));
    }
}
