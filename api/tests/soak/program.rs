//! Random programs: the job and what it must yield, put together side by side.

use crate::functions::{Thirds, TimedSink};
use crate::model::{self, Aggregate, Row, Windows, digest};
use crate::operators::{self, Exchange, Keyed, Lateness, Open, Placement};
use crate::random::{Random, mix};
use crate::watchdog::Watchdog;
use millstream::prelude::*;
use millstream::{Generator, JobStatus};

/// Streams grow no longer than this.
const MOST_ROWS: usize = 30_000;
const MOST_SUBTASKS: u64 = 4;

/// What is known of a stream's timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Times {
    /// Event time: it can be windowed.
    Exact,
    /// Partly the end of time: known, but of no use for windows.
    End,
    /// They depend on the order in which subtasks met.
    Unknown,
}

/// An open end: a stream and what it must carry.
struct End {
    stream: Open,
    rows: Vec<Row>,
    times: Times,
}

/// A sink and what it must have got.
struct Sunk {
    name: String,
    sink: TimedSink,
    rows: Vec<Row>,
    times: Times,
}

/// A program to be run.
pub struct Program {
    env: Environment,
    sunk: Vec<Sunk>,
    title: String,
}

impl Program {
    /// The program that a seed stands for.
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let settings = settings(&mut random);
        let mut config = Config::default();
        for (key, value) in &settings {
            config = config.set(key, value).expect("these settings are valid");
        }
        let mut composer = Composer {
            base: composer_base(&mut random),
            env: Environment::new(config),
            random,
            ends: Vec::new(),
            log: vec![format!("MILLSTREAM_SOAK_SEED={seed}"), format!("{settings:?}")],
        };
        for _ in 0..composer.random.within(1, 3) {
            composer.source();
        }
        for _ in 0..composer.random.within(1, 8) {
            composer.step();
        }
        composer.finish()
    }

    /// Runs it.
    ///
    /// # Panics
    /// If it yields anything else than it must, or hangs.
    pub fn check(self) {
        let Self { env, sunk, title } = self;
        let watchdog = Watchdog::new(title.clone());
        let job = env.start("soak").unwrap_or_else(|error| panic!("{title}\n{error}"));
        watchdog.started(job.metrics(), job.canceller());
        let result = job.wait();
        if let Some(report) = watchdog.ended() {
            panic!("{title}\nthe job hung:\n{report}");
        }
        let result = result.unwrap_or_else(|error| panic!("{title}\n{error}"));
        assert_eq!(result.status, JobStatus::Finished, "{title}");
        assert_eq!(result.metrics.counters.late(), 0, "{title}");
        let written: usize = sunk.iter().map(|s| s.rows.len()).sum();
        for Sunk { name, sink, mut rows, times } in sunk {
            let mut got = sink.take();
            if times == Times::Unknown {
                got.iter_mut().chain(&mut rows).for_each(|row| row.1 = 0);
            }
            got.sort_unstable();
            rows.sort_unstable();
            if got != rows {
                let missing = without(&rows, &got);
                let extra = without(&got, &rows);
                panic!(
                    "{title}\n{name} got {} of {} records; missing {}: {:?}; too many {}: {:?}",
                    got.len(),
                    rows.len(),
                    missing.len(),
                    &missing[..missing.len().min(5)],
                    extra.len(),
                    &extra[..extra.len().min(5)],
                );
            }
        }
        assert_eq!(result.metrics.sink_records(), written as u64, "{title}");
    }
}

/// What one sorted list has more than another.
fn without(rows: &[Row], others: &[Row]) -> Vec<Row> {
    let mut others = others.iter().peekable();
    let mut rest = Vec::new();
    for row in rows {
        while others.next_if(|other| *other < row).is_some() {}
        if others.next_if(|other| *other == row).is_none() {
            rest.push(*row);
        }
    }
    rest
}

