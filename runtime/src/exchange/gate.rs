//! The receiving end of a chain: many channels become one input.
//!
//! # Invariants
//! - The gate's watermark is the least of its channels' that are neither idle nor finished, and
//!   never goes back.
//! - A channel that becomes active again holds back only what comes after: its own watermark
//!   counts from where the gate's is.
//! - The gate is at its end when all channels are.
//! - Nothing is read from a channel that the aligner blocks; what a barrier makes of the subtask's
//!   checkpoints is an event of its own, before any other that the same element gives rise to.
//! - What a barrier has overtaken in a channel, and what the aligner captures, is captured before it is
//!   handed to the chain.

use super::{ChannelId, End};
use crate::checkpoint::SubtaskCheckpoints;
use crate::rows::Rows;
use millstream_network::Receiver;
use millstream_protocol::{Aligner, Alignment};
use millstream_state::Data;
use millstream_types::{CheckpointId, Element, LatencyMarker, Timestamp};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;

/// What a gate hands to its chain.
pub enum Event<T> {
    /// Records; give them back through [`InputGate::give_back`].
    Batch {
        /// Which channel they came by.
        channel: usize,
        /// The records.
        rows: Rows<T>,
    },
    /// The gate's watermark advanced.
    Watermark(Timestamp),
    /// The aligner says what becomes of a checkpoint; more may follow from
    /// [`Aligner::follow_up`].
    Checkpoint(Alignment),
    /// A latency probe.
    LatencyMarker(LatencyMarker),
    /// All channels are idle.
    Idle,
    /// A channel is active again.
    Active,
    /// All channels are at their end.
    EndOfInput,
}

impl<T> Event<T> {
    /// The same event, of a type that has no records.
    ///
    /// # Panics
    /// On a batch.
    pub fn into_control(self) -> Event<Infallible> {
        match self {
            Self::Batch { .. } => panic!("a batch is no control event"),
            Self::Watermark(watermark) => Event::Watermark(watermark),
            Self::Checkpoint(alignment) => Event::Checkpoint(alignment),
            Self::LatencyMarker(marker) => Event::LatencyMarker(marker),
            Self::Idle => Event::Idle,
            Self::Active => Event::Active,
            Self::EndOfInput => Event::EndOfInput,
        }
    }
}

/// The receiving end of a channel.
pub struct Inlet<T: Send + 'static> {
    /// The end.
    pub receiver: Receiver<Rows<T>>,
    /// Which channel it is of.
    pub id: ChannelId,
}

/// The channels into one chain.
pub struct InputGate<T: Send + 'static> {
    channels: Vec<Inlet<T>>,
    /// The channel to look at next: all get their turn.
    cursor: usize,
    valve: Valve,
    /// The number of the first channel in the subtask's aligner.
    first: usize,
    /// Further events that the last element gave rise to.
    pending: VecDeque<Event<T>>,
    /// A signal was taken out of a channel and gave rise to no event.
    absorbed: bool,
    /// Takes what barriers overtake, if they may.
    captures: Option<Rc<SubtaskCheckpoints>>,
}

impl<T: Data> InputGate<T> {
    /// A gate over these channels, which are numbered from `first` on in the subtask's aligner, and by
    /// which no barrier overtakes.
    pub fn new(channels: Vec<Inlet<T>>, first: usize) -> Self {
        let valve = Valve::new(channels.len());
        let pending = VecDeque::new();
        Self { channels, cursor: 0, valve, first, pending, absorbed: false, captures: None }
    }

    /// Barriers may overtake; what they have overtaken goes to `captures`.
    pub(crate) fn capture_into(&mut self, captures: Option<Rc<SubtaskCheckpoints>>) {
        self.captures = captures;
    }

    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Goes on where the gate's watermark was `watermark`. That of each channel comes again.
    pub fn resume(&mut self, watermark: Timestamp) {
        self.valve.resume(watermark);
    }

