//! The sending end of a chain.
//!
//! A record goes into the open batch of its target. A batch leaves when it is full, before a
//! watermark or barrier, when the input has run dry, and at the latest after the flush interval:
//! so at a low rate no record waits, and at a high rate records travel in large batches.

use super::{ChannelId, End, InFlight, Outlet, Partitioner};
use crate::chain::OpenError;
use crate::checkpoint::SubtaskCheckpoints;
use crate::metrics::SubtaskMetrics;
use crate::operator::{Operator, Passing, Signal};
use crate::rows::Rows;
use millstream_state::Data;
use millstream_types::{Barrier, Element, OperatorId, Timestamp};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How records are batched on an edge.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeSettings {
    /// Bytes of rows in a batch at the most; a batch has at least 16 and at most 4,096 rows.
    pub batch_bytes: usize,
    /// Batches that may be on the way per channel.
    pub credits: usize,
    /// How long a record waits in an open batch while the sender is busy.
    pub flush_interval: Duration,
    /// Of two hosts with more pairs of slots than this, slots share connections.
    pub fan_in_above: u32,
}

impl Default for ExchangeSettings {
    fn default() -> Self {
        Self {
            batch_bytes: 64 << 10,
            credits: 8,
            flush_interval: Duration::from_millis(1),
            fan_in_above: 256,
        }
    }
}

impl ExchangeSettings {
    /// The number of rows of type `T` in a full batch.
    pub fn rows_per_batch<T>(&self) -> usize {
        (self.batch_bytes / size_of::<T>().max(1)).clamp(16, 4_096)
    }
}

/// The channels to all targets of one exchange, each with its open batch.
pub struct Outputs<T: Data> {
    lanes: Vec<Lane<T>>,
    /// What was in flight on the edge at the checkpoint that the job begins with: to be emitted before
    /// anything else.
    restored: Vec<InFlight<T>>,
    checkpoints: Rc<SubtaskCheckpoints>,
    rows_per_batch: usize,
    flush_interval: Duration,
    /// When open batches are flushed though input keeps coming; set at the first tick that finds
    /// some open.
    flush_at: Option<Timestamp>,
    /// The lane that the next latency marker takes.
    next_marked: usize,
    metrics: Arc<SubtaskMetrics>,
}

/// One channel with its open batch.
///
/// A push cannot wait, so without a credit the open batch goes on as a plain buffer that grows by
/// need, and what finds no credit when it must leave waits in order in `waiting`. `is_blocked` keeps
/// the chain from more input until that is gone.
struct Lane<T: Data> {
    sender: Outlet<T>,
    id: ChannelId,
    open: Rows<T>,
    /// The open batch was acquired from the channel.
    granted: bool,
    waiting: VecDeque<Element<Rows<T>>>,
}

impl<T: Data> Lane<T> {
    fn new((sender, id): (Outlet<T>, ChannelId), rows_per_batch: usize) -> Self {
        let (open, waiting) = (Rows::default(), VecDeque::new());
        let mut lane = Self { sender, id, open, granted: false, waiting };
        lane.grant(rows_per_batch);
        lane
    }

    /// Gets the open batch a credit, if there is one.
    fn grant(&mut self, rows_per_batch: usize) -> bool {
        if !self.granted
            && let Some(empty) = self.sender.acquire(|| Rows::with_capacity(rows_per_batch))
        {
            self.granted = true;
            if self.open.is_empty() {
                self.open = empty;
            }
        }
        self.granted
    }

    fn send_open(&mut self, rows_per_batch: usize, metrics: &SubtaskMetrics) {
        if self.open.is_empty() {
            return;
        }
        metrics.add_out(self.open.len() as u64);
        let batch = std::mem::take(&mut self.open);
        if self.waiting.is_empty() && (self.granted || self.grant(rows_per_batch)) {
            self.granted = false;
            self.sender.send(Element::Batch(batch));
        } else {
            self.waiting.push_back(Element::Batch(batch));
        }
        self.grant(rows_per_batch);
    }