/// Small batches, few credits, all idle policies: what makes streams wait for one another.
fn settings(random: &mut Random) -> Vec<(&'static str, String)> {
    let text = |value: u64| value.to_string();
    vec![
        ("slots", text(random.within(1, 4))),
        ("parallelism", text(random.within(1, MOST_SUBTASKS))),
        ("max_parallelism", text(random.pick(&[4, 5, 16, 128, 1_000]))),
        ("idle", random.pick(&["park", "spin 20us then park", "spin 2ms then park"]).to_owned()),
        ("pin", random.pick(&["true", "false"]).to_owned()),
        ("batch_bytes", text(random.pick(&[1, 64, 100, 512, 4_096, 32_768]))),
        ("credits", text(random.pick(&[2, 2, 3, 8]))),
        ("flush_interval", random.pick(&["1us", "100us", "1ms"]).to_owned()),
        ("latency_interval", random.pick(&["off", "1ms", "200ms"]).to_owned()),
    ]
}

/// Where event time begins: before, at and after the epoch, on and beside the bounds of windows.
fn composer_base(random: &mut Random) -> i64 {
    random.pick(&[0, 1_000_000, -1_000_003, 1_000_000_007])
}

struct Composer {
    env: Environment,
    random: Random,
    base: i64,
    ends: Vec<End>,
    log: Vec<String>,
}

impl Composer {
    fn subtasks(&mut self) -> u32 {
        self.random.within(1, MOST_SUBTASKS) as u32
    }

    fn exchange(&mut self) -> Exchange {
        self.random.pick(&Exchange::ALL)
    }

    fn placement(&mut self) -> Placement {
        Placement {
            keys: self.random.pick(&[1, 2, 7, 50, 1_000]),
            parallelism: self.subtasks(),
            exchange: self.exchange(),
            next: self.subtasks(),
        }
    }

    fn log(&mut self, words: String) {
        self.log.push(words);
    }

    fn add(&mut self, stream: Open, rows: Vec<Row>, times: Times) {
        self.ends.push(End { stream, rows, times });
    }

    /// Takes one of the open ends for what follows.
    fn take(&mut self) -> End {
        let index = self.random.within(0, self.ends.len() as u64 - 1) as usize;
        self.ends.swap_remove(index)
    }

    // ---- sources ----------------------------------------------------------------------------

    fn source(&mut self) {
        let count = match self.random.within(0, 9) {
            0 => 0,
            1 => 1,
            2..=7 => self.random.within(2, 1_500),
            _ => self.random.within(1_500, 12_000),
        };
        // Now and then all values are the same, or the times of many records are.
        let values = self.random.pick(&[1, 10, 1_000, 1 << 32]);
        let stride = self.random.pick(&[0, 1, 20, 2_000]);
        let disorder = self.random.pick(&[0, 0, 500, 20_000]);
        let mut time = self.base;
        let rows: Vec<Row> = (0..count)
            .map(|_| {
                time += self.random.within(0, stride) as i64;
                let behind = self.random.within(0, disorder) as i64;
                (self.random.next() % values, time - behind)
            })
            .collect();
        let strategy = WatermarkStrategy::bounded_out_of_orderness(
            Duration::from_nanos(disorder),
            |row: &Row| Timestamp::from_nanos(row.1),
        );
        let (exchange, subtasks, next) = (self.exchange(), self.subtasks(), self.subtasks());
        let kind = self.random.within(0, 3);
        self.log(format!(
            "source {kind}: {count} records, values below {values}, stride {stride}, disorder \
             {disorder}, {subtasks} subtasks, {exchange:?}, {next} subtasks"
        ));
        let given = rows.clone();
        let stream = match kind {
            0 => {
                let stream = self.env.from_collection("collection", given);
                let stream = stream.assign_timestamps(strategy).map(|row| row.0);
                operators::close(stream, exchange, next)
            }
            1 => {
                let stream = self
                    .env
                    .from_iterator("iterator", move |subtask, of| {
                        given.into_iter().skip(subtask as usize).step_by(of as usize)
                    })
                    .assign_timestamps(strategy)
                    .map(|row| row.0)
                    .set_parallelism(subtasks);
                operators::close(stream, exchange, next)
            }
            2 => {
                // At a rate, so that slots wait and wake; at most some 20 ms.
                let made = given.clone();
                let generator = Generator::new(move |n, _| made[n as usize])
                    .count(count)
                    .rate(50.0 * (count.max(20) as f64));
                let stream = self
                    .env
                    .generate("generator", generator)
                    .assign_timestamps(strategy)
                    .map(|row| row.0)
                    .set_parallelism(subtasks);
                operators::close(stream, exchange, next)
            }
            _ => {
                let operator = self.keyed_operator(Times::Exact);
                let placement = self.placement();
                let operator = operator.decided_by(&rows, placement.keys);
                self.log(format!("  fused with {operator:?} {placement:?}"));
                let stream = self
                    .env
                    .from_iterator("iterator", move |subtask, of| {
                        given.into_iter().skip(subtask as usize).step_by(of as usize)
                    })
                    .assign_timestamps(strategy)
                    .map(|row| row.0)
                    .set_parallelism(subtasks);
                let stream = operators::keyed(stream, operator, placement);
                let (rows, times) = modelled(&rows, operator, placement.keys);
                return self.add(stream, rows, times);
            }
        };
        self.add(stream, rows, Times::Exact);
    }

