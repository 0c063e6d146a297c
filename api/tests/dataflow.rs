//! Whole jobs over the public API, at several numbers of slots.

use millstream::connector::{Sink, SinkContext, SinkWriter, SlotWaker};
use millstream::prelude::*;
use millstream::{Generator, JobStatus};
use std::collections::HashMap;
use std::time::Instant;

fn env(slots: u32) -> Environment {
    Environment::new(Config::default().with_slots(slots))
}

fn sorted<T: Ord>(mut records: Vec<T>) -> Vec<T> {
    records.sort();
    records
}

#[test]
fn a_chain_of_stateless_operators_keeps_the_order() {
    let env = env(1);
    let out = env
        .from_collection("numbers", 0..10_000u64)
        .map(|n| n * 2)
        .filter(|n| n % 3 == 0)
        .filter_map(|n| (n > 100).then_some(n))
        .flat_map(|n, out| {
            out.collect(n);
            out.collect(n + 1);
        })
        .collect();
    let result = env.execute("stateless").unwrap();
    let expected: Vec<u64> = (0..10_000)
        .map(|n| n * 2)
        .filter(|n| n % 3 == 0 && *n > 100)
        .flat_map(|n| [n, n + 1])
        .collect();
    assert_eq!(out.take(), expected);
    assert_eq!(result.status, JobStatus::Finished);
    assert_eq!(result.metrics.source_records(), 10_000);
    assert_eq!(result.metrics.sink_records(), expected.len() as u64);
}

#[test]
fn running_counts_by_key_are_right_at_any_number_of_slots() {
    for slots in 1..=4 {
        let env = env(slots);
        let counts = env
            .from_iterator("numbers", |i, n| (0..200_000u64).skip(i as usize).step_by(n as usize))
            .key_by(|n| n % 1_000)
            .count()
            .collect();
        env.execute("count").unwrap();
        let mut greatest = HashMap::new();
        let counts = counts.take();
        assert_eq!(counts.len(), 200_000);
        for (key, count) in counts {
            let entry: &mut u64 = greatest.entry(key).or_default();
            *entry = count.max(*entry);
        }
        assert_eq!(greatest.len(), 1_000, "{slots} slots");
        assert!(greatest.values().all(|count| *count == 200), "{slots} slots");
    }
}

#[test]
fn every_partitioner_delivers_every_record_once() {
    let numbers = || (0..50_000u64).collect::<Vec<_>>();
    for slots in 1..=3u32 {
        for kind in ["rebalance", "rescale", "global", "custom", "chain", "union", "share"] {
            let env = env(slots);
            let source = env.from_collection("numbers", numbers());
            let out = match kind {
                "rebalance" => source.rebalance().map(|n| n).collect(),
                "rescale" => source.rescale().map(|n| n).collect(),
                "global" => source.rebalance().map(|n| n).global().collect(),
                "custom" => source.partition_custom(|n, p| (*n as usize / 7) % p).collect(),
                "chain" => source.start_new_chain().map(|n| n).disable_chaining().collect(),
                "union" => {
                    let other = env.from_collection("none", Vec::<u64>::new());
                    source.union(other).collect()
                }
                _ => {
                    let shared = source.share();
                    let odd = shared.stream().filter(|n| n % 2 == 1);
                    shared.stream().filter(|n| n % 2 == 0).union(odd).collect()
                }
            };
            env.execute(kind).unwrap();
            assert_eq!(sorted(out.take()), numbers(), "{kind} at {slots} slots");
        }
        let env = env(slots);
        let out = env.from_collection("numbers", numbers()).broadcast().map(|n| n).collect();
        env.execute("broadcast").unwrap();
        let out = sorted(out.take());
        assert_eq!(out.len(), 50_000 * slots as usize);
        assert!(out.chunks(slots as usize).all(|same| same.iter().all(|n| *n == same[0])));
    }
}

#[derive(Clone)]
struct Split {
    odd: OutputTag<u64>,
}

