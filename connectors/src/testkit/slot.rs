//! What a connector sees of a slot.

use millstream::connector::{
    Collector, JobCounters, ProcessingClock, SinkContext, SlotWaker, SourceContext, SourceOutput,
    SubtaskIndex, Timestamp,
};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A wait that lasts longer is a lost wake-up.
pub const LOST_WAKE_UP: Duration = Duration::from_secs(60);

/// A slot that sleeps until it is woken.
#[derive(Clone, Default)]
pub struct Slot(Arc<(Mutex<bool>, Condvar)>);

impl Slot {
    /// Wakes it.
    pub fn waker(&self) -> SlotWaker {
        let shared = self.0.clone();
        SlotWaker::new(move || {
            *shared.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            shared.1.notify_one();
        })
    }

    /// What a writer of a new job is told.
    pub fn sink_context(&self, subtask: u32, parallelism: u32) -> SinkContext {
        SinkContext {
            subtask: SubtaskIndex(subtask),
            parallelism,
            waker: self.waker(),
            restored: None,
        }
    }

    /// What a reader of a new job is told.
    pub fn source_context(
        &self,
        subtask: u32,
        parallelism: u32,
        counters: &Arc<JobCounters>,
    ) -> SourceContext {
        SourceContext {
            subtask: SubtaskIndex(subtask),
            parallelism,
            waker: self.waker(),
            counters: counters.clone(),
            clock: ProcessingClock::new(),
            restored: None,
        }
    }

    /// Waits until it is woken, or was since it last slept.
    ///
    /// # Panics
    /// If that takes longer than [`LOST_WAKE_UP`].
    pub fn sleep(&self) {
        self.sleep_at_most(LOST_WAKE_UP);
    }

    /// The same for one that has something to do at a time of its own: at most until then.
    ///
    /// # Panics
    /// As [`Slot::sleep`].
    pub fn sleep_until(&self, now: Timestamp, until: Timestamp) {
        let nanos = until.as_nanos().saturating_sub(now.as_nanos()).max(0);
        let due_in = Duration::from_nanos(nanos as u64);
        if due_in >= LOST_WAKE_UP {
            return self.sleep();
        }
        let (woken, condition) = &*self.0;
        let guard = woken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = condition.wait_timeout_while(guard, due_in, |woken| !*woken);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    fn sleep_at_most(&self, limit: Duration) {
        let (woken, condition) = &*self.0;
        let guard = woken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = condition.wait_timeout_while(guard, limit, |woken| !*woken);
        let (mut woken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "nobody woke the slot");
        *woken = false;
    }
}

/// Collects what a reader emits; blocks now and then, as outputs do.
#[derive(Debug)]
pub struct Output<T> {
    /// What was emitted.
    pub values: Vec<T>,
    /// How many more it takes before it is blocked for a while; no more than a hint.
    pub room: u64,
    asked: u64,
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Self { values: Vec::new(), room: u64::MAX, asked: 0 }
    }
}

impl<T> Output<T> {
    /// One that takes so many records.
    pub fn with_room(room: u64) -> Self {
        Self { room, ..Self::default() }
    }
}

impl<T> Collector<T> for Output<T> {
    fn collect(&mut self, value: T) {
        self.room = self.room.saturating_sub(1);
        self.values.push(value);
    }

    fn collect_at(&mut self, value: T, _: Timestamp) {
        self.collect(value);
    }
}

impl<T> SourceOutput<T> for Output<T> {
    fn is_blocked(&mut self) -> bool {
        self.asked += 1;
        self.asked.is_multiple_of(3)
    }

    fn room(&mut self) -> u64 {
        self.room
    }
}