    /// The next event, or `None` if nothing is there.
    ///
    /// Complexity: a look at each channel at the worst.
    #[inline]
    pub fn poll(&mut self, aligner: &mut Aligner) -> Option<Event<T>> {
        if let Some(event) = self.pending.pop_front() {
            return Some(self.captured(event, aligner));
        }
        let mut empty = 0;
        while empty < self.channels.len() {
            let channel = self.cursor;
            self.cursor = if channel + 1 == self.channels.len() { 0 } else { channel + 1 };
            if aligner.is_blocked(self.first + channel) {
                empty += 1;
                continue;
            }
            let element = self.channels[channel].receiver.receive();
            if self.captures.is_some() && self.channels[channel].receiver.has_overtaking() {
                let event = self.receive_behind_barrier(channel, element, aligner);
                if event.is_some() {
                    return event;
                }
                empty += 1;
                continue;
            }
            match element {
                Some(Element::Batch(rows)) => {
                    return Some(self.captured(Event::Batch { channel, rows }, aligner));
                }
                Some(element) => {
                    self.on_control(channel, element, aligner);
                    if let Some(event) = self.pending.pop_front() {
                        return Some(event);
                    }
                    self.absorbed = true;
                    // Control is followed at once by what comes behind it in the same channel.
                    self.cursor = channel;
                }
                None => empty += 1,
            }
        }
        None
    }

    /// True if signals were taken since the last call that gave rise to no event.
    ///
    /// They made room for a sender. One on the same slot hears of it by no doorbell, only by being
    /// polled once more: so a subtask that took them was busy.
    #[inline]
    pub fn take_absorbed(&mut self) -> bool {
        std::mem::take(&mut self.absorbed)
    }

    /// Returns a consumed batch to the channel it came by.
    #[inline]
    pub fn give_back(&mut self, channel: usize, rows: Rows<T>) {
        self.channels[channel].receiver.give_back(rows);
    }

    /// The next of what has become of checkpoints by barriers that overtake, whatever else is there to
    /// be read: this is asked before a chain that may take no more input is left alone. A barrier of
    /// `overdue` overtakes though it was sent in order.
    pub(crate) fn look_ahead(
        &mut self,
        overdue: Option<CheckpointId>,
        aligner: &mut Aligner,
    ) -> Option<Alignment> {
        if let Some(Event::Checkpoint(alignment)) = self.pending.front() {
            let alignment = *alignment;
            self.pending.pop_front();
            return Some(alignment);
        }
        for channel in 0..self.channels.len() {
            while self.channels[channel].receiver.has_overtaking() {
                let alignment = self.take_overtaking(channel, None, aligner);
                if to_be_performed(alignment) {
                    return Some(alignment);
                }
            }
        }
        self.overtake_in_order(overdue?, aligner)
    }

    /// A checkpoint has been aligning for too long.
    #[cold]
    fn overtake_in_order(
        &mut self,
        checkpoint: CheckpointId,
        aligner: &mut Aligner,
    ) -> Option<Alignment> {
        if aligner.pending() == Some(checkpoint) {
            let alignment = aligner.on_timeout();
            if to_be_performed(alignment) {
                return Some(alignment);
            }
        }
        for channel in 0..self.channels.len() {
            if !aligner.awaits(self.first + channel, checkpoint) {
                continue;
            }
            let (mut before, mut barrier) = (0, None);
            self.channels[channel].receiver.peek_each(usize::MAX, |element| {
                barrier = match element {
                    Element::Barrier(barrier) => {
                        (barrier.checkpoint == checkpoint).then_some(*barrier)
                    }
                    _ => None,
                };
                before += usize::from(barrier.is_none());
                barrier.is_none()
            });
            if let Some(barrier) = barrier {
                self.capture_waiting(channel, checkpoint, before);
                let alignment = aligner.on_overtaking_barrier(self.first + channel, barrier);
                if to_be_performed(alignment) {
                    return Some(alignment);
                }
            }
        }
        None
    }

    /// Takes a barrier that has overtaken. `last` was received and not looked at yet.
    fn take_overtaking(
        &mut self,
        channel: usize,
        last: Option<&Element<Rows<T>>>,
        aligner: &mut Aligner,
    ) -> Alignment {
        let Some(overtaking) = self.channels[channel].receiver.take_overtaking() else {
            return Alignment::Waiting;
        };
        let barrier = overtaking.barrier;
        if let (Some(Element::Batch(rows)), true) = (last, overtaking.includes_last) {
            self.capture(channel, barrier.checkpoint, rows);
        }
        self.capture_waiting(channel, barrier.checkpoint, overtaking.waiting);
        aligner.on_overtaking_barrier(self.first + channel, barrier)
    }

    /// Barriers have overtaken `element` or come right before it.
    #[cold]
    fn receive_behind_barrier(
        &mut self,
        channel: usize,
        element: Option<Element<Rows<T>>>,
        aligner: &mut Aligner,
    ) -> Option<Event<T>> {
        while self.channels[channel].receiver.has_overtaking() {
            let alignment = self.take_overtaking(channel, element.as_ref(), aligner);
            self.pending.extend(checkpoint(alignment));
        }
        match element {
            Some(Element::Batch(rows)) => self.pending.push_back(Event::Batch { channel, rows }),
            Some(element) => {
                self.on_control(channel, element, aligner);
                self.absorbed = true;
            }
            None => {}
        }
        let event = self.pending.pop_front()?;
        Some(self.captured(event, aligner))
    }

