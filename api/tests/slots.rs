//! Slots as a host sees them: the threads they leave, what they cost while idle, how they wake, and
//! how many there may be.

mod child;
mod warnings;

use child::{alone, descriptors, resident_bytes, threads, until, until_slots_sleep};
use millstream::connector::{
    SlotWaker, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
};
use millstream::prelude::*;
use millstream::{Generator, JobStatus};
use millstream_runtime::job::process_cpu_time;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use warnings::warnings_of;

fn env(slots: u32, idle: &str) -> Environment {
    Environment::new(Config::default().with_slots(slots).set("idle", idle).unwrap())
}

/// More slots than there are cores, whichever way a quota of cores is rounded.
fn too_many() -> u32 {
    2 * std::thread::available_parallelism().unwrap().get() as u32 + 1
}

/// Emits as many records as were put into it, and nothing on its own.
#[derive(Clone, Default)]
struct Tap {
    available: Arc<AtomicU64>,
    wakers: Arc<Mutex<Vec<SlotWaker>>>,
}

impl Tap {
    fn put(&self, records: u64) {
        self.available.fetch_add(records, Ordering::SeqCst);
        self.wakers.lock().unwrap().iter().for_each(SlotWaker::wake);
    }
}

impl Source for Tap {
    type Out = u64;
    type Reader = TapReader;

    fn open(self, context: &SourceContext) -> Result<TapReader, BoxError> {
        self.wakers.lock().unwrap().push(context.waker.clone());
        Ok(TapReader { available: self.available })
    }
}

struct TapReader {
    available: Arc<AtomicU64>,
}

impl SourceReader for TapReader {
    type Out = u64;

    fn poll(&mut self, out: &mut impl SourceOutput<u64>) -> Result<SourceStatus, BoxError> {
        let numbers = self.available.swap(0, Ordering::SeqCst);
        (0..numbers).for_each(|number| out.collect(number));
        Ok(SourceStatus::Pending { until: Timestamp::MAX })
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(Vec::new())
    }
}

/// Cannot be opened.
#[derive(Clone)]
struct Sealed;

impl Source for Sealed {
    type Out = u64;
    type Reader = TapReader;

    fn open(self, _: &SourceContext) -> Result<TapReader, BoxError> {
        Err("sealed".into())
    }
}

/// Runs a job over an exchange that ends, however it ends.
fn run(ending: &str, idle: &str) -> Result<JobStatus, JobError> {
    let env = env(3, idle);
    let generator = Generator::new(|n, _| n);
    let generator = match ending {
        "cancelled" | "dropped" => generator,
        _ => generator.count(50_000),
    };
    let ending_of_function = ending.to_owned();
    env.generate("numbers", generator)
        .rebalance()
        .try_map(move |n| match &*ending_of_function {
            "failed" if n == 40_000 => Err("enough"),
            "panicked" if n == 40_000 => panic!("enough"),
            _ => Ok(n),
        })
        .key_by(|n| n % 100)
        .count()
        .discard();
    if ending == "not opened" {
        env.from_source("sealed", Sealed).discard();
    }
    match ending {
        "cancelled" | "dropped" => {
            let job = env.start(ending)?;
            until("the job runs", || job.metrics().sink_records() > 1_000);
            if ending == "dropped" {
                return Ok(JobStatus::Canceled);
            }
            job.canceller().cancel();
            Ok(job.wait()?.status)
        }
        _ => Ok(env.execute(ending)?.status),
    }
}

#[test]
fn nothing_is_left_however_a_job_ended() {
    alone("nothing_is_left_however_a_job_ended", || {
        let before = threads().len();
        // What is set up once per process is no leak.
        run("finished", "park").unwrap();
        until("the first job's threads have ended", || threads().len() == before);
        let before = (before, descriptors());
        for idle in ["park", "spin 20us then park"] {
            for ending in ["finished", "failed", "panicked", "not opened", "cancelled", "dropped"] {
                let ended = match run(ending, idle) {
                    Ok(JobStatus::Finished) => "finished",
                    Ok(JobStatus::Stopped) => "stopped",
                    Ok(JobStatus::Canceled) if ending == "dropped" => "dropped",
                    Ok(JobStatus::Canceled) => "cancelled",
                    Err(JobError::Panicked { .. }) => "panicked",
                    Err(JobError::Failed { operator, .. }) if operator == "sealed" => "not opened",
                    Err(JobError::Failed { .. }) => "failed",
                    Err(other) => panic!("{other}"),
                };
                assert_eq!(ended, ending);
                // A thread that was waited for stays listed until the kernel has put it away.
                until(&format!("nothing is left of a job: {ending}"), || {
                    (threads().len(), descriptors()) == before
                });
            }
        }
    });
}