    // ---- operators --------------------------------------------------------------------------

    fn step(&mut self) {
        let End { stream, rows, times } = self.take();
        match self.random.within(0, 9) {
            0 => self.stateless(stream, rows, times),
            1 => self.side_output(stream, rows, times),
            2 => self.share(stream, rows, times),
            3 if rows.len() * 3 <= MOST_ROWS => self.broadcast(stream, rows, times),
            4 if !self.ends.is_empty() => self.union(stream, rows, times),
            5 if !self.ends.is_empty() && times == Times::Exact => self.pair(stream, rows),
            _ => self.keyed(stream, rows, times),
        }
    }

    fn stateless(&mut self, stream: Open, rows: Vec<Row>, times: Times) {
        let (exchange, next) = (self.exchange(), self.subtasks());
        let slow = self.random.one_in(4);
        let salt = self.random.next();
        self.log(format!("stateless: slow {slow}, {exchange:?}, {next}"));
        let map = move |value: u64| digest([value, salt]);
        let copies = if rows.len() * 2 > MOST_ROWS { 2 } else { 4 };
        let stream = stream
            .inspect(move |value| {
                if slow && mix(*value).is_multiple_of(64) {
                    (0..2_000).for_each(|_| std::hint::spin_loop());
                }
            })
            .map(map)
            .filter(|value| !value.is_multiple_of(5))
            .filter_map(|value| (!value.is_multiple_of(7)).then_some(value))
            .flat_map(move |value, out| (0..value % copies).for_each(|n| out.collect(value ^ n)))
            .try_map(Ok::<_, std::convert::Infallible>);
        let rows = rows
            .into_iter()
            .map(|(value, time)| (map(value), time))
            .filter(|(value, _)| !value.is_multiple_of(5) && !value.is_multiple_of(7))
            .flat_map(|(value, time)| (0..value % copies).map(move |n| (value ^ n, time)))
            .collect();
        self.add(operators::close(stream, exchange, next), rows, times);
    }

    fn side_output(&mut self, stream: Open, rows: Vec<Row>, times: Times) {
        let (exchange, next) = (self.exchange(), self.subtasks());
        let (side_exchange, beside) = (self.exchange(), self.subtasks());
        self.log(format!("side output: {exchange:?}, {next}; {side_exchange:?}, {beside}"));
        let tag = OutputTag::new("thirds");
        let main = stream.process(Thirds(tag.clone()));
        let side = main.side_output(&tag).map(|value| value);
        let (thirds, others) = rows.into_iter().partition(|row| row.0.is_multiple_of(3));
        self.add(operators::close(side, side_exchange, beside), thirds, times);
        self.add(operators::close(main, exchange, next), others, times);
    }