impl ProcessFunction<u64> for Split {
    type Out = u64;
    fn process(
        &mut self,
        value: u64,
        context: &mut ProcessContext<'_>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        if value % 2 == 1 {
            context.emit_to(&self.odd, value);
        } else {
            out.collect(value);
        }
        Ok(())
    }
}

#[test]
fn side_outputs_carry_what_the_main_output_does_not() {
    let env = env(2);
    let odd = OutputTag::new("odd");
    let even = env.from_collection("numbers", 0..1_001).process(Split { odd: odd.clone() });
    let odd = even.side_output(&odd).map(|n| n * 10).collect();
    let even = even.collect();
    env.execute("split").unwrap();
    assert_eq!(even.take(), (0..1_001).step_by(2).collect::<Vec<_>>());
    assert_eq!(sorted(odd.take()), (1..1_001).step_by(2).map(|n| n * 10).collect::<Vec<_>>());
}

#[test]
fn what_follows_on_a_side_output_shares_the_subtask_of_its_operator() {
    let env = env(2);
    let tag = OutputTag::new("odd");
    let split = env.from_collection("numbers", 0..1_000).process(Split { odd: tag.clone() });
    let odd = split.side_output(&tag).filter(|n| n % 5 == 0).collect();
    let even = split.key_by(|n| n % 10).count().collect();
    let result = env.execute("split").unwrap();

    assert_eq!(sorted(odd.take()), (5..1_000).step_by(10).collect::<Vec<_>>());
    let even_keys = [0, 2, 4, 6, 8].into_iter();
    let counts: Vec<_> = even_keys.flat_map(|key| (1..=100).map(move |n| (key, n))).collect();
    assert_eq!(sorted(even.take()), counts);
    // The chain of the first vertex ends in an exchange and in a sink, whose records alone count.
    assert_eq!(result.metrics.sink_records(), 100 + 500);
    let names: Vec<_> = result.metrics.vertices.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names[0], "numbers -> process -> odd -> filter -> collect", "no vertex aside");
    assert_eq!(names.len(), 2);
}

/// Takes its time to finish.
#[derive(Clone)]
struct SlowToFinish;

struct FinishesAt(Option<Instant>, SlotWaker);

impl Sink<u64> for SlowToFinish {
    type Writer = FinishesAt;
    fn open(self, context: &SinkContext) -> Result<FinishesAt, BoxError> {
        Ok(FinishesAt(None, context.waker.clone()))
    }
}

impl SinkWriter<u64> for FinishesAt {
    fn write(&mut self, _: u64, _: Timestamp) -> Result<(), BoxError> {
        assert!(self.0.is_none(), "a record behind the end of input");
        Ok(())
    }
    #[expect(clippy::disallowed_methods, reason = "that it takes its time is the point")]
    fn finish(&mut self) -> Result<bool, BoxError> {
        let due = *self.0.get_or_insert_with(|| {
            let waker = self.1.clone();
            std::thread::spawn(move || {
                for _ in 0..8 {
                    std::thread::sleep(Duration::from_millis(20));
                    waker.wake();
                }
            });
            Instant::now() + Duration::from_millis(100)
        });
        Ok(Instant::now() >= due)
    }
}

/// Emits, for each record, from a timer of processing time some milliseconds later.
#[derive(Clone)]
struct Echo;

impl KeyedProcessFunction<u64, u64> for Echo {
    type Out = u64;
    fn process(
        &mut self,
        value: u64,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        let now = cx.processing_time();
        cx.register_processing_timer(now + Duration::from_millis(30));
        out.collect(value);
        Ok(())
    }
    fn on_timer(
        &mut self,
        _: Timestamp,
        _: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<u64>,
    ) -> Result<(), BoxError> {
        out.collect(u64::MAX);
        Ok(())
    }
}

