//! A bounded channel between two simulated subtasks.

use crate::record::Record;
use millstream_protocol::SubtaskId;
use millstream_types::Barrier;
use std::collections::VecDeque;

/// What a channel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Record(Record),
    Barrier(Barrier),
    End,
}

/// From one subtask to another. The queue holds as many elements as there are credits; what the
/// sender has emitted beyond waits in its outbox.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) from: SubtaskId,
    pub(crate) to: SubtaskId,
    credits: usize,
    outbox: VecDeque<Element>,
    queue: VecDeque<Element>,
    /// A barrier that goes ahead, and how many elements of the queue it has overtaken.
    ahead: Option<(Barrier, usize)>,
    ended: bool,
    /// Records emitted and records read: what the checker of cuts compares.
    sent: u64,
    received: u64,
}

impl Channel {
    pub(crate) fn new(from: SubtaskId, to: SubtaskId, credits: usize) -> Self {
        Self {
            from,
            to,
            credits,
            outbox: VecDeque::new(),
            queue: VecDeque::new(),
            ahead: None,
            ended: false,
            sent: 0,
            received: 0,
        }
    }

    /// Emits an element. Nothing follows the end, not even a barrier.
    pub(crate) fn push(&mut self, element: Element) {
        if self.ended {
            assert!(!matches!(element, Element::Record(_)), "a record after the end");
            return;
        }
        self.sent += u64::from(matches!(element, Element::Record(_)));
        self.ended = element == Element::End;
        self.outbox.push_back(element);
    }

    /// Emits a barrier ahead of everything that was not read yet. Returns the records that it has
    /// overtaken on the sender's side.
    pub(crate) fn push_ahead(&mut self, barrier: Barrier) -> Vec<Record> {
        if self.ended {
            return Vec::new();
        }
        self.ahead = Some((barrier, self.queue.len()));
        records(self.outbox.iter())
    }

    /// Sends what there are credits for. Returns true if nothing is left to send.
    pub(crate) fn send(&mut self) -> bool {
        while self.queue.len() < self.credits
            && let Some(element) = self.outbox.pop_front()
        {
            self.queue.push_back(element);
        }
        self.outbox.is_empty()
    }

    /// The barrier that went ahead, with the records that it has overtaken on the receiver's side.
    pub(crate) fn take_ahead(&mut self) -> Option<(Barrier, Vec<Record>)> {
        let (barrier, overtaken) = self.ahead.take()?;
        Some((barrier, records(self.queue.iter().take(overtaken))))
    }

    /// The next element in order.
    pub(crate) fn take(&mut self) -> Option<Element> {
        assert!(self.queue.len() <= self.credits, "more in flight than there are credits");
        let element = self.queue.pop_front()?;
        self.received += u64::from(matches!(element, Element::Record(_)));
        if let Some((_, overtaken)) = &mut self.ahead {
            *overtaken = overtaken.saturating_sub(1);
        }
        Some(element)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }
}

fn records<'a>(elements: impl Iterator<Item = &'a Element>) -> Vec<Record> {
    let record = |element: &Element| match element {
        Element::Record(record) => Some(*record),
        Element::Barrier(_) | Element::End => None,
    };
    elements.filter_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::{CheckpointId, SubtaskIndex, VertexId};

    fn channel() -> Channel {
        let end = |vertex| SubtaskId { vertex: VertexId(vertex), subtask: SubtaskIndex(0) };
        Channel::new(end(0), end(1), 2)
    }

    fn record(key: u64) -> Record {
        Record { key, count: 0 }
    }

    const BARRIER: Barrier = Barrier { checkpoint: CheckpointId(1) };

    #[test]
    fn no_more_is_sent_than_there_are_credits() {
        let mut channel = channel();
        (0..3).for_each(|key| channel.push(Element::Record(record(key))));
        assert!(!channel.send());
        assert_eq!(channel.take(), Some(Element::Record(record(0))));
        assert!(channel.send());
        assert_eq!((channel.sent(), channel.received()), (3, 1));
    }

    #[test]
    fn a_barrier_ahead_tells_what_it_has_overtaken_on_both_sides() {
        let mut channel = channel();
        (0..4).for_each(|key| channel.push(Element::Record(record(key))));
        channel.send();
        assert_eq!(channel.push_ahead(BARRIER), [record(2), record(3)]);
        channel.take();
        channel.send();
        assert_eq!(channel.take_ahead(), Some((BARRIER, vec![record(1)])));
        assert_eq!(channel.take_ahead(), None);
    }

    #[test]
    fn nothing_follows_the_end() {
        let mut channel = channel();
        channel.push(Element::End);
        channel.push(Element::Barrier(BARRIER));
        assert_eq!(channel.push_ahead(BARRIER), []);
        channel.send();
        assert_eq!((channel.take(), channel.take()), (Some(Element::End), None));
        assert_eq!(channel.take_ahead(), None);
    }
}