    fn share(&mut self, stream: Open, rows: Vec<Row>, times: Times) {
        let shared = stream.share();
        let consumers = self.random.within(1, 3);
        self.log(format!("share: {consumers} consumers"));
        for _ in 0..consumers {
            let subtasks = self.subtasks();
            self.add(shared.stream().set_parallelism(subtasks), rows.clone(), times);
        }
    }

    fn broadcast(&mut self, stream: Open, rows: Vec<Row>, times: Times) {
        let copies = self.random.within(1, 3);
        self.log(format!("broadcast: {copies} subtasks"));
        let stream = stream.broadcast().set_parallelism(copies as u32).map(|value| value);
        let rows = rows.into_iter().flat_map(|row| (0..copies).map(move |_| row)).collect();
        let (exchange, next) = (self.exchange(), self.subtasks());
        self.add(operators::close(stream, exchange, next), rows, times);
    }

    fn union(&mut self, stream: Open, mut rows: Vec<Row>, times: Times) {
        let other = self.take();
        let subtasks = self.subtasks();
        self.log(format!(
            "union: {} and {} records, {subtasks} subtasks",
            rows.len(),
            other.rows.len()
        ));
        rows.extend(other.rows);
        let stream = stream.union(other.stream).set_parallelism(subtasks);
        self.add(stream, rows, times.max(other.times));
    }

    fn pair(&mut self, stream: Open, rows: Vec<Row>) {
        let other = self.take();
        let placement = self.placement();
        if other.times != Times::Exact {
            self.ends.push(other);
            return self.keyed(stream, rows, Times::Exact);
        }
        if self.random.one_in(2) {
            let size = self.random.within(1, 5_000);
            self.log(format!("connect: size {size}, {placement:?}"));
            let paired = model::buckets(&rows, &other.rows, placement.keys, size);
            let stream = operators::connect(stream, other.stream, size, placement);
            return self.add(stream, paired, Times::Exact);
        }
        let windows = self.windows(Times::Exact);
        match model::join(&rows, &other.rows, placement.keys, windows, MOST_ROWS) {
            Some(pairs) => {
                self.log(format!("join: {windows:?}, {placement:?}, {} pairs", pairs.len()));
                let stream = operators::join(stream, other.stream, windows, placement);
                let global = matches!(windows, Windows::Global);
                self.add(stream, pairs, if global { Times::End } else { Times::Exact });
            }
            None => {
                self.ends.push(other);
                self.keyed(stream, rows, Times::Exact);
            }
        }
    }

    fn keyed(&mut self, stream: Open, rows: Vec<Row>, times: Times) {
        let operator = self.keyed_operator(times);
        let placement = self.placement();
        let fused = self.random.one_in(2);
        let rows = if fused {
            rows.into_iter()
                .map(|(value, time)| (digest([value]), time))
                .filter(|row| row.0 % 3 != 0)
                .collect()
        } else {
            rows
        };
        let operator = operator.decided_by(&rows, placement.keys);
        self.log(format!("{operator:?} over {} records, fused {fused}, {placement:?}", rows.len()));
        let (rows, times) = modelled(&rows, operator, placement.keys);
        let stream = if fused {
            let stream = stream.map(|value| digest([value])).filter(|value| *value % 3 != 0);
            operators::keyed(stream, operator, placement)
        } else {
            operators::keyed(stream, operator, placement)
        };
        self.add(stream, rows, times);
    }