/// One end of a chain may finish long before another. Nothing may come behind the end of input
/// meanwhile: neither the word that the input is idle nor what a timer emits.
#[test]
#[expect(clippy::disallowed_methods, reason = "that it takes its time is the point")]
fn nothing_follows_the_end_of_input_while_another_end_of_the_chain_finishes() {
    let env = env(2);
    let tag = OutputTag::new("odd");
    let strategy = WatermarkStrategy::monotonic(|n: &u64| Timestamp::from_millis(*n as i64))
        .with_idleness(Duration::from_millis(10));
    let split = env
        .from_iterator("numbers", |subtask, _| {
            (0..100).map(move |n| {
                // The other subtask ends while this one still finishes.
                std::thread::sleep(Duration::from_micros(if subtask == 0 { 0 } else { 600 }));
                n * 2 + u64::from(subtask)
            })
        })
        .assign_timestamps(strategy)
        .process(Split { odd: tag.clone() });
    split.side_output(&tag).sink_to("slow", SlowToFinish);
    let even = split.key_by(|n| n % 4).process(|_| Echo).share();
    even.stream().key_by(|n| *n).process(|_| Echo).sink_to("slow", SlowToFinish);
    let even = even.stream().filter(|n| *n != u64::MAX).collect();
    env.execute("ends").unwrap();
    assert_eq!(sorted(even.take()), (0..200).step_by(2).collect::<Vec<_>>());
}

/// Emits a key's sum of both sides when event time reaches the end of its hour.
struct SumAtEnd {
    sum: ValueState<u64, i64>,
    seen: ListState<u64, i64>,
}

