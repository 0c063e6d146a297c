//! The exchange of a job, by the hash of a key.

use super::{LinkFigures, Told};
use crate::process::tell;
use crate::two_hosts::CountingTime;
use crate::{BenchError, Session};
use millstream::connector::{Sink, SinkContext, SinkWriter};
use millstream::prelude::*;
use millstream::{RunningJob, record};
use millstream_types::{KeyGroup, KeyGroupAssignment, KeyGroupRange, SubtaskIndex, hash_key};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What rows are partitioned by, as a keyed stream's are: so many groups for the slots of two processes.
const GROUPS: u16 = 128;
const SLOTS: u16 = 2;
/// Keys of each source.
const KEYS: usize = 1_024;
/// How often the rows that have arrived are counted.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// 40 bytes.
#[record]
#[derive(Clone, Copy)]
struct Row {
    key: u64,
    rest: [u64; 4],
}

/// Runs the job, tells how many bytes have arrived here, and goes on until it is killed.
pub(super) fn run(duration: Duration, session: &Session) -> Result<(), BenchError> {
    let config = session.config.clone().set("idle", "spin")?;
    let assignment = KeyGroupAssignment::new(SLOTS, GROUPS);
    let assignment = assignment.expect("there are fewer slots than key groups");
    let owners = assignment.owners();
    let rows = Arc::new(AtomicU64::new(0));
    let env = millstream::Environment::new(config);
    env.from_iterator("rows", move |subtask, parallelism| {
        let other = SubtaskIndex((subtask + 1) % parallelism);
        let keys = keys_of(assignment.range(other));
        let mut at = 0;
        std::iter::from_fn(move || {
            at = (at + 1) % KEYS;
            Some(Row { key: keys[at], rest: [at as u64; 4] })
        })
    })
    .partition_custom(move |row, _| usize::from(owners[usize::from(group(row.key).0)]))
    .sink_to("arrived", Arrived { rows: Arc::clone(&rows) });
    let job = env.start("shuffle")?;
    session.interrupt.cancel(job.canceller());
    let size = size_of::<Row>() as u64;
    let mut time = None;
    loop {
        session.check()?;
        if job.has_ended() {
            job.wait()?;
            return Err(BenchError::Different("the job has ended before its time".to_owned()));
        }
        let bytes = rows.load(Ordering::Relaxed) * size;
        // From when something arrives, as the processes wait for each other.
        if bytes > 0 {
            let time = time.get_or_insert_with(|| CountingTime::start(duration));
            if !time.lasts(bytes) {
                break tell(&Told { bytes_per_second: time.per_second(), links: links(&job) })?;
            }
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "between two looks, and it can be cancelled"
        )]
        std::thread::sleep(LOOK_INTERVAL);
    }
    // For the other process.
    job.wait()?;
    Ok(())
}

/// What the connections of this process have counted.
fn links(job: &RunningJob) -> LinkFigures {
    let mut sum = LinkFigures::default();
    job.metrics().slots.iter().for_each(|slot| sum.add(slot.links().into()));
    sum
}

#[inline]
fn group(key: u64) -> KeyGroup {
    KeyGroup::of(hash_key(&key), GROUPS)
}

/// Keys of some groups.
fn keys_of(groups: KeyGroupRange) -> [u64; KEYS] {
    let mut keys = (0..).filter(|key| groups.contains(group(*key)));
    std::array::from_fn(|_| keys.next().expect("each group has keys without end"))
}

/// Looks at rows, and counts those that arrive in this process: a job's metrics are of all.
#[derive(Clone)]
struct Arrived {
    rows: Arc<AtomicU64>,
}

impl Sink<Row> for Arrived {
    type Writer = ArrivedWriter;

    fn open(self, _: &SinkContext) -> Result<ArrivedWriter, BoxError> {
        Ok(ArrivedWriter { rows: self.rows, own: 0 })
    }
}

struct ArrivedWriter {
    rows: Arc<AtomicU64>,
    own: u64,
}

impl SinkWriter<Row> for ArrivedWriter {
    #[inline]
    fn write(&mut self, row: Row, _: Timestamp) -> Result<(), BoxError> {
        black_box(row.key);
        self.own += 1;
        // There is one writer, and whoever looks does so seldom.
        self.rows.store(self.own, Ordering::Relaxed);
        Ok(())
    }
}