    fn send_control(&mut self, element: Element<Rows<T>>) {
        if self.waiting.is_empty() {
            self.sender.send(element);
        } else {
            self.waiting.push_back(element);
        }
    }

    /// Sends what waits as far as credits go. True if nothing is left.
    ///
    /// What overflows goes first, whether or not a credit is there for what waits: it may hold the
    /// very batches that the credits come back with.
    #[inline]
    fn drain(&mut self, rows_per_batch: usize) -> bool {
        self.sender.flush_overflow()
            && (self.waiting.is_empty()
                || (self.drain_waiting(rows_per_batch) && self.sender.flush_overflow()))
    }

    #[cold]
    fn drain_waiting(&mut self, rows_per_batch: usize) -> bool {
        while let Some(element) = self.waiting.pop_front() {
            if matches!(element, Element::Batch(_)) {
                if !self.grant(rows_per_batch) {
                    self.waiting.push_front(element);
                    return false;
                }
                self.granted = false;
            }
            self.sender.send(element);
        }
        self.sender.notify();
        true
    }
}

impl<T: Data> Outputs<T> {
    /// One lane per sender, in the partitioner's order of targets.
    pub(crate) fn new(
        senders: Vec<(Outlet<T>, ChannelId)>,
        restored: Vec<InFlight<T>>,
        settings: &ExchangeSettings,
        metrics: Arc<SubtaskMetrics>,
        checkpoints: Rc<SubtaskCheckpoints>,
    ) -> Self {
        let rows_per_batch = settings.rows_per_batch::<T>();
        let lanes = senders.into_iter().map(|sender| Lane::new(sender, rows_per_batch)).collect();
        Self {
            lanes,
            restored,
            checkpoints,
            rows_per_batch,
            flush_interval: settings.flush_interval,
            flush_at: None,
            next_marked: 0,
            metrics,
        }
    }

    /// The number of targets.
    pub fn targets(&self) -> usize {
        self.lanes.len()
    }

    /// Refuses what was in flight to another number of targets: for an edge by which every target gets
    /// every record, as nobody could say which of them had received what.
    pub(crate) fn check_targets(&self, operator: OperatorId) -> Result<(), OpenError> {
        let targets = self.targets();
        match self.restored.iter().find(|batch| batch.targets as usize != targets) {
            None => Ok(()),
            Some(batch) => Err(OpenError {
                operator,
                error: format!(
                    "the checkpoint holds records that were in flight to {} subtasks by a broadcast, which now has {targets}; resume with the parallelism that the job had, take a checkpoint with checkpoint_mode = exactly-once, and go on from that one",
                    batch.targets
                )
                .into(),
            }),
        }
    }

    /// The lane to the subtask that a batch was in flight to. None if their number has changed: then the
    /// partitioner decides anew. Where it has not it must not, as each subtask goes on with a watermark
    /// of its own, and what was no late record for one may be for another.
    fn lane_to(&self, batch: &InFlight<T>) -> Option<usize> {
        let (target, targets) = (batch.target, batch.targets);
        self.lanes.iter().position(|lane| (lane.id.target, lane.id.targets) == (target, targets))
    }

    /// Appends a record to a target's open batch.
    #[inline(always)]
    pub fn push(&mut self, target: usize, value: T, timestamp: Timestamp) {
        let lane = &mut self.lanes[target];
        lane.open.push(value, timestamp);
        if lane.open.len() >= self.rows_per_batch {
            self.send_full(target);
        }
    }

    #[inline(never)]
    fn send_full(&mut self, target: usize) {
        let lane = &mut self.lanes[target];
        lane.send_open(self.rows_per_batch, &self.metrics);
        lane.sender.notify();
    }

    /// Sends open batches, then `element` to every target.
    fn send_to_all(&mut self, element: impl Fn() -> Element<Rows<T>>) {
        for lane in &mut self.lanes {
            lane.send_open(self.rows_per_batch, &self.metrics);
            lane.send_control(element());
        }
        self.flush_at = None;
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.send_to_all(|| Element::Watermark(watermark));
    }