/// Slots without work over an exchange of each with each, for three seconds.
#[expect(clippy::disallowed_methods, reason = "what idleness costs in a time is what is measured")]
fn idle_slots_cost_next_to_nothing(idle: Option<&str>) {
    const SLOTS: u32 = 64;
    const WATCHED: Duration = Duration::from_secs(3);
    let config = Config::default().with_slots(SLOTS);
    let config = match idle {
        Some(policy) => config.set("idle", policy).unwrap(),
        None => config,
    };
    let env = Environment::new(config);
    env.from_source("silence", Tap::default()).key_by(|n| *n).count().discard();
    let job = env.start("idle").unwrap();
    until_slots_sleep();

    let cpu = process_cpu_time();
    std::thread::sleep(WATCHED);
    let cpu = process_cpu_time() - cpu;
    let resident = resident_bytes();

    job.canceller().cancel();
    assert_eq!(job.wait().unwrap().status, JobStatus::Canceled);
    let share = cpu.as_secs_f64() / WATCHED.as_secs_f64();
    println!("{:.2} % of a core, {} MiB", 100.0 * share, resident >> 20);
    assert!(share < 0.01, "{SLOTS} idle slots took {cpu:?} of {WATCHED:?}");
    assert!(resident < 300 << 20, "{SLOTS} idle slots hold {} MiB", resident >> 20);
}

#[test]
fn parking_slots_cost_next_to_nothing_while_idle() {
    alone("parking_slots_cost_next_to_nothing_while_idle", || {
        idle_slots_cost_next_to_nothing(Some("park"));
    });
}

#[test]
fn slots_cost_next_to_nothing_while_idle_as_they_are_set_by_default() {
    alone("slots_cost_next_to_nothing_while_idle_as_they_are_set_by_default", || {
        idle_slots_cost_next_to_nothing(None);
    });
}

#[test]
fn a_slot_that_sleeps_wakes_for_every_record() {
    alone("a_slot_that_sleeps_wakes_for_every_record", || {
        let env = env(2, "park");
        let tap = Tap::default();
        let numbers = env.from_source("tap", tap.clone()).set_parallelism(1);
        // One record wakes one slot for the source, and the other for what is behind the exchange.
        numbers.partition_custom(|_, targets| targets - 1).map(|n| n).discard();
        let job = env.start("tap").unwrap();
        for round in 1..=100 {
            until_slots_sleep();
            tap.put(1);
            until("the record arrives", || job.metrics().sink_records() == round);
        }
        // Many at once, and again while the slots fall asleep or wake up.
        for round in 1..=1_000 {
            tap.put(1 + round % 5);
        }
        let all = 100 + (1..=1_000).map(|round| 1 + round % 5).sum::<u64>();
        until("all records arrive", || job.metrics().sink_records() == all);
        job.canceller().cancel();
        assert_eq!(job.wait().unwrap().status, JobStatus::Canceled);
    });
}

/// The cores that a thread of this process may run on, as the system lists them.
fn cores_of(name: &str) -> String {
    let of_thread = |task: std::io::Result<std::fs::DirEntry>| {
        let task = task.ok()?.path();
        let is_it = std::fs::read_to_string(task.join("comm")).ok()?.starts_with(name);
        let status = std::fs::read_to_string(task.join("status")).ok().filter(|_| is_it)?;
        let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some(cores.trim().to_owned())
    };
    std::fs::read_dir("/proc/self/task").unwrap().find_map(of_thread).unwrap_or_default()
}