    /// Captures a batch that is about to be handed out, if what comes on its channel is.
    #[inline]
    fn captured(&self, event: Event<T>, aligner: &Aligner) -> Event<T> {
        if self.captures.is_some()
            && let Event::Batch { channel, rows } = &event
            && aligner.is_captured(self.first + channel)
            && let Some(checkpoint) = aligner.pending()
        {
            self.capture(*channel, checkpoint, rows);
        }
        event
    }

    /// Captures what was taken from a channel and not handed out yet, and the oldest `count` elements
    /// that wait in it.
    fn capture_waiting(&mut self, channel: usize, checkpoint: CheckpointId, count: usize) {
        let Some(captures) = &self.captures else { return };
        let Inlet { receiver, id } = &mut self.channels[channel];
        let capture = |rows: &Rows<T>| captures.capture(checkpoint, *id, End::Receiver, rows);
        for event in &self.pending {
            match event {
                Event::Batch { channel: of, rows } if *of == channel => capture(rows),
                _ => {}
            }
        }
        receiver.peek_each(count, |element| {
            if let Element::Batch(rows) = element {
                capture(rows);
            }
            true
        });
    }

    fn capture(&self, channel: usize, checkpoint: CheckpointId, rows: &Rows<T>) {
        if let Some(captures) = &self.captures {
            captures.capture(checkpoint, self.channels[channel].id, End::Receiver, rows);
        }
    }

    fn on_control(&mut self, channel: usize, element: Element<Rows<T>>, aligner: &mut Aligner) {
        let pending = &mut self.pending;
        match element {
            Element::Batch(_) => unreachable!("batches are handed out before"),
            Element::Watermark(watermark) => {
                pending.extend(self.valve.watermark(channel, watermark).map(Event::Watermark));
            }
            Element::Barrier(barrier) => {
                let alignment = aligner.on_barrier(self.first + channel, barrier);
                pending.extend(checkpoint(alignment));
            }
            Element::LatencyMarker(marker) => pending.push_back(Event::LatencyMarker(marker)),
            Element::Idle => {
                let (watermark, idle) = self.valve.idle(channel);
                pending.extend(watermark.map(Event::Watermark));
                pending.extend(idle.then_some(Event::Idle));
            }
            Element::Active => pending.extend(self.valve.active(channel).then_some(Event::Active)),
            Element::EndOfInput => {
                pending.extend(checkpoint(aligner.on_end(self.first + channel)));
                let (watermark, finish) = self.valve.finish(channel);
                match finish {
                    Finish::Ended => pending.push_back(Event::EndOfInput),
                    Finish::OthersIdle => {
                        pending.extend(watermark.map(Event::Watermark));
                        pending.push_back(Event::Idle);
                    }
                    Finish::OthersGoOn => pending.extend(watermark.map(Event::Watermark)),
                }
            }
        }
    }
}

/// The event of an alignment that somebody has to act upon.
fn checkpoint<T>(alignment: Alignment) -> Option<Event<T>> {
    to_be_performed(alignment).then_some(Event::Checkpoint(alignment))
}

fn to_be_performed(alignment: Alignment) -> bool {
    !matches!(alignment, Alignment::Waiting | Alignment::Ignored)
}

/// Combines the watermarks of several channels into one.
#[derive(Debug)]
pub(crate) struct Valve {
    channels: Vec<ChannelTime>,
    emitted: Timestamp,
    idle: bool,
}

/// What is left when a channel has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Nothing.
    Ended,
    /// Channels that are idle, and that was not so before.
    OthersIdle,
    /// Channels as before.
    OthersGoOn,
}

#[derive(Clone, Copy, Debug)]
struct ChannelTime {
    watermark: Timestamp,
    state: ChannelState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChannelState {
    Active,
    Idle,
    Finished,
}

impl Valve {
    pub(crate) fn new(channels: usize) -> Self {
        let start = ChannelTime { watermark: Timestamp::MIN, state: ChannelState::Active };
        Self { channels: vec![start; channels], emitted: Timestamp::MIN, idle: false }
    }