    /// The receivers have had this watermark, but their gates begin without any: else one whose
    /// channels are not all as fast would wait for the next of each.
    fn resume(&mut self, watermark: Timestamp) {
        if watermark.is_some() {
            self.watermark(watermark);
        }
    }

    /// Sends a barrier ahead of what has not been received. What of it is on this side, and was emitted
    /// before the barrier, is captured here.
    fn overtake(&mut self, barrier: Barrier) {
        for lane in &mut self.lanes {
            lane.send_open(self.rows_per_batch, &self.metrics);
            let (checkpoints, id) = (&self.checkpoints, lane.id);
            let capture = |element: &Element<Rows<T>>| {
                if let Element::Batch(rows) = element {
                    checkpoints.capture(barrier.checkpoint, id, End::Sender, rows);
                }
            };
            lane.sender.overtake(barrier, capture);
            lane.waiting.iter().for_each(capture);
            lane.sender.notify();
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Barrier(barrier, Passing::InOrder) | Signal::Recovering(barrier) => {
                self.send_to_all(|| Element::Barrier(barrier));
            }
            Signal::Barrier(barrier, Passing::Overtaking) => self.overtake(barrier),
            // A marker measures queues, so it does not chase records out of open batches. It goes
            // on to one target: by all lanes of every exchange, one would become thousands in a
            // deep graph.
            Signal::LatencyMarker(marker) => {
                self.lanes[self.next_marked].send_control(Element::LatencyMarker(marker));
                self.next_marked = (self.next_marked + 1) % self.lanes.len();
            }
            Signal::Idle => self.send_to_all(|| Element::Idle),
            Signal::Active => self.send_to_all(|| Element::Active),
            Signal::EndOfInput => self.send_to_all(|| Element::EndOfInput),
        }
    }

    fn tick(&mut self, now: Timestamp) {
        match self.flush_at {
            Some(at) if now >= at => self.flush(),
            Some(_) => {}
            None if self.lanes.iter().any(|lane| !lane.open.is_empty()) => {
                self.flush_at = Some(now + self.flush_interval);
            }
            None => {}
        }
        for lane in &mut self.lanes {
            lane.sender.notify();
        }
    }

    fn flush(&mut self) {
        for lane in &mut self.lanes {
            lane.send_open(self.rows_per_batch, &self.metrics);
            lane.drain(self.rows_per_batch);
            lane.sender.notify();
        }
        self.flush_at = None;
    }

    fn is_blocked(&mut self) -> bool {
        let mut blocked = false;
        for lane in &mut self.lanes {
            blocked |= !lane.drain(self.rows_per_batch)
                || !(lane.granted || lane.grant(self.rows_per_batch));
        }
        if blocked {
            // The chain is not polled now, so nobody else tells the receivers what could be moved.
            // One that sleeps would never make the room that is waited for.
            self.lanes.iter_mut().for_each(|lane| lane.sender.notify());
        }
        blocked
    }

    /// True once nothing waits on this side.
    fn is_drained(&mut self) -> bool {
        let mut drained = true;
        for lane in &mut self.lanes {
            drained &= lane.open.is_empty() && lane.drain(self.rows_per_batch);
            lane.sender.notify();
        }
        drained
    }
}

/// Passes the calls of [`Operator`] that come between records on to `self.outputs`.
macro_rules! forward_to_outputs {
    () => {
        fn watermark(&mut self, watermark: Timestamp) {
            self.outputs.watermark(watermark);
        }
        fn signal(&mut self, signal: Signal) {
            self.outputs.signal(signal);
        }
        #[inline]
        fn tick(&mut self, now: Timestamp) {
            self.outputs.tick(now);
        }
        #[inline]
        fn next_deadline(&self) -> Timestamp {
            Timestamp::MAX
        }
        #[inline]
        fn flush(&mut self) {
            self.outputs.flush();
        }
        #[inline]
        fn is_blocked(&mut self) -> bool {
            self.outputs.is_blocked()
        }
        fn is_finished(&mut self) -> bool {
            self.outputs.is_drained()
        }
    };
}

/// Ends a chain: each record goes to one target.
pub struct Partitioned<T: Data, P> {
    outputs: Outputs<T>,
    partitioner: P,
}

