//! The source that does as it is told.

use super::{Fault, NOT_MEASURED, Order, Shared, Update, lock};
use crate::state::mix;
use millstream::connector::{
    BoxError, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
    Timestamp,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Records per poll at the most.
const RECORDS_PER_POLL: u64 = 4_096;

#[derive(Clone)]
pub(super) struct Updates(pub(super) Arc<Shared>);

impl Source for Updates {
    type Out = Update;
    type Reader = UpdatesReader;

    fn open(self, context: &SourceContext) -> Result<UpdatesReader, BoxError> {
        // All subtasks have the same clock.
        let _ = self.0.clock.set(context.clock);
        lock(&self.0.wakers).push(context.waker.clone());
        let share = Share {
            keys: self.0.keys,
            subtask: u64::from(context.subtask.0),
            subtasks: u64::from(context.parallelism),
        };
        Ok(UpdatesReader {
            shared: self.0,
            share,
            clock: context.clock,
            version: 0,
            task: Task::Wait,
        })
    }
}

/// The places that one subtask visits: every so-many-th.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) keys: u64,
    pub(crate) subtask: u64,
    pub(crate) subtasks: u64,
}

/// Keys in the order of visits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visits {
    keys: u64,
    first: u64,
    next: u64,
    step: u64,
    /// How many keys there are before it begins anew, and how many are left.
    count: u64,
    left: u64,
}

impl Visits {
    /// The share of the places from `first` on in one of the orders, `count` of all subtasks.
    pub(crate) fn new(share: Share, order: u64, first: u64, count: u64) -> Self {
        let Share { keys, subtask, subtasks } = share;
        let stride = stride(keys, order);
        // Below 2^64: both are below 2^32.
        let at = |place: u64| place % keys * stride % keys;
        let own = count.saturating_sub(subtask).div_ceil(subtasks);
        let first = at(first % keys + subtask);
        Self { keys, first, next: first, step: at(subtasks), count: own, left: own }
    }

    /// How many keys there are before it begins anew.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Passes over so many keys.
    pub(crate) fn skip(&mut self, keys: u64) {
        let into = keys % self.count.max(1);
        self.left = self.count - into;
        // Wide, as a step is below 2^32 and so is the count, and what is added fits.
        self.next = ((u128::from(self.first) + u128::from(into) * u128::from(self.step))
            % u128::from(self.keys)) as u64;
    }

    /// The next key. There must be some.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        if self.left == 0 {
            (self.next, self.left) = (self.first, self.count);
        }
        self.left -= 1;
        let key = self.next;
        self.next += self.step;
        if self.next >= self.keys {
            self.next -= self.keys;
        }
        key
    }
}

/// The distance of keys that are visited one after the other: about 0.62 of all, or in other orders
/// another part, and without a factor in common with their number, so that each is visited.
fn stride(keys: u64, order: u64) -> u64 {
    let divisor = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let part = match order {
        0 => 0.618_033_988_75,
        // Never neighbours.
        _ => 0.25 + 0.5 * (mix(order) as f64 / u64::MAX as f64),
    };
    let mut stride = ((keys as f64 * part) as u64).max(1);
    while divisor(stride, keys) != 1 {
        stride += 1;
    }
    stride
}

enum Task {
    Wait,
    Once { visits: Visits, left: u64 },
    Visit { visits: Visits, phase: u32, pace: Option<Pace> },
    Random { first: Option<u64>, number: u64 },
    Fail(Fault),
    End,
}

/// When records are due.
struct Pace {
    start: Timestamp,
    nanos_per_record: f64,
    emitted: u64,
}

impl Pace {
    fn next_due(&self) -> Timestamp {
        let nanos = (self.emitted as f64 * self.nanos_per_record) as i64;
        Timestamp::from_nanos(self.start.as_nanos().saturating_add(nanos))
    }
}

pub(super) struct UpdatesReader {
    shared: Arc<Shared>,
    share: Share,
    clock: ProcessingClock,
    version: u64,
    task: Task,
}

impl UpdatesReader {
    fn begin(&self, order: &Order) -> Task {
        let share = self.share;
        match *order {
            Order::Wait => Task::Wait,
            Order::End => Task::End,
            Order::Fill => {
                let visits = Visits::new(share, 0, 0, share.keys);
                Task::Once { visits, left: visits.count() }
            }
            Order::Visit { phase, order, first, count, rate } => {
                let visits = Visits::new(share, order, first, count);
                let pace = rate.map(|rate| Pace {
                    start: self.clock.now(),
                    nanos_per_record: 1e9 * share.subtasks as f64 / rate,
                    emitted: 0,
                });
                match visits.count() {
                    0 => Task::Wait,
                    _ => Task::Visit { visits, phase, pace },
                }
            }
            Order::Fail { how, .. } => Task::Fail(how),
            Order::Probe { key } => {
                Task::Random { first: (share.subtask == 0).then_some(key), number: share.subtask }
            }
        }
    }
}

impl SourceReader for UpdatesReader {
    type Out = Update;

    fn poll(&mut self, out: &mut impl SourceOutput<Update>) -> Result<SourceStatus, BoxError> {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.version {
            let mut order = lock(&self.shared.order);
            self.task = self.begin(&order);
            if let Order::Fail { then, .. } = *order {
                *order = Order::Probe { key: then };
            }
            drop(order);
            self.version = version;
        }
        let waits = Ok(SourceStatus::Pending { until: Timestamp::MAX });
        let room = RECORDS_PER_POLL.min(out.room());
        let unmeasured = |key| Update { key, phase: 0, due: NOT_MEASURED };
        match &mut self.task {
            Task::Wait => return waits,
            Task::End => return Ok(SourceStatus::Finished),
            Task::Fail(Fault::Error) => return Err("it was told to fail".into()),
            Task::Fail(Fault::Panic) => panic!("it was told to panic"),
            Task::Once { left: 0, .. } => return waits,
            Task::Once { visits, left } => {
                let now = room.min(*left);
                *left -= now;
                (0..now).for_each(|_| out.collect(unmeasured(visits.next())));
            }
            Task::Visit { visits, pace: None, .. } => {
                (0..room).for_each(|_| out.collect(unmeasured(visits.next())));
            }
            Task::Visit { visits, phase, pace: Some(pace) } => {
                let now = self.clock.now();
                for _ in 0..room {
                    let due = pace.next_due();
                    if due > now {
                        return Ok(SourceStatus::Pending { until: due });
                    }
                    let (key, phase) = (visits.next(), *phase);
                    out.collect(Update { key, phase, due: due.as_nanos() });
                    pace.emitted += 1;
                }
            }
            Task::Random { first, number } => {
                if let Some(key) = first.take() {
                    out.collect(unmeasured(key));
                }
                for _ in 1..room {
                    out.collect(unmeasured(mix(*number ^ 0x5eed) % self.share.keys));
                    *number += self.share.subtasks;
                }
            }
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(Vec::new())
    }
}
