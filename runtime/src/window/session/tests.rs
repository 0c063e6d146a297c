use super::*;
use crate::operator::{OutputTag, SideOutputs};
use crate::window::testing::*;
use crate::window::{WindowAggregate, WindowResult};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

const ID: OperatorId = OperatorId(3);

/// Flink's merging windows by the book.
struct Sessionizer {
    gap: i64,
    lateness: i64,
    sessions: BTreeMap<u8, Vec<(TimeWindow, Vec<u32>)>>,
    watermark: i64,
    fired: Vec<Fired>,
    late: Vec<Event>,
}

impl Sessionizer {
    fn record(&mut self, event: Event) {
        let of_key = self.sessions.entry(event.key).or_default();
        let mut window = TimeWindow { start: t(event.time), end: t(event.time + self.gap) };
        let mut value = vec![event.id];
        let mut others = Vec::new();
        for (other, ids) in of_key.iter().cloned() {
            if other.start <= window.end && window.start <= other.end {
                window.start = window.start.min(other.start);
                window.end = window.end.max(other.end);
                value.extend(ids);
            } else {
                others.push((other, ids));
            }
        }
        let end = window.end.as_nanos() - 1;
        if end.saturating_add(self.lateness) <= self.watermark {
            self.late.push(event);
            return;
        }
        value.sort_unstable();
        if end <= self.watermark {
            self.fired.push(WindowResult { key: event.key, window, value: value.clone() });
        }
        others.push((window, value));
        *of_key = others;
    }

    fn watermark(&mut self, watermark: i64) {
        let mut fired = Vec::new();
        for (key, sessions) in &mut self.sessions {
            for (window, value) in &*sessions {
                let end = window.end.as_nanos() - 1;
                if end > self.watermark && end <= watermark {
                    fired.push(WindowResult { key: *key, window: *window, value: value.clone() });
                }
            }
            sessions.retain(|(window, _)| {
                (window.end.as_nanos() - 1).saturating_add(self.lateness) > watermark
            });
        }
        fired.sort_by(|a, b| (a.window.end, a).cmp(&(b.window.end, b)));
        self.fired.append(&mut fired);
        self.watermark = watermark;
    }
}

fn sessions(
    kept: Kept,
    gap: i64,
    lateness: i64,
) -> (impl Operator<Event>, Shared<Fired>, Shared<Event>) {
    let (store, spec) = store(kept);
    let (tag, mut outputs) = (OutputTag::new("late"), SideOutputs::default());
    let (late, late_seen) = Sink::new();
    outputs.attach(tag.id(), Box::new(late));
    let (sink, seen) = Sink::new();
    let window = SessionWindow::new(
        ID,
        Session::with_gap(d(gap)),
        d(lateness),
        |e: &Event| e.key,
        WindowAggregate::new(ID, All),
        Table::open(&store, &spec).unwrap(),
        Timers::open(&store, &spec.with_name("timers")).unwrap(),
        LateRecords::new(Arc::default(), Some(tag), outputs),
        sink,
    );
    (window, seen, late_seen)
}

proptest! {
    #[test]
    fn sessions_are_what_the_model_says_step_by_step(
        steps in script(200), kept in kept(), gap in 1i64..25, lateness in prop_oneof![Just(0), 1i64..40],
    ) {
        let (mut window, seen, late) = sessions(kept, gap, lateness);
        let mut model = Sessionizer {
            gap, lateness, sessions: BTreeMap::new(), watermark: i64::MIN, fired: vec![],
            late: vec![],
        };
        for step in steps {
            push(&mut window, step);
            match step {
                Step::Record(event) => model.record(event),
                Step::Watermark(time) => model.watermark(time),
                Step::Flush | Step::Barrier => {}
            }
            prop_assert_eq!(take_fired(&seen), take(&mut model.fired));
        }
        finish(&mut window);
        model.watermark(i64::MAX);
        prop_assert_eq!(take_fired(&seen), model.fired);
        let late: Vec<_> = late.borrow().records.iter().map(|(event, _)| *event).collect();
        prop_assert_eq!(late, model.late);
    }
}

#[test]
fn records_exactly_one_gap_apart_share_a_session() {
    let (mut window, seen, _) = sessions(Kept::Typed, 10, 0);
    for (id, time) in [(1, 0), (2, 10), (3, 21)] {
        push(&mut window, Step::Record(Event { key: 1, id, time }));
    }
    finish(&mut window);
    let fired: Vec<_> = take_fired(&seen).into_iter().map(|f| f.value).collect();
    assert_eq!(fired, [vec![1, 2], vec![3]]);
}

#[test]
fn nothing_is_left_behind_when_all_sessions_have_expired() {
    let (store, spec) = store(Kept::Encoded);
    let (sink, _) = Sink::new();
    let mut window = SessionWindow::new(
        ID,
        Session::with_gap(d(5)),
        d(3),
        |e: &Event| e.key,
        WindowAggregate::new(ID, All),
        Table::open(&store, &spec).unwrap(),
        Timers::open(&store, &spec).unwrap(),
        LateRecords::new(Arc::default(), None, SideOutputs::default()),
        sink,
    );
    for id in 0..100 {
        let event = Event { key: id as u8 % 7, id, time: i64::from(id) * 3 };
        push(&mut window, Step::Record(event));
        push(&mut window, Step::Watermark(i64::from(id) * 3 - 4));
    }
    push(&mut window, Step::Watermark(1_000));
    assert!(window.table.is_empty());
    assert!(window.timers.is_empty());
}