    /// Goes on where the combined watermark was `watermark`.
    pub(crate) fn resume(&mut self, watermark: Timestamp) {
        self.emitted = watermark;
    }

    /// The new watermark, if this one advances the least.
    pub(crate) fn watermark(&mut self, channel: usize, watermark: Timestamp) -> Option<Timestamp> {
        let time = &mut self.channels[channel];
        time.watermark = time.watermark.max(watermark);
        self.advance()
    }

    /// The new watermark, and whether all channels that go on are idle now.
    pub(crate) fn idle(&mut self, channel: usize) -> (Option<Timestamp>, bool) {
        debug_assert_ne!(self.channels[channel].state, ChannelState::Finished);
        self.channels[channel].state = ChannelState::Idle;
        let was_idle = self.idle;
        self.idle = self.channels.iter().all(|c| c.state != ChannelState::Active);
        (self.advance(), self.idle && !was_idle)
    }

    /// True if all channels were idle and this one no longer is.
    pub(crate) fn active(&mut self, channel: usize) -> bool {
        debug_assert_ne!(self.channels[channel].state, ChannelState::Finished);
        self.channels[channel].state = ChannelState::Active;
        std::mem::replace(&mut self.idle, false)
    }

    /// The new watermark, and whether this was the last channel, or the last that was not idle.
    pub(crate) fn finish(&mut self, channel: usize) -> (Option<Timestamp>, Finish) {
        self.channels[channel].state = ChannelState::Finished;
        let is = |state| move |c: &ChannelTime| c.state == state;
        let finish = if self.channels.iter().all(is(ChannelState::Finished)) {
            Finish::Ended
        } else if self.idle || self.channels.iter().any(is(ChannelState::Active)) {
            Finish::OthersGoOn
        } else {
            self.idle = true;
            Finish::OthersIdle
        };
        (self.advance(), finish)
    }