    /// A keyed operator that is deterministic on a stream whose times are as they are.
    fn keyed_operator(&mut self, times: Times) -> Keyed {
        let aggregate = self.random.pick(&Aggregate::ALL);
        let kinds = if times == Times::Exact { 10 } else { 6 };
        match self.random.within(0, kinds) {
            0 => Keyed::Count,
            1 => Keyed::Reduce,
            2 => Keyed::Sum,
            3 => Keyed::Distinct,
            4 => {
                let aggregate =
                    self.random.pick(&[Aggregate::Count, Aggregate::Sum, Aggregate::Reduce]);
                Keyed::WindowAll { windows: self.windows(times), aggregate }
            }
            5 => Keyed::CountWindow {
                count: self.random.pick(&[1, 2, 3, 10, 500]),
                aggregate: self.random.one_in(2),
            },
            6 | 7 => self.window(times, aggregate),
            8 => Keyed::Buckets { size: self.random.within(1, 5_000) },
            _ => {
                let gap = self.random.pick(&[1, 30, 1_000, 100_000]);
                let (aggregate, lateness) = self.lateness(aggregate);
                Keyed::Sessions { gap, aggregate, lateness }
            }
        }
    }

    fn window(&mut self, times: Times, aggregate: Aggregate) -> Keyed {
        let (aggregate, lateness) = self.lateness(aggregate);
        Keyed::Window { windows: self.windows(times), aggregate, lateness }
    }

    /// With a side output only sums and whole windows are tried.
    fn lateness(&mut self, aggregate: Aggregate) -> (Aggregate, Lateness) {
        match self.random.within(0, 3) {
            0 => (aggregate, Lateness::Allowed(self.random.within(0, 10_000))),
            1 => (self.random.pick(&[Aggregate::Process, Aggregate::Sum]), Lateness::SideOutput),
            _ => (aggregate, Lateness::None),
        }
    }

    fn windows(&mut self, times: Times) -> Windows {
        if times != Times::Exact {
            return Windows::Global;
        }
        let size = self.random.pick(&[1, 100, 999, 5_000, 1_000_000]);
        let offset = self.random.pick(&[0, 0, 17, 12_345]);
        match self.random.within(0, 4) {
            0 => Windows::Global,
            1 | 2 => Windows::Tumbling { size, offset },
            // At most some twenty windows overlap; windows with gaps between them are tried too.
            _ => {
                let slide = self.random.within(size.div_ceil(20), size + size / 2);
                Windows::Sliding { size, slide, offset }
            }
        }
    }

    // ---- the end ----------------------------------------------------------------------------

    fn finish(mut self) -> Program {
        let mut sunk = Vec::new();
        for (index, End { stream, rows, times }) in
            std::mem::take(&mut self.ends).into_iter().enumerate()
        {
            let name = format!("sink {index}");
            let blocks_every = self.random.pick(&[0, 0, 1, 100]);
            self.log(format!(
                "{name}: {} records, blocks every {blocks_every}, times {times:?}",
                rows.len()
            ));
            let sink = TimedSink::new(blocks_every);
            stream.sink_to(&name, sink.clone());
            sunk.push(Sunk { name, sink, rows, times });
        }
        Program { env: self.env, sunk, title: self.log.join("\n") }
    }
}

/// What an operator must make of a stream, and what is known of the result's times.
fn modelled(rows: &[Row], operator: Keyed, keys: u64) -> (Vec<Row>, Times) {
    let windowed = |windows| {
        if matches!(windows, Windows::Global) { Times::End } else { Times::Exact }
    };
    match operator {
        Keyed::Count => (model::running_count(rows, keys), Times::Unknown),
        Keyed::Reduce => (model::reduced(rows, keys), Times::End),
        Keyed::Sum => (model::summed(rows, keys), Times::End),
        Keyed::Distinct => (model::distinct(rows), Times::Unknown),
        Keyed::CountWindow { count, .. } => {
            (model::count_windows(rows, keys, count), Times::Unknown)
        }
        Keyed::Buckets { size } => (model::buckets(rows, &[], keys, size), Times::Exact),
        Keyed::Window { windows, aggregate, .. } => {
            (model::window(rows, keys, windows, aggregate), windowed(windows))
        }
        Keyed::WindowAll { windows, aggregate } => {
            (model::window(rows, 1, windows, aggregate), windowed(windows))
        }
        Keyed::Sessions { gap, aggregate, .. } => {
            (model::sessions(rows, keys, gap, aggregate), Times::Exact)
        }
    }
}
