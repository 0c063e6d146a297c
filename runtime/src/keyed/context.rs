//! What a keyed process function works with: the current key, its state, its timers.

use crate::clock::PollClock;
use crate::operator::{OutputTag, SideOutputs};
use crate::subtask::SubtaskContext;
use millstream_state::{
    CurrentKey, Data, Key, ListState, MapState, StateError, SubtaskState, TableSpec, Timers, Ttl,
    ValueState,
};
use millstream_types::{OperatorId, Timestamp};
use std::marker::PhantomData;
use std::rc::Rc;

/// Opens the state of a process function, once per subtask.
///
/// State is found again after a restart by the operator's `uid` and the name given here, so both
/// should be set and kept.
pub struct KeyedState<'a, K> {
    state: &'a SubtaskState,
    spec: TableSpec,
    subtask: u32,
    of: PhantomData<K>,
}

impl<'a, K: Key> KeyedState<'a, K> {
    pub(crate) fn new(state: &'a SubtaskState, spec: TableSpec, subtask: u32) -> Self {
        Self { state, spec, subtask, of: PhantomData }
    }

    /// Which of the parallel subtasks this is.
    pub fn subtask(&self) -> u32 {
        self.subtask
    }

    /// Opens what is asked for next with a time to live, in processing time.
    ///
    /// State without one cannot become state with one, nor the other way round, as long as a checkpoint
    /// has it: then give the new state another name. The duration may change; what is there keeps the
    /// expiry that it has until it is written again.
    ///
    /// ```
    /// # use millstream_runtime::keyed::KeyedState;
    /// # use millstream_state::{Ttl, ValueState};
    /// # use std::time::Duration;
    /// # fn open(state: &KeyedState<'_, u64>) -> (ValueState<u64, i64>, ValueState<u64, bool>) {
    /// let hour = Ttl::new(Duration::from_secs(3600));
    /// (state.with_ttl(hour).value("last login"), state.with_ttl(hour).value("warned"))
    /// # }
    /// ```
    #[must_use]
    pub fn with_ttl(&self, ttl: Ttl) -> Self {
        Self { state: self.state, spec: self.spec.clone().with_ttl(ttl), ..*self }
    }

    /// One value per key. What others call reducing or aggregating state is one that
    /// [`modify`](ValueState::modify) folds each record into.
    ///
    /// # Panics
    /// In the operator's name, if the backend cannot open it; so do the others.
    pub fn value<V: Data>(&mut self, name: &str) -> ValueState<K, V> {
        let spec = self.spec.with_name(name);
        ValueState::open(self.state, &spec).unwrap_or_else(|error| error.raise())
    }

    /// A list per key.
    pub fn list<V: Data>(&mut self, name: &str) -> ListState<K, V> {
        let spec = self.spec.with_name(name);
        ListState::open(self.state, &spec).unwrap_or_else(|error| error.raise())
    }

    /// A map per key.
    pub fn map<MK: Key, MV: Data>(&mut self, name: &str) -> MapState<K, MK, MV> {
        let spec = self.spec.with_name(name);
        MapState::open(self.state, &spec).unwrap_or_else(|error| error.raise())
    }
}

/// The timers of a keyed operator.
pub(crate) struct TimerService<K> {
    event: Timers<K>,
    processing: Timers<K>,
    watermark: Timestamp,
    clock: Rc<PollClock>,
}

impl<K: Key> TimerService<K> {
    pub(crate) fn open(context: &SubtaskContext, operator: OperatorId) -> Result<Self, StateError> {
        let open = |name| Timers::open(&context.state, &context.table_spec(operator, name));
        Ok(Self {
            event: open("event-time timers")?,
            processing: open("processing-time timers")?,
            watermark: Timestamp::MIN,
            clock: Rc::clone(&context.clock),
        })
    }

    /// Event time reached `watermark`.
    pub(crate) fn advance(&mut self, watermark: Timestamp) {
        self.watermark = watermark;
    }

    pub(crate) fn pop_event(&mut self) -> Option<(Timestamp, u64, K)> {
        self.event.pop(self.watermark)
    }

    pub(crate) fn pop_processing(&mut self, now: Timestamp) -> Option<(Timestamp, u64, K)> {
        self.processing.pop(now)
    }

    pub(crate) fn next_deadline(&self) -> Timestamp {
        self.processing.next().unwrap_or(Timestamp::MAX)
    }
}

/// What a keyed process function is called with.
pub struct KeyedContext<'a, K> {
    pub(crate) key: &'a K,
    pub(crate) hash: u64,
    pub(crate) timestamp: Timestamp,
    pub(crate) timers: &'a mut TimerService<K>,
    pub(crate) sides: &'a mut SideOutputs,
}

impl<K> CurrentKey<K> for KeyedContext<'_, K> {
    #[inline]
    fn key(&self) -> &K {
        self.key
    }

    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
}

impl<K: Key> KeyedContext<'_, K> {
    /// The key of the record or timer.
    pub fn key(&self) -> &K {
        self.key
    }

    /// The timestamp of the record, or the time of the timer; `None` if the stream has none.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.timestamp.is_some().then_some(self.timestamp)
    }

    /// Event time: no record at or before it is expected any more.
    pub fn watermark(&self) -> Timestamp {
        self.timers.watermark
    }

    /// Processing time, read once per batch.
    pub fn processing_time(&self) -> Timestamp {
        self.timers.clock.now()
    }

    /// Calls `on_timer` for this key once the watermark reaches `time`. Registering the same time
    /// twice is the same as once.
    pub fn register_event_timer(&mut self, time: Timestamp) {
        self.timers.event.register(time, self.hash, self.key);
    }

    /// Takes back an event-time timer, if there is one.
    pub fn delete_event_timer(&mut self, time: Timestamp) {
        self.timers.event.delete(time, self.hash, self.key);
    }

    /// Calls `on_timer` for this key once processing time reaches `time`. At the end of a bounded
    /// input, timers that are still waiting do not fire.
    pub fn register_processing_timer(&mut self, time: Timestamp) {
        self.timers.processing.register(time, self.hash, self.key);
    }

    /// Takes back a processing-time timer, if there is one.
    pub fn delete_processing_timer(&mut self, time: Timestamp) {
        self.timers.processing.delete(time, self.hash, self.key);
    }

    /// Emits into a side output, with the timestamp of the record or timer.
    pub fn emit_to<T: 'static>(&mut self, tag: &OutputTag<T>, value: T) {
        self.sides.emit(tag, value, self.timestamp);
    }
}
