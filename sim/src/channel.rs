//! A bounded channel between two simulated subtasks.

use crate::Bug;
use crate::random::Random;
use crate::record::Record;
use millstream_protocol::{CreditViolation, ReceiveCredits, SendCredits, SubtaskId};
use millstream_types::Barrier;
use std::collections::VecDeque;

/// What a channel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Record(Record),
    Barrier(Barrier),
    End,
}

/// Between hosts, a channel has two ends, and each knows of the other what has arrived from it.
#[derive(Clone, Debug)]
struct Remote {
    windows: Windows,
    /// The sender's.
    data: SendCredits,
    control: SendCredits,
    /// On the way to the receiver.
    wire: VecDeque<Frame>,
    /// The receiver's.
    got_data: ReceiveCredits,
    got_control: ReceiveCredits,
    /// What it has granted in all.
    granted: (u64, u64),
    /// On the way to the sender.
    grants: Vec<(u64, u64)>,
    /// The totals that the sender has heard of last: of use to a bug only.
    heard: (u64, u64),
    /// A signal was to be sent, and had no credit.
    held_back: bool,
    bug: Option<Bug>,
}

/// How many records and how many signals may be on their way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    pub(crate) data: u32,
    pub(crate) control: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Element(u64, Element),
    /// It needs no credit.
    Ahead(Barrier),
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
    remote: Option<Remote>,
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
            remote: None,
        }
    }

    /// A channel to another host.
    pub(crate) fn remote(
        from: SubtaskId,
        to: SubtaskId,
        windows: Windows,
        bug: Option<Bug>,
    ) -> Self {
        let Windows { data, control } = windows;
        let remote = Remote {
            windows,
            data: SendCredits::new(data),
            control: SendCredits::new(control),
            wire: VecDeque::new(),
            got_data: ReceiveCredits::new(data),
            got_control: ReceiveCredits::new(control),
            granted: (u64::from(data), u64::from(control)),
            grants: Vec::new(),
            heard: (u64::from(data), u64::from(control)),
            held_back: false,
            bug,
        };
        let credits = (data + control) as usize;
        Self { remote: Some(remote), ..Self::new(from, to, credits) }
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
        if self.remote.is_some() {
            self.send();
        }
        match &mut self.remote {
            // What is on the wire arrives before it, and is found there.
            Some(remote) => remote.wire.push_back(Frame::Ahead(barrier)),
            None => self.ahead = Some((barrier, self.queue.len())),
        }
        records(self.outbox.iter())
    }

    /// Sends what there are credits for. Returns true if nothing is left to send.
    pub(crate) fn send(&mut self) -> bool {
        while let Some(element) = self.outbox.front().copied() {
            match &mut self.remote {
                None if self.queue.len() < self.credits => self.queue.push_back(element),
                None => break,
                Some(remote) => {
                    let data = matches!(element, Element::Record(_));
                    let credits = if data { &mut remote.data } else { &mut remote.control };
                    let credit = credits.send();
                    remote.held_back = credit.is_none() && !data;
                    let Some(number) = credit else { break };
                    remote.wire.push_back(Frame::Element(number, element));
                }
            }
            self.outbox.pop_front();
        }
        self.outbox.is_empty()
    }

    /// Some of what is on its way arrives, frames in their order and grants in any: those to the
    /// receiver and those to the sender as far as the way is open. Returns how many did.
    ///
    /// # Errors
    /// If one of the ends does not keep to the protocol.
    pub(crate) fn pass(
        &mut self,
        open: (bool, bool),
        random: &mut Random,
    ) -> Result<(u64, u64), CreditViolation> {
        let Some(remote) = &mut self.remote else { return Ok((0, 0)) };
        let (mut frames, mut grants) = (0, 0);
        while open.0
            && random.one_in(2)
            && let Some(frame) = remote.wire.pop_front()
        {
            frames += 1;
            match frame {
                Frame::Ahead(barrier) => self.ahead = Some((barrier, self.queue.len())),
                Frame::Element(number, element) => {
                    let data = matches!(element, Element::Record(_));
                    let got = if data { &mut remote.got_data } else { &mut remote.got_control };
                    got.receive(number)?;
                    self.queue.push_back(element);
                }
            }
        }
        while open.1 && random.one_in(2) && !remote.grants.is_empty() {
            grants += 1;
            let totals = remote.grants.swap_remove(random.index(remote.grants.len()));
            remote.hear(totals)?;
            // Until it has tried again.
            remote.held_back = false;
        }
        Ok((frames, grants))
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
        if let Some(remote) = &mut self.remote {
            remote.consume(element);
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

    /// What is wrong with the credits, if anything is.
    pub(crate) fn check_credits(&self) -> Result<(), String> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let element = |frame: &Frame| match frame {
            Frame::Element(_, element) => Some(*element),
            Frame::Ahead(_) => None,
        };
        let in_flight = remote.wire.iter().filter_map(element).chain(self.queue.iter().copied());
        let (data, control): (Vec<_>, Vec<_>) =
            in_flight.partition(|element| matches!(element, Element::Record(_)));
        let Windows { data: data_max, control: control_max } = remote.windows;
        let quiet = remote.grants.is_empty();
        for (name, most, count, credits) in [
            ("records", data_max, data.len(), remote.data),
            ("signals", control_max, control.len(), remote.control),
        ] {
            if count > most as usize {
                return Err(format!("{count} {name} in flight, where {most} are the most"));
            }
            // All has arrived and was consumed, and so have the grants.
            if quiet && count == 0 && credits.available() * 2 <= u64::from(most) {
                let left = credits.available();
                return Err(format!("none of {most} {name} in flight, and {left} may be sent"));
            }
        }
        // More than half of the signals' window is granted then, whatever records there are.
        if remote.held_back && quiet && control.len() * 2 <= control_max as usize {
            return Err("a signal waits, and there is room for it".to_owned());
        }
        Ok(())
    }
}

