use super::*;
use crate::operator::Collector;
use crate::window::testing::*;
use crate::window::{
    Count, DirectWindow, Global, LateRecords, PreAggregate, Sliding, TimeWindow, WindowProcess,
};
use millstream_types::OperatorId;
use proptest::prelude::*;
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};

const ID: OperatorId = OperatorId(1);

/// All windows of a size and a slide that contain a time, by the definition.
fn windows_of(size: i64, slide: i64) -> impl Fn(i64) -> Vec<TimeWindow> {
    move |time| {
        (time - size + 1..=time)
            .filter(|start| start.rem_euclid(slide) == 0)
            .map(|start| TimeWindow { start: t(start), end: t(start + size) })
            .collect()
    }
}

fn sliding(size: i64, slide: i64) -> Sliding {
    Sliding::of(d(size), d(slide))
}

/// The first phases of one job and its second phases, with all that lies between.
struct Job<N: Operator<Event>> {
    first: Vec<N>,
    between: Vec<Shared<Partial<u8, Vec<u32>>>>,
    second: Vec<SlicedWindow<Event, u8, All, Sink<Fired>>>,
    out: Vec<Shared<Fired>>,
    counters: Arc<JobCounters>,
}

fn job(
    kept: Kept,
    windows: Sliding,
    lateness: i64,
    first: usize,
    second: usize,
) -> Job<impl Operator<Event>> {
    let counters = Arc::new(JobCounters::default());
    let (first, between) = (0..first)
        .map(|_| {
            let (sink, seen) = Sink::new();
            (PreAggregate::new(ID, windows, |e: &Event| e.key, All, sink), seen)
        })
        .unzip();
    let (second, out) = (0..second)
        .map(|_| {
            let (sink, seen) = Sink::new();
            let table = window_table(kept);
            (SlicedWindow::new(ID, windows, d(lateness), All, table, counters.clone(), sink), seen)
        })
        .unzip();
    Job { first, between, second, out, counters }
}

impl<N: Operator<Event>> Job<N> {
    /// Carries over what the first phases have emitted, and the least of their watermarks.
    fn shuffle(&mut self) {
        for between in &self.between {
            for (partial, timestamp) in take(&mut between.borrow_mut().records) {
                assert_eq!(timestamp, t(partial.slice_end.as_nanos() - 1));
                let to = usize::from(partial.key) % self.second.len();
                self.second[to].record(partial, timestamp);
            }
        }
        let watermark = self.between.iter().map(|b| b.borrow().watermark).min().unwrap();
        for (second, out) in self.second.iter_mut().zip(&self.out) {
            if watermark > out.borrow().watermark {
                second.watermark(watermark);
            }
        }
    }

    /// What has fired since the last call, in the order of the windows' ends.
    fn fired(&self) -> Vec<Fired> {
        let mut fired: Vec<_> = self.out.iter().flat_map(|out| take_fired(out)).collect();
        fired.sort_by(|a, b| (a.window.end, a).cmp(&(b.window.end, b)));
        fired
    }

    /// The same, but results of one window and key may have fired repeatedly and out of order.
    fn fired_again(&self) -> Vec<Fired> {
        self.out
            .iter()
            .flat_map(|out| take(&mut out.borrow_mut().records))
            .map(|(fired, timestamp)| {
                assert_eq!(timestamp, fired.window.max_timestamp());
                fired
            })
            .collect()
    }
}

/// A direct window over all elements, and where it puts things.
fn direct(
    kept: Kept,
    windows: Sliding,
    lateness: i64,
) -> (impl Operator<Event>, Shared<Fired>, Shared<Event>) {
    let process = |key: &u8, window: TimeWindow, events: &[Event], out: &mut dyn Collector<_>| {
        let mut value: Vec<u32> = events.iter().map(|e| e.id).collect();
        value.sort_unstable();
        out.collect(WindowResult { key: *key, window, value });
    };
    let (tag, mut outputs) = (crate::operator::OutputTag::new("late"), Default::default());
    let (late, late_seen) = Sink::new();
    crate::operator::SideOutputs::attach(&mut outputs, tag.id(), Box::new(late));
    let late = LateRecords::new(Arc::default(), Some(tag), outputs);
    let (sink, seen) = Sink::new();
    let function = WindowProcess::new(ID, process);
    let key = |e: &Event| e.key;
    let window =
        DirectWindow::new(ID, windows, d(lateness), key, function, window_table(kept), late, sink);
    (window, seen, late_seen)
}

