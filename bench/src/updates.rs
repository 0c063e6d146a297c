//! A keyed job that counts the updates of its keys, in any number of processes, and checks each count.

use crate::steered::{Counter, Share, Visits};
use millstream::connector::{
    ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus, decode_item,
    encode_item,
};
use millstream::prelude::*;
use millstream::record;

/// Records per poll at the most.
const RECORDS_PER_POLL: u64 = 4_096;

/// An update of a key.
#[record]
#[derive(Clone, Copy)]
pub(crate) struct Update {
    pub(crate) key: u64,
    /// How often the key was updated then, with this one.
    pub(crate) count: u64,
}

/// Updates of each key, then of each key again, and so on.
#[derive(Clone)]
pub(crate) struct Updates {
    pub(crate) keys: u64,
    /// Updates per second of each source once all keys are there, if there are to be so many.
    pub(crate) rate: Option<f64>,
}

impl Source for Updates {
    type Out = Update;
    type Reader = UpdatesReader;

    fn open(self, context: &SourceContext) -> Result<UpdatesReader, BoxError> {
        let (subtask, parallelism) = (context.subtask.0, context.parallelism);
        let share =
            Share { keys: self.keys, subtask: subtask.into(), subtasks: parallelism.into() };
        let mut visits = Visits::new(share, 0, 0, self.keys);
        let mut emitted = 0;
        for item in context.restored.iter().flat_map(|items| items.iter()) {
            let (of, count) = decode_item::<(u32, u64)>(item)?;
            if of == subtask {
                emitted = count;
                visits.skip(count);
            }
        }
        let (rate, clock) = (self.rate, context.clock);
        Ok(UpdatesReader { subtask, visits, emitted, clock, rate, paced: None })
    }
}

pub(crate) struct UpdatesReader {
    subtask: u32,
    visits: Visits,
    emitted: u64,
    clock: ProcessingClock,
    rate: Option<f64>,
    /// Since when the rate is fixed, and how many had been emitted then.
    paced: Option<(Timestamp, u64)>,
}

impl UpdatesReader {
    /// When the next one is due, if it is not at once.
    fn due(&mut self) -> Option<Timestamp> {
        let rate = self.rate?;
        if self.emitted < self.visits.count() {
            return None;
        }
        let (since, before) = *self.paced.get_or_insert_with(|| (self.clock.now(), self.emitted));
        let nanos = (self.emitted - before) as f64 / rate * 1e9;
        Some(Timestamp::from_nanos(since.as_nanos() + nanos as i64))
    }
}

impl SourceReader for UpdatesReader {
    type Out = Update;

    fn poll(&mut self, out: &mut impl SourceOutput<Update>) -> Result<SourceStatus, BoxError> {
        let now = self.clock.now();
        for _ in 0..RECORDS_PER_POLL.min(out.room()) {
            if let Some(due) = self.due().filter(|due| *due > now) {
                return Ok(SourceStatus::Pending { until: due });
            }
            let count = 1 + self.emitted / self.visits.count();
            out.collect(Update { key: self.visits.next(), count });
            self.emitted += 1;
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(vec![encode_item(&(self.subtask, self.emitted))?])
    }
}

/// Counts updates of a key, and passes them on. A count that is not the update's fails the job.
pub(crate) struct Count {
    pub(crate) counter: ValueState<u64, Counter>,
}

impl KeyedProcessFunction<u64, Update> for Count {
    type Out = Update;

    fn process(
        &mut self,
        update: Update,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Update>,
    ) -> Result<(), BoxError> {
        let first = || Counter { count: 0, rest: [update.key; 14] };
        let (count, rest) = self.counter.modify(cx, first, |counter| {
            counter.count += 1;
            (counter.count, counter.rest[13])
        });
        if count != update.count || rest != update.key {
            return Err(format!(
                "key {} was updated {} times, and its state says {count}, with {rest}",
                update.key, update.count
            )
            .into());
        }
        out.collect(update);
        Ok(())
    }
}