impl Remote {
    /// The receiver has taken an element, as its host's links see it.
    fn consume(&mut self, element: Element) {
        let (mut data, mut control) = self.granted;
        if matches!(element, Element::Record(_)) {
            data = self.got_data.consume().unwrap_or(data);
        } else {
            control = self.got_control.consume().unwrap_or(control);
        }
        if (data, control) == self.granted {
            return;
        }
        // What has gathered of the other goes with it.
        data = self.got_data.announce().unwrap_or(data);
        control = self.got_control.announce().unwrap_or(control);
        let is_lost = self.bug == Some(Bug::LostGrant) && (data + control).is_multiple_of(2);
        self.granted = (data, control);
        if !is_lost {
            self.grants.push(self.granted);
        }
    }

    /// The sender hears of a grant.
    fn hear(&mut self, (data, control): (u64, u64)) -> Result<(), CreditViolation> {
        let twice = |total: u64, before: u64| match self.bug {
            Some(Bug::DoubleGrant) => total + total.saturating_sub(before),
            _ => total,
        };
        self.data.grant(twice(data, self.heard.0))?;
        self.control.grant(twice(control, self.heard.1))?;
        self.heard = (data.max(self.heard.0), control.max(self.heard.1));
        Ok(())
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

    fn remote(bug: Option<Bug>) -> Channel {
        let Channel { from, to, .. } = channel();
        Channel::remote(from, to, Windows { data: 2, control: 1 }, bug)
    }

    #[test]
    fn between_hosts_signals_pass_when_records_may_not() {
        let (mut channel, mut random) = (remote(None), Random::new(1));
        (0..2).for_each(|key| channel.push(Element::Record(record(key))));
        channel.push(Element::Barrier(BARRIER));
        assert!(channel.send(), "the barrier has a budget of its own");
        channel.push(Element::Record(record(2)));
        assert!(!channel.send());
        assert_eq!(channel.push_ahead(BARRIER), [record(2)]);
        while channel.ahead.is_none() {
            channel.pass((true, false), &mut random).unwrap();
        }
        assert_eq!(channel.take_ahead(), Some((BARRIER, vec![record(0), record(1)])));
        channel.take();
        assert!(!channel.send(), "the grant is on its way");
        while !channel.send() {
            channel.pass((false, true), &mut random).unwrap();
        }
        assert_eq!(channel.check_credits(), Ok(()));
    }

    #[test]
    fn grants_that_are_lost_or_count_twice_are_seen() {
        let seen = |bug| {
            let (mut channel, mut random) = (remote(bug), Random::new(2));
            (0..200).any(|round| {
                // Now more than may be sent, so that every credit is used, and now nothing.
                let count = if round % 40 < 18 { 1 + round % 2 } else { 0 };
                (0..count).for_each(|key| channel.push(Element::Record(record(key))));
                channel.send();
                let broken = channel.pass((true, true), &mut random).is_err();
                channel.take();
                broken || channel.check_credits().is_err()
            })
        };
        assert!(!seen(None));
        assert!(seen(Some(Bug::LostGrant)), "lost");
        assert!(seen(Some(Bug::DoubleGrant)), "twice");
    }
}