#[test]
fn what_writes_checkpoints_keeps_off_the_slots_core() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return eprintln!("skipped: there is only one core");
    }
    alone("what_writes_checkpoints_keeps_off_the_slots_core", || {
        let folder = tempfile::tempdir().unwrap();
        let start = |pin: &str| {
            let config = Config::default()
                .with_slots(1)
                .set("checkpoint_dir", &folder.path().join(pin).to_string_lossy())
                .and_then(|config| config.set("pin", pin))
                .unwrap();
            let env = Environment::new(config);
            env.from_source("tap", Tap::default()).discard();
            let job = env.start("tap").unwrap();
            until("the threads run", || !cores_of("ms-segments").is_empty());
            job
        };
        let everywhere = cores_of("");
        let job = start("true");
        let slot = cores_of("slot-0");
        assert!(slot.parse::<usize>().is_ok(), "a slot has one core: {slot}");
        for thread in ["ms-segments", "checkpoints", "job"] {
            let left = || {
                let cores = cores_of(thread);
                cores != everywhere && cores.split(',').all(|range| range != slot)
            };
            // It moves when it begins to run.
            until(&format!("{thread} has left core {slot}"), left);
        }
        job.canceller().cancel();
        job.wait().unwrap();

        let job = start("false");
        for thread in ["slot-0", "ms-segments", "checkpoints", "job"] {
            // A thread has its name when it begins to run.
            until(&format!("{thread} runs anywhere"), || cores_of(thread) == everywhere);
        }
        job.canceller().cancel();
        job.wait().unwrap();
    });
}

#[test]
fn more_slots_than_cores_work_with_one_warning() {
    let slots = too_many();
    for idle in ["park", "spin 20us then park"] {
        let warnings = warnings_of(|| {
            let env = env(slots, idle);
            let numbers = move |i: u32, n: u32| (0..20_000u64).skip(i as usize).step_by(n as usize);
            let counts = env.from_iterator("numbers", numbers).key_by(|n| n % 50).count().collect();
            env.execute("crowded").unwrap();
            let mut last: Vec<_> = counts.take().into_iter().filter(|(_, n)| *n == 400).collect();
            last.sort();
            assert_eq!(last, (0..50).map(|key| (key, 400)).collect::<Vec<_>>());
        });
        let crowded = |words: &String| words.contains(&format!("{slots} slots"));
        assert_eq!(warnings.iter().filter(|words| crowded(words)).count(), 1, "{warnings:?}");
    }
}

#[test]
fn as_many_slots_as_cores_work_without_a_warning_about_them() {
    let warnings = warnings_of(|| {
        let env = env(1, "park");
        env.from_collection("numbers", 0..10).discard();
        env.execute("alone").unwrap();
    });
    assert!(!warnings.iter().any(|words| words.contains("share")), "{warnings:?}");
}

/// What a job with this many slots says instead of starting.
fn refusal(slots: u32, idle: &str) -> String {
    let env = env(slots, idle);
    env.from_source("silence", Tap::default()).discard();
    match env.start("refused") {
        Err(error @ JobError::Invalid(_)) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{slots} slots start"),
    }
}

#[test]
fn slots_without_a_core_must_not_spin() {
    let words = refusal(too_many(), "spin");
    for part in [&*format!("{} slots cannot spin", too_many()), "use at most", "\"park\""] {
        assert!(words.contains(part), "{words}");
    }
}

/// They would take terabytes: it must be seen before the first is made.
#[test]
fn channels_that_no_memory_holds_are_refused() {
    const SUBTASKS: u32 = 30_000;
    let env = env(1, "park").max_parallelism(32_000);
    let numbers = env.from_iterator("numbers", |_, _| 0..10u64).set_parallelism(SUBTASKS);
    numbers.key_by(|n| *n).count().set_parallelism(SUBTASKS).discard();
    let words = env.execute("wide").unwrap_err().to_string();
    for part in ["900000000 channels", "from the start", "set_parallelism", "credits"] {
        assert!(words.contains(part), "{words}");
    }
}

#[test]
fn a_job_without_slots_is_refused() {
    let words = refusal(0, "park");
    assert!(words.contains("at least one slot; set slots to 1 or more"), "{words}");
}

/// Key groups are the most that state can be split over; slots beyond them would have none.
#[test]
fn more_slots_than_key_groups_are_refused() {
    let words = refusal(129, "park");
    for part in ["has parallelism 129", "max_parallelism 128", "number of slots"] {
        assert!(words.contains(part), "{words}");
    }
}