proptest! {
    #[test]
    fn two_phases_give_what_the_model_gives(
        steps in script(150), kept in kept(), size in 1i64..30, slide in 1i64..30, first in 1usize..5,
        second in 1usize..4,
    ) {
        let mut job = job(kept, sliding(size, slide), 0, first, second);
        let mut model = Model::new(0, windows_of(size, slide));
        for step in steps {
            match step {
                Step::Record(event) => push(&mut job.first[event.id as usize % first], step),
                _ => job.first.iter_mut().for_each(|f| push(f, step)),
            }
            job.shuffle();
            model.step(step);
            // What is late stays in the first phase until the next watermark.
            prop_assert_eq!(job.fired(), take(&mut model.fired));
        }
        job.first.iter_mut().for_each(finish);
        job.shuffle();
        model.finish();
        prop_assert_eq!(job.fired(), model.fired);
        prop_assert_eq!(job.counters.late(), model.late.len() as u64);
    }

    #[test]
    fn with_lateness_two_phases_end_with_what_the_model_ends_with(
        steps in script(150), kept in kept(), size in 1i64..30, slide in 1i64..30, lateness in 1i64..40,
        first in 1usize..5, second in 1usize..4,
    ) {
        let mut job = job(kept, sliding(size, slide), lateness, first, second);
        let mut model = Model::new(lateness, windows_of(size, slide));
        for step in steps {
            match step {
                Step::Record(event) => push(&mut job.first[event.id as usize % first], step),
                _ => job.first.iter_mut().for_each(|f| push(f, step)),
            }
            job.shuffle();
            model.step(step);
        }
        job.first.iter_mut().for_each(finish);
        job.shuffle();
        model.finish();
        prop_assert_eq!(table(&job.fired_again()), table(&model.fired));
        prop_assert_eq!(job.counters.late(), model.late.len() as u64);
    }

    #[test]
    fn senders_may_be_at_different_times(
        steps in script(150), kept in kept(), size in 1i64..30, slide in 1i64..30, first in 1usize..5,
    ) {
        let mut job = job(kept, sliding(size, slide), 0, first, 2);
        let mut model = Model::new(0, windows_of(size, slide));
        let mut watermarks = vec![-1; first];
        for (n, step) in steps.into_iter().enumerate() {
            let sender = n % first;
            let step = match step {
                // Nothing is late as its sender sees it.
                Step::Record(e) => Step::Record(Event { time: e.time + 1 + watermarks[sender], ..e }),
                Step::Watermark(time) => {
                    watermarks[sender] = watermarks[sender].max(time);
                    Step::Watermark(watermarks[sender])
                }
                other => other,
            };
            push(&mut job.first[sender], step);
            job.shuffle();
            model.step(match step {
                Step::Watermark(_) => Step::Watermark(*watermarks.iter().min().unwrap()),
                other => other,
            });
            prop_assert_eq!(job.fired(), take(&mut model.fired));
        }
        job.first.iter_mut().for_each(finish);
        job.shuffle();
        model.finish();
        prop_assert_eq!(job.fired(), model.fired);
        prop_assert_eq!(job.counters.late(), 0);
    }

    #[test]
    fn direct_windows_do_what_the_model_does_step_by_step(
        steps in script(150), kept in kept(), size in 1i64..30, slide in 1i64..30, lateness in 0i64..40,
    ) {
        let (mut window, seen, late) = direct(kept, sliding(size, slide), lateness);
        let mut model = Model::new(lateness, windows_of(size, slide));
        for step in steps {
            push(&mut window, step);
            model.step(step);
            prop_assert_eq!(take_fired(&seen), take(&mut model.fired));
        }
        finish(&mut window);
        model.finish();
        prop_assert_eq!(take_fired(&seen), model.fired);
        let late: Vec<_> = take(&mut late.borrow_mut().records);
        prop_assert!(late.iter().all(|(event, timestamp)| t(event.time) == *timestamp));
        let late: Vec<_> = late.into_iter().map(|(event, _)| event).collect();
        prop_assert_eq!(late, model.late);
    }

    #[test]
    fn a_record_is_aggregated_once_whatever_the_overlap(
        steps in script(150), kept in kept(), size in 1i64..60, slide in 1i64..8,
    ) {
        /// Counts the calls of `add`.
        #[derive(Clone, Default)]
        struct Counted(Arc<AtomicU64>);
        impl AggregateFunction<Event> for Counted {
            type Accumulator = u64;
            type Output = u64;
            fn create(&self) -> u64 { 0 }
            fn add(&self, n: &mut u64, _: Event) {
                self.0.fetch_add(1, Ordering::Relaxed);
                *n += 1;
            }
            fn merge(&self, n: &mut u64, other: &u64) { *n += other; }
            fn result(&self, n: &u64) -> u64 { *n }
        }
        let windows = sliding(size, slide);
        let function = Counted::default();
        let (sink, seen) = Sink::new();
        let second = SlicedWindow::new(
            ID, windows, Duration::ZERO, function.clone(), window_table(kept), Arc::default(), sink);
        let mut first = PreAggregate::new(ID, windows, |e: &Event| e.key, function.clone(), second);
        let mut records = 0;
        for step in steps.into_iter().filter(|step| matches!(step, Step::Record(_))) {
            push(&mut first, step);
            records += u64::from(size >= slide);
        }
        finish(&mut first);
        let in_windows: u64 = seen.borrow().records.iter().map(|(result, _)| result.value).sum();
        if size % slide == 0 {
            prop_assert_eq!(in_windows, records * (size / slide) as u64);
        }
        if size >= slide {
            prop_assert_eq!(function.0.load(Ordering::Relaxed), records);
        }
    }
}

#[test]
fn the_global_window_fires_at_the_end_of_input_and_needs_no_timestamps() {
    let (sink, seen) = Sink::new();
    let second = SlicedWindow::<Event, _, _, _>::new(
        ID,
        Global,
        Duration::ZERO,
        Count,
        window_table(Kept::Typed),
        Arc::default(),
        sink,
    );
    let mut first = PreAggregate::new(ID, Global, |_: &Event| (), Count, second);
    for time in [Timestamp::MIN, t(5), t(-5), Timestamp::MIN] {
        first.record(Event { key: 0, id: 0, time: 0 }, time);
    }
    first.watermark(t(1_000));
    assert!(seen.borrow().records.is_empty());
    finish(&mut first);
    let result = WindowResult { key: (), window: TimeWindow::GLOBAL, value: 4 };
    assert_eq!(seen.borrow().records, [(result, TimeWindow::GLOBAL.max_timestamp())]);
}
