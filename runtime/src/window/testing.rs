//! What the tests of the window operators share: scripts of input, a sink that remembers, and the
//! naive model of windows.

use super::{AggregateFunction, TimeWindow, WindowResult};
use crate::operator::{Operator, Signal};
use millstream_state::{Data, HeapBackend, Key, SubtaskState, TableSpec, WindowTable};
use millstream_types::{KeyGroupRange, Timestamp};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::take;
use std::rc::Rc;
use std::time::Duration;

mod ordered;

use ordered::OrderedBackend;

pub fn t(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

pub fn d(nanos: i64) -> Duration {
    Duration::from_nanos(nanos as u64)
}

/// Where the state of the operator under test lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Typed,
    Encoded,
}

pub fn kept() -> impl Strategy<Value = Kept> {
    prop_oneof![Just(Kept::Typed), Just(Kept::Encoded)]
}

pub fn store(kept: Kept) -> (SubtaskState, TableSpec) {
    let store = match kept {
        Kept::Typed => SubtaskState::alone(&HeapBackend).unwrap(),
        Kept::Encoded => SubtaskState::alone(&OrderedBackend).unwrap(),
    };
    (store, TableSpec::new("window", "state", KeyGroupRange(0..128), 128))
}

pub fn window_table<K: Key, V: Data>(kept: Kept) -> WindowTable<K, V> {
    let (store, spec) = store(kept);
    WindowTable::open(&store, &spec).unwrap()
}

/// Remembers what it gets.
pub struct Sink<T>(Shared<T>);

/// What a [`Sink`] got, as the test sees it.
pub type Shared<T> = Rc<RefCell<Seen<T>>>;

/// What a [`Sink`] got.
pub struct Seen<T> {
    pub records: Vec<(T, Timestamp)>,
    pub watermark: Timestamp,
    pub signals: Vec<Signal>,
}

impl<T> Sink<T> {
    pub fn new() -> (Self, Shared<T>) {
        let seen = Seen { records: Vec::new(), watermark: Timestamp::MIN, signals: Vec::new() };
        let seen = Rc::new(RefCell::new(seen));
        (Self(seen.clone()), seen)
    }
}

impl<T: 'static> Operator<T> for Sink<T> {
    fn record(&mut self, value: T, timestamp: Timestamp) {
        self.0.borrow_mut().records.push((value, timestamp));
    }
    fn resume(&mut self, watermark: Timestamp) {
        self.0.borrow_mut().watermark = watermark;
    }

    fn watermark(&mut self, watermark: Timestamp) {
        assert!(watermark >= self.0.borrow().watermark, "a watermark goes back");
        self.0.borrow_mut().watermark = watermark;
    }
    fn signal(&mut self, signal: Signal) {
        self.0.borrow_mut().signals.push(signal);
    }
    fn tick(&mut self, _: Timestamp) {}
    fn next_deadline(&self) -> Timestamp {
        Timestamp::MAX
    }
    fn flush(&mut self) {}
    fn is_blocked(&mut self) -> bool {
        false
    }
    fn is_finished(&mut self) -> bool {
        true
    }
}

/// All records that went into it, in ascending order: a record lost, doubled or misplaced shows.
#[derive(Clone, Copy, Debug)]
pub struct All;

impl AggregateFunction<Event> for All {
    type Accumulator = Vec<u32>;
    type Output = Vec<u32>;
    fn create(&self) -> Vec<u32> {
        Vec::new()
    }
    fn add(&self, all: &mut Vec<u32>, value: Event) {
        all.push(value.id);
    }
    fn merge(&self, all: &mut Vec<u32>, other: &Vec<u32>) {
        all.extend(other);
    }
    fn result(&self, all: &Vec<u32>) -> Vec<u32> {
        let mut all = all.clone();
        all.sort_unstable();
        all
    }
}

#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Event {
    pub key: u8,
    pub id: u32,
    pub time: i64,
}

/// A step of a script.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Record(Event),
    Watermark(i64),
    Flush,
    Barrier,
}