impl KeyedCoProcessFunction<u64, (u64, i64), (u64, i64)> for SumAtEnd {
    type Out = (u64, i64, usize);
    fn process_left(
        &mut self,
        (_, n): (u64, i64),
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError> {
        self.sum.modify(cx, || 0, |sum| *sum += n);
        self.seen.push(cx, n);
        cx.register_event_timer(Timestamp::from_millis(3_600_000));
        Ok(())
    }
    fn process_right(
        &mut self,
        (_, n): (u64, i64),
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError> {
        self.sum.modify(cx, || 0, |sum| *sum -= n);
        cx.register_event_timer(Timestamp::from_millis(3_600_000));
        Ok(())
    }
    fn on_timer(
        &mut self,
        _: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Self::Out>,
    ) -> Result<(), BoxError> {
        let sum = self.sum.get(cx).unwrap_or_default();
        out.collect((*cx.key(), sum, self.seen.get(cx).len()));
        Ok(())
    }
}

#[test]
fn connected_streams_share_state_and_timers() {
    for slots in 1..=3 {
        let env = env(slots);
        let records = || (0..10_000u64).map(|n| (n % 10, n as i64));
        let strategy =
            || WatermarkStrategy::monotonic(|r: &(u64, i64)| Timestamp::from_millis(r.1));
        let left = env.from_collection("left", records()).assign_timestamps(strategy());
        let right =
            env.from_collection("right", records().take(5_000)).assign_timestamps(strategy());
        let sums = left
            .key_by(|r| r.0)
            .connect(right.key_by(|r| r.0))
            .process(|state| SumAtEnd { sum: state.value("sum"), seen: state.list("seen") })
            .collect();
        env.execute("connect").unwrap();
        let expected: Vec<_> = (0..10u64)
            .map(|k| {
                let (all, half): (Vec<i64>, Vec<i64>) = (
                    records().filter(|r| r.0 == k).map(|r| r.1).collect(),
                    records().take(5_000).filter(|r| r.0 == k).map(|r| r.1).collect(),
                );
                (k, all.iter().sum::<i64>() - half.iter().sum::<i64>(), all.len())
            })
            .collect();
        assert_eq!(sorted(sums.take()), expected, "{slots} slots");
    }
}

#[test]
fn a_panic_fails_the_job_with_the_operators_name() {
    let env = env(2);
    env.from_collection("numbers", 0..100_000u64)
        .rebalance()
        .map(|n| n)
        .map(|n| if n == 77_777 { panic!("no sevens") } else { n })
        .name("careful")
        .discard();
    let error = env.execute("panics").unwrap_err().to_string();
    assert!(error.contains("\"careful\"") && error.contains("no sevens"), "{error}");
}

#[test]
fn an_error_of_user_code_fails_the_job_with_the_operators_name() {
    let env = env(2);
    env.from_collection("numbers", ["1", "2", "x"].map(String::from))
        .try_map(|text: String| text.parse::<u64>())
        .name("parse")
        .discard();
    let error = env.execute("fails").unwrap_err().to_string();
    assert!(error.contains("\"parse\"") && error.contains("invalid digit"), "{error}");
}

#[test]
fn an_unbounded_job_is_cancelled() {
    for idle in ["park", "spin 20us then park"] {
        let config = Config::default().with_slots(2).set("idle", idle).unwrap();
        let env = Environment::new(config);
        env.generate("ticks", Generator::new(|n, _| n).rate(1_000.0))
            .key_by(|n| n % 10)
            .count()
            .discard();
        let job = env.start("endless").unwrap();
        let canceller = job.canceller();
        while job.metrics().sink_records() < 50 {
            std::thread::yield_now();
        }
        canceller.cancel();
        assert_eq!(job.wait().unwrap().status, JobStatus::Canceled);
    }
}

#[test]
fn a_job_that_cannot_be_says_why() {
    let unconsumed = env(1);
    let _ = unconsumed.from_collection("lonely", [1]).map(|n| n);
    let error = unconsumed.execute("unconsumed").unwrap_err().to_string();
    assert!(error.contains("nothing consumes") && error.contains("lonely"), "{error}");

    let unread = env(1);
    let tag = OutputTag::<u64>::new("unread");
    let split = unread.from_collection("a", [1]).process(Split { odd: tag.clone() });
    let _ = split.side_output(&tag).map(|n| n);
    split.discard();
    let error = unread.execute("unread").unwrap_err().to_string();
    assert!(error.contains("nothing consumes") && error.contains("unread"), "{error}");

    let sideless = env(1);
    let mapped = sideless.from_collection("a", [1]).map(|n| n).name("doubled");
    mapped.side_output(&tag).discard();
    mapped.discard();
    let error = sideless.execute("sideless").unwrap_err().to_string();
    assert!(error.contains("doubled: it has no side outputs"), "{error}");

    let greedy = env(1);
    let split = greedy.from_collection("a", [1]).process(Split { odd: tag.clone() });
    split.side_output(&tag).discard();
    split.side_output(&tag).discard();
    split.discard();
    let error = greedy.execute("greedy").unwrap_err().to_string();
    assert!(error.contains("process: its side output \"unread\" is read twice"), "{error}");

    let forgotten = env(1);
    let split = forgotten.from_collection("a", [1]).process(Split { odd: tag.clone() });
    split.side_output(&tag).discard();
    let error = forgotten.execute("forgotten").unwrap_err().to_string();
    assert!(error.contains("nothing consumes the stream \"a -> process\""), "{error}");

    // Each of four subtasks would read all of it.
    let fourfold = env(4);
    let numbers = fourfold.from_collection("a", [1]).process(Split { odd: tag.clone() });
    numbers.side_output(&tag).map(|n| n).set_parallelism(4).discard();
    numbers.discard();
    let error = fourfold.execute("fourfold").unwrap_err().to_string();
    assert!(error.contains("\"a -> process -> (unread -> map -> discard, discard)\""), "{error}");
    assert!(error.contains("1 and 4 are given"), "{error}");

    let twice = env(1);
    twice.from_collection("a", [1]).uid("x").map(|n| n).uid("x").discard();
    assert!(twice.execute("twice").unwrap_err().to_string().contains("uid \"x\""));

    let wide = env(1).max_parallelism(4);
    wide.from_collection("a", [1]).rebalance().set_parallelism(5).discard();
    assert!(wide.execute("wide").unwrap_err().to_string().contains("max_parallelism 4"));

    assert!(env(1).execute("empty").unwrap_err().to_string().contains("no source"));
}