    fn advance(&mut self) -> Option<Timestamp> {
        let least = self
            .channels
            .iter()
            .filter(|c| c.state == ChannelState::Active)
            .map(|c| c.watermark)
            .min()?;
        (least > self.emitted).then(|| {
            self.emitted = least;
            least
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Beginning, Participant, Report};
    use crate::operator::Signal;
    use crate::subtask::{HeadSubtask, Progress, Subtask};
    use crate::window::testing::Sink;
    use millstream_network::{Doorbell, Sender, Wake, channel};
    use millstream_protocol::{CheckpointMode, CheckpointSettings};
    use millstream_types::{Barrier, CheckpointId};
    use std::sync::Arc;

    fn at(nanos: i64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn the_slowest_channel_decides_until_it_is_idle_or_done() {
        let mut valve = Valve::new(3);
        assert_eq!(valve.watermark(0, at(5)), None);
        assert_eq!(valve.watermark(1, at(7)), None);
        assert_eq!(valve.watermark(2, at(3)), Some(at(3)));
        assert_eq!(valve.idle(2), (Some(at(5)), false));
        assert_eq!(valve.finish(0), (Some(at(7)), Finish::OthersGoOn));
        assert_eq!(valve.idle(1), (None, true));
        assert!(valve.active(2));
        assert_eq!(valve.watermark(2, at(6)), None, "never back");
        assert_eq!(valve.watermark(2, at(9)), Some(at(9)));
        assert_eq!(valve.finish(2), (None, Finish::OthersIdle));
        assert_eq!(valve.finish(1), (None, Finish::Ended));
    }

    #[test]
    fn a_gate_is_idle_once_its_last_active_channel_has_ended() {
        let slot = doorbell();
        let (mut senders, receivers): (Vec<_>, Vec<_>) =
            (0..2).map(|sender| inlet(sender, &slot)).unzip();
        let mut gate = InputGate::new(receivers, 0);
        let mut aligner = Aligner::new(CheckpointMode::ExactlyOnce, 2, CheckpointId(0));
        senders[0].send(Element::Watermark(at(9)));
        senders[0].send(Element::Idle);
        senders[1].send(Element::Watermark(at(5)));
        assert!(
            matches!(gate.poll(&mut aligner), Some(Event::Watermark(watermark)) if watermark == at(5))
        );
        assert!(gate.poll(&mut aligner).is_none());
        senders[1].send(Element::EndOfInput);
        assert!(
            matches!(gate.poll(&mut aligner), Some(Event::Idle)),
            "else those behind it wait for ever"
        );
        assert!(gate.poll(&mut aligner).is_none());
        senders[0].send(Element::Active);
        assert!(matches!(gate.poll(&mut aligner), Some(Event::Active)));
        senders[0].send(Element::EndOfInput);
        assert!(matches!(gate.poll(&mut aligner), Some(Event::EndOfInput)));
    }

    #[test]
    fn what_was_in_flight_is_not_overtaken_by_another_channel() {
        let slot = doorbell();
        let (mut senders, receivers): (Vec<_>, Vec<_>) =
            (0..2).map(|sender| inlet(sender, &slot)).unzip();
        let mut gate = InputGate::new(receivers, 0);
        let restored = CheckpointId(4);
        let mut aligner = Aligner::recovering(CheckpointMode::Unaligned, 2, restored, 1);
        let end = || Element::Barrier(Barrier { checkpoint: restored });
        let send_batch = |to: &mut Sender<Rows<u64>>, value| {
            let mut rows = to.acquire(Rows::default).expect("there is a credit");
            rows.push(value, Timestamp::MIN);
            to.send(Element::Batch(rows));
        };
        // This sender had nothing in flight, and has read on.
        senders[0].send(end());
        send_batch(&mut senders[0], 2);
        assert!(gate.poll(&mut aligner).is_none());
        send_batch(&mut senders[1], 1);
        senders[1].send(end());
        let mut seen = Vec::new();
        while let Some(event) = gate.poll(&mut aligner) {
            match event {
                Event::Batch { rows, .. } => seen.extend_from_slice(rows.values()),
                Event::Checkpoint(alignment) => {
                    assert_eq!((alignment, &*seen), (Alignment::Recovered, &[1][..]));
                }
                _ => panic!("nothing else was sent"),
            }
        }
        assert_eq!(seen, [1, 2]);
    }

    /// Else what one of several subtasks reads next could overtake what another has still to process, at
    /// whoever reads from both.
    #[test]
    fn a_subtask_passes_each_round_on_when_it_has_come() {
        let slot = doorbell();
        let (mut senders, receivers): (Vec<_>, Vec<_>) =
            (0..2).map(|sender| inlet(sender, &slot)).unzip();
        let (sink, seen) = Sink::<u64>::new();
        let beginning = Beginning { attempt: 1, checkpoint: CheckpointId(4), rounds: 2 };
        let (participant, reports) =
            Participant::of_no_job(2, CheckpointSettings::default(), beginning);
        let gate = InputGate::new(receivers, 0);
        let mut subtask = HeadSubtask::new(gate, sink, participant, Arc::default());
        subtask.resume();
        let end = Barrier { checkpoint: CheckpointId(4) };
        let passed_on = || seen.borrow().signals.len();
        assert_eq!(seen.borrow().signals, [Signal::Recovering(end)], "of what it had sent itself");
        for round in 1..=2 {
            senders[0].send(Element::Barrier(end));
            subtask.poll(at(0));
            assert_eq!(passed_on(), round.min(2));
            assert!(reports.try_recv().is_err());
            senders[1].send(Element::Barrier(end));
            subtask.poll(at(0));
            assert_eq!(passed_on(), 2);
        }
        assert!(matches!(reports.try_recv(), Ok(Report::Recovered { .. })));
    }

    fn inlet(sender: u32, slot: &Doorbell) -> (Sender<Rows<u64>>, Inlet<u64>) {
        let (to, receiver) = channel(2, slot, slot);
        (to, Inlet { receiver, id: ChannelId::to_one(sender) })
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self) {}
    }

    fn doorbell() -> Doorbell {
        Doorbell::new(Arc::new(Nobody))
    }

    /// A sender on the same slot is told by no doorbell that its ring has room again.
    #[test]
    fn a_subtask_whose_gate_took_a_signal_was_busy() {
        let slot = doorbell();
        let (mut senders, receivers): (Vec<_>, Vec<_>) =
            (0..2).map(|sender| inlet(sender, &slot)).unzip();
        let (sink, seen) = Sink::<u64>::new();
        let mut subtask = HeadSubtask::new(
            InputGate::new(receivers, 0),
            sink,
            Participant::of_no_job(2, CheckpointSettings::default(), Beginning::default()).0,
            Arc::default(),
        );
        assert_eq!(subtask.poll(at(0)), Progress::Idle);
        // Not the least of both, so that no event comes of it.
        senders[0].send(Element::Watermark(at(5)));
        assert_eq!(subtask.poll(at(0)), Progress::Busy);
        assert_eq!(seen.borrow().watermark, Timestamp::MIN);
        assert_eq!(subtask.poll(at(0)), Progress::Idle);
    }
}
