use super::*;
use crate::operator::Signal;
use crate::window::testing::*;
use crate::window::{Sliding, Tumbling};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::mem::take;

const ID: OperatorId = OperatorId(4);

type Pair = (u32, u32);

/// The records of each window and key, and for each window that fires all pairs.
struct Model {
    size: i64,
    slide: i64,
    lateness: i64,
    windows: BTreeMap<(i64, u8), (Vec<u32>, Vec<u32>)>,
    watermark: i64,
    fired: Vec<(Pair, Timestamp)>,
    late: u64,
}

impl Model {
    fn record(&mut self, event: Event, on_the_left: bool) {
        let time = event.time;
        let (mut windows, mut late) = (0, 0);
        for start in (time - self.size + 1..=time).filter(|s| s.rem_euclid(self.slide) == 0) {
            let end = start + self.size;
            windows += 1;
            if end - 1 + self.lateness <= self.watermark {
                late += 1;
                continue;
            }
            let window = self.windows.entry((end, event.key)).or_default();
            if on_the_left {
                window.0.push(event.id)
            } else {
                window.1.push(event.id)
            }
            if end - 1 <= self.watermark {
                self.fired.extend(pairs(end, window));
            }
        }
        self.late += u64::from(windows > 0 && windows == late);
    }

    fn watermark(&mut self, watermark: i64) {
        for ((end, _), window) in &self.windows {
            if end - 1 > self.watermark && end - 1 <= watermark {
                self.fired.extend(pairs(*end, window));
            }
        }
        self.windows.retain(|(end, _), _| (end - 1).saturating_add(self.lateness) > watermark);
        self.watermark = watermark;
    }
}

fn pairs(end: i64, (lefts, rights): &(Vec<u32>, Vec<u32>)) -> Vec<(Pair, Timestamp)> {
    lefts.iter().flat_map(|l| rights.iter().map(move |r| ((*l, *r), t(end - 1)))).collect()
}

fn join(
    kept: Kept,
    windows: impl Into<Slicing>,
    lateness: i64,
    counters: Arc<JobCounters>,
) -> (impl TwoInputOperator<Event, Event>, Shared<Pair>) {
    let (sink, seen) = Sink::new();
    let key = |e: &Event| e.key;
    let tables = (window_table(kept), window_table(kept));
    let apply = |l: &Event, r: &Event| (l.id, r.id);
    (WindowJoin::new(ID, windows, d(lateness), (key, key), apply, tables, counters, sink), seen)
}

proptest! {
    #[test]
    fn pairs_are_what_the_model_says_step_by_step(
        steps in script(150), kept in kept(), size in 1i64..30, slide in 1i64..30,
        lateness in prop_oneof![Just(0), 1i64..40], tumbling in any::<bool>(),
    ) {
        let slide = if tumbling { size } else { slide };
        let counters = Arc::new(JobCounters::default());
        let windows = Sliding::of(d(size), d(slide));
        let (mut join, seen) = join(kept, windows, lateness, counters.clone());
        let mut model = Model {
            size, slide, lateness, windows: BTreeMap::new(), watermark: i64::MIN, fired: vec![],
            late: 0,
        };
        for step in steps.into_iter().chain([Step::Watermark(i64::MAX)]) {
            match step {
                Step::Record(event) => {
                    let on_the_left = event.id % 3 == 0;
                    if on_the_left {
                        join.left(event, t(event.time));
                    } else {
                        join.right(event, t(event.time));
                    }
                    model.record(event, on_the_left);
                }
                Step::Watermark(time) => {
                    join.watermark(t(time));
                    model.watermark(time);
                }
                Step::Flush => join.flush(),
                Step::Barrier => join.signal(barrier()),
            }
            let mut fired = take(&mut seen.borrow_mut().records);
            prop_assert!(fired.is_sorted_by_key(|(_, timestamp)| *timestamp));
            fired.sort_by_key(|(pair, timestamp)| (*timestamp, *pair));
            model.fired.sort_by_key(|(pair, timestamp)| (*timestamp, *pair));
            prop_assert_eq!(fired, take(&mut model.fired));
        }
        prop_assert_eq!(counters.late(), model.late);
    }
}

#[test]
fn what_fires_goes_before_the_watermark_and_signals_pass() {
    let (mut join, seen) = join(Kept::Typed, Tumbling::of(d(10)), 0, Arc::default());
    join.left(Event { key: 1, id: 1, time: 3 }, t(3));
    join.right(Event { key: 1, id: 2, time: 9 }, t(9));
    join.right(Event { key: 1, id: 3, time: 10 }, t(10));
    join.watermark(t(9));
    join.signal(Signal::EndOfInput);
    assert_eq!(seen.borrow().records, [((1, 2), t(9))]);
    assert_eq!(seen.borrow().watermark, t(9));
    assert_eq!(seen.borrow().signals, [Signal::EndOfInput]);
}