impl<T: Data, P> Partitioned<T, P> {
    /// Sends into `outputs` as `partitioner` says.
    pub fn new(outputs: Outputs<T>, partitioner: P) -> Self {
        Self { outputs, partitioner }
    }
}

impl<T: Data, P: Partitioner<T>> Operator<T> for Partitioned<T, P> {
    #[inline(always)]
    fn record(&mut self, value: T, timestamp: Timestamp) {
        let target = self.partitioner.target(&value);
        self.outputs.push(target, value, timestamp);
    }

    fn resume(&mut self, watermark: Timestamp) {
        for mut batch in std::mem::take(&mut self.outputs.restored) {
            match self.outputs.lane_to(&batch) {
                Some(lane) => batch
                    .rows
                    .drain_each(|value, timestamp| self.outputs.push(lane, value, timestamp)),
                None => batch.rows.drain_each(|value, timestamp| self.record(value, timestamp)),
            }
        }
        self.outputs.resume(watermark);
    }

    forward_to_outputs!();
}

/// Ends a chain: each record goes to every target.
pub struct Broadcast<T: Data> {
    outputs: Outputs<T>,
}

impl<T: Data> Broadcast<T> {
    /// Sends clones into all `outputs`.
    pub fn new(outputs: Outputs<T>) -> Self {
        Self { outputs }
    }
}

impl<T: Data + Clone> Operator<T> for Broadcast<T> {
    #[inline]
    fn record(&mut self, value: T, timestamp: Timestamp) {
        let last = self.outputs.targets() - 1;
        for target in 0..last {
            self.outputs.push(target, value.clone(), timestamp);
        }
        self.outputs.push(last, value, timestamp);
    }

    fn resume(&mut self, watermark: Timestamp) {
        // Each target had received another part of what was sent to all.
        for mut batch in std::mem::take(&mut self.outputs.restored) {
            if let Some(lane) = self.outputs.lane_to(&batch) {
                batch.rows.drain_each(|value, timestamp| self.outputs.push(lane, value, timestamp));
            }
        }
        self.outputs.resume(watermark);
    }

    forward_to_outputs!();
}

/// Ends a chain that several streams consume: each record goes to all of them.
pub struct Fork<T> {
    branches: Vec<Box<dyn Operator<T>>>,
}

impl<T> Fork<T> {
    /// One branch per consumer; none drops the records.
    pub fn new(branches: Vec<Box<dyn Operator<T>>>) -> Self {
        Self { branches }
    }
}

impl<T: Clone + 'static> Operator<T> for Fork<T> {
    #[inline]
    fn record(&mut self, value: T, timestamp: Timestamp) {
        if let Some((last, others)) = self.branches.split_last_mut() {
            for branch in others {
                branch.record(value.clone(), timestamp);
            }
            last.record(value, timestamp);
        }
    }

    fn watermark(&mut self, watermark: Timestamp) {
        self.branches.iter_mut().for_each(|b| b.watermark(watermark));
    }
    fn resume(&mut self, watermark: Timestamp) {
        self.branches.iter_mut().for_each(|b| b.resume(watermark));
    }
    fn signal(&mut self, signal: Signal) {
        self.branches.iter_mut().for_each(|b| b.signal(signal));
    }
    fn tick(&mut self, now: Timestamp) {
        self.branches.iter_mut().for_each(|b| b.tick(now));
    }
    fn next_deadline(&self) -> Timestamp {
        self.branches.iter().map(|b| b.next_deadline()).min().unwrap_or(Timestamp::MAX)
    }
    fn flush(&mut self) {
        self.branches.iter_mut().for_each(|b| b.flush());
    }
    fn is_blocked(&mut self) -> bool {
        // Each is asked, as each moves what waits in it when it is.
        self.branches.iter_mut().fold(false, |blocked, branch| branch.is_blocked() | blocked)
    }
    fn is_finished(&mut self) -> bool {
        let mut finished = true;
        for branch in &mut self.branches {
            finished &= branch.is_finished();
        }
        finished
    }
}

#[cfg(test)]
mod tests;