/// Records at random times, and ascending watermarks that do not care about them.
pub fn script(times: i64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0u8..4, 0..times).prop_map(|(key, time)| Step::Record(Event { key, id: 0, time })),
        3 => (0..times).prop_map(Step::Watermark),
        1 => Just(Step::Flush),
        1 => Just(Step::Barrier),
    ];
    prop::collection::vec(step, 0..120).prop_map(|mut steps| {
        let (mut id, mut watermark) = (0, 0);
        for step in &mut steps {
            match step {
                Step::Record(event) => {
                    id += 1;
                    event.id = id;
                }
                Step::Watermark(time) => {
                    // Slow enough that not everything is late.
                    watermark += *time / 16;
                    *time = watermark;
                }
                Step::Flush | Step::Barrier => {}
            }
        }
        steps
    })
}

pub fn barrier() -> Signal {
    Signal::Barrier(
        millstream_types::Barrier { checkpoint: millstream_types::CheckpointId(1) },
        crate::operator::Passing::InOrder,
    )
}

/// Pushes one step into an operator.
pub fn push(operator: &mut impl Operator<Event>, step: Step) {
    match step {
        Step::Record(event) => operator.record(event, t(event.time)),
        Step::Watermark(time) => operator.watermark(t(time)),
        Step::Flush => operator.flush(),
        Step::Barrier => operator.signal(barrier()),
    }
}

/// Ends the input.
pub fn finish(operator: &mut impl Operator<Event>) {
    operator.watermark(Timestamp::MAX);
    operator.signal(Signal::EndOfInput);
}

pub type Fired = WindowResult<u8, Vec<u32>>;

/// Flink's window operator by the book: each record is put into each of its windows.
pub struct Model<W> {
    windows_of: W,
    lateness: i64,
    windows: BTreeMap<(i64, i64), BTreeMap<u8, Vec<u32>>>,
    watermark: i64,
    pub fired: Vec<Fired>,
    pub late: Vec<Event>,
}

impl<W: Fn(i64) -> Vec<TimeWindow>> Model<W> {
    pub fn new(lateness: i64, windows_of: W) -> Self {
        Self {
            windows_of,
            lateness,
            windows: BTreeMap::new(),
            watermark: i64::MIN,
            fired: Vec::new(),
            late: Vec::new(),
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Record(event) => self.record(event),
            Step::Watermark(time) => self.watermark(time),
            Step::Flush | Step::Barrier => {}
        }
    }

    fn record(&mut self, event: Event) {
        let windows = (self.windows_of)(event.time);
        let mut late = !windows.is_empty();
        for window in windows {
            let (start, end) = (window.start.as_nanos(), window.end.as_nanos());
            if (end - 1).saturating_add(self.lateness) <= self.watermark {
                continue;
            }
            late = false;
            let of_key =
                self.windows.entry((end, start)).or_default().entry(event.key).or_default();
            of_key.push(event.id);
            if end - 1 <= self.watermark {
                self.fired.push(WindowResult { key: event.key, window, value: of_key.clone() });
            }
        }
        if late {
            self.late.push(event);
        }
    }

    pub fn watermark(&mut self, watermark: i64) {
        for ((end, start), keys) in &self.windows {
            if end - 1 > self.watermark && end - 1 <= watermark {
                let window = TimeWindow { start: t(*start), end: t(*end) };
                self.fired.extend(keys.iter().map(|(key, v)| WindowResult {
                    key: *key,
                    window,
                    value: v.clone(),
                }));
            }
        }
        self.windows.retain(|(end, _), _| (end - 1).saturating_add(self.lateness) > watermark);
        self.watermark = watermark;
    }

    pub fn finish(&mut self) {
        self.watermark(i64::MAX);
    }
}

/// The last result of each window and key.
pub fn table(fired: &[Fired]) -> BTreeMap<(TimeWindow, u8), Vec<u32>> {
    fired.iter().map(|f| ((f.window, f.key), f.value.clone())).collect()
}

/// Takes the results out of a sink: checks their timestamps and that they come in the order of
/// their windows' ends, and sorts those of the same window.
pub fn take_fired(seen: &RefCell<Seen<Fired>>) -> Vec<Fired> {
    let mut fired: Vec<Fired> = Vec::new();
    for (result, timestamp) in take(&mut seen.borrow_mut().records) {
        assert_eq!(timestamp, result.window.max_timestamp());
        fired.push(result);
    }
    assert!(fired.is_sorted_by_key(|f| f.window.end), "windows fire out of order: {fired:?}");
    fired.sort_by(|a, b| (a.window.end, a).cmp(&(b.window.end, b)));
    fired
}
