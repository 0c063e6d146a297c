//! The service as a source: its events at their time, or as fast as they can be taken.

use super::{Arrival, OPENING_MILLIS, Service, Settings, USER_INTERVAL};
use crate::event::Event;
use millstream::connector::{
    BoxError, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
    Timestamp, decode_item, encode_item,
};
use std::time::Duration;

/// Events that a poll emits at the most.
const EVENTS_PER_POLL: u64 = 4_096;
/// Events that a poll passes over at the most.
const EVENTS_PASSED_PER_POLL: u64 = 65_536;
/// Events that are due within this time go together, so that the slot need not wake for each.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How much longer than asked a job may run that has fallen behind.
const OVERTIME_MAX: Duration = Duration::from_secs(1);

/// How fast the service's time runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many times as fast as the clock on the wall. Events come when they are due, however far
    /// the job has fallen behind (an *open loop*).
    Times(f64),
    /// As fast as the job can take events, which one subtask makes.
    Unlimited,
}

impl Pace {
    /// The pace at which this many events come in a second of the wall's clock, on average.
    pub fn of_rate(events_per_second: f64, settings: &Settings) -> Self {
        let at_service = settings.users as f64 / USER_INTERVAL.as_secs_f64();
        Self::Times(events_per_second / at_service)
    }

    /// The service's time that long after its opening on the wall's clock, if the one follows the
    /// other.
    pub fn service_time(self, elapsed: Duration) -> Option<Timestamp> {
        match self {
            Self::Times(pace) => {
                let millis = elapsed.as_secs_f64() * 1e3 * pace;
                Some(Timestamp::from_millis(OPENING_MILLIS.saturating_add(millis as i64)))
            }
            Self::Unlimited => None,
        }
    }
}

/// Reads the [`Service`]'s events; each subtask makes a part of them, unless the pace is unlimited.
#[derive(Clone, Copy, Debug)]
pub struct ServiceSource {
    settings: Settings,
    pace: Pace,
    wall_limit: Duration,
    service_limit: Duration,
}

impl ServiceSource {
    /// Without end.
    pub fn new(settings: Settings, pace: Pace) -> Self {
        Self { settings, pace, wall_limit: Duration::MAX, service_limit: Duration::MAX }
    }

    /// How fast the service's time runs.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Ends after this time on the wall's clock.
    pub fn for_duration(self, duration: Duration) -> Self {
        Self { wall_limit: duration, ..self }
    }

    /// Ends with what arrives at the service in this time after its opening: always the same
    /// events.
    pub fn for_service_time(self, duration: Duration) -> Self {
        Self { service_limit: duration, ..self }
    }
}

impl Source for ServiceSource {
    type Out = Event;
    type Reader = ServiceReader;

    fn parallelism(&self) -> Option<u32> {
        // Without a clock in common, parts would drift apart in the service's time.
        matches!(self.pace, Pace::Unlimited).then_some(1)
    }

    fn open(self, context: &SourceContext) -> Result<ServiceReader, BoxError> {
        let readers = Source::parallelism(&self).unwrap_or(context.parallelism);
        let subtask = context.subtask.0;
        // Parts stay as they were cut: what a part goes through cannot be divided. So with more
        // subtasks than parts, some have nothing to do, and with fewer, some have several parts.
        let parts = match &context.restored {
            None => vec![Part::new(self.settings, (subtask, readers, 0))],
            Some(restored) => restored
                .iter()
                .skip(subtask as usize)
                .step_by(readers as usize)
                .map(|item| Ok(Part::new(self.settings, decode_item(item)?)))
                .collect::<Result<_, BoxError>>()?,
        };
        let last_millis = i64::try_from(self.service_limit.as_millis()).unwrap_or(i64::MAX);
        Ok(ServiceReader { parts, source: self, last_millis, clock: context.clock, start: None })
    }
}

/// Which part of how many, and how many of its events were emitted.
type StoredPart = (u32, u32, u64);

/// One part of the service's events.
struct Part {
    stored: StoredPart,
    service: Service,
    /// Events to pass over: they were emitted before the job was restored.
    known: u64,
    /// Made, and not yet due.
    waiting: Option<Arrival>,
}

impl Part {
    fn new(settings: Settings, stored: StoredPart) -> Self {
        let (part, parts, emitted) = stored;
        let service = Service::new(settings, part, parts);
        Self { stored, service, known: emitted, waiting: None }
    }

    /// Passes over some of the events that were emitted before.
    fn catch_up(&mut self) {
        let some = self.known.min(EVENTS_PASSED_PER_POLL);
        self.known -= some;
        self.service.by_ref().take(some as usize).for_each(drop);
    }

    /// When the next event arrives; `None` if there are no more.
    fn next_millis(&mut self) -> Option<i64> {
        if self.waiting.is_none() {
            self.waiting = self.service.next();
        }
        Some(self.waiting.as_ref()?.millis)
    }
}

/// Reads parts of a [`ServiceSource`], one unless the job was restored.
pub struct ServiceReader {
    parts: Vec<Part>,
    source: ServiceSource,
    last_millis: i64,
    clock: ProcessingClock,
    /// When the service opened on the wall's clock: at the first poll, unless the job was restored.
    start: Option<Timestamp>,
}

impl ServiceReader {
    /// The part whose event comes next, and when; `None` at the end.
    fn next(&mut self) -> Option<(usize, i64)> {
        let last_millis = self.last_millis;
        let parts = self.parts.iter_mut().enumerate();
        parts
            .filter_map(|(index, part)| Some((index, part.next_millis()?)))
            .min_by_key(|&(_, millis)| millis)
            .filter(|&(_, millis)| millis <= last_millis)
    }

    /// How long the service was open when the next event comes, on the wall's clock: zero at the
    /// beginning, so that a restored job goes on at once where it was.
    fn time_before(&mut self) -> Duration {
        let is_new = self.parts.iter().all(|part| part.stored.2 == 0);
        match (self.source.pace, self.next()) {
            (Pace::Times(pace), Some((_, millis))) if !is_new => {
                Duration::from_secs_f64(millis.max(0) as f64 / 1e3 / pace)
            }
            _ => Duration::ZERO,
        }
    }
}

impl SourceReader for ServiceReader {
    type Out = Event;

    fn poll(&mut self, out: &mut impl SourceOutput<Event>) -> Result<SourceStatus, BoxError> {
        if let Some(part) = self.parts.iter_mut().find(|part| part.known > 0) {
            part.catch_up();
            return Ok(SourceStatus::More);
        }
        let now = self.clock.now();
        let start = match self.start {
            Some(start) => start,
            None => {
                let start = now - self.time_before();
                *self.start.insert(start)
            }
        };
        let end = start + self.source.wall_limit;
        let due_millis = match self.source.pace {
            Pace::Unlimited if now >= end => return Ok(SourceStatus::Finished),
            Pace::Unlimited => i64::MAX,
            // What is due by the end is emitted, though the poll may come after it.
            Pace::Times(pace) => (now.min(end).since(start).as_secs_f64() * 1e3 * pace) as i64,
        };
        let mut waits = None;
        for _ in 0..EVENTS_PER_POLL.min(out.room()) {
            let Some((index, millis)) = self.next() else { return Ok(SourceStatus::Finished) };
            if millis > due_millis {
                waits = Some(millis);
                break;
            }
            let part = &mut self.parts[index];
            if let Some(arrival) = part.waiting.take() {
                out.collect(arrival.event);
                part.stored.2 += 1;
            }
        }
        match (waits, self.source.pace) {
            // All that is due by the end was emitted, or the job is too slow for it.
            (waits, Pace::Times(_))
                if now >= end && (waits.is_some() || now >= end + OVERTIME_MAX) =>
            {
                Ok(SourceStatus::Finished)
            }
            (Some(millis), Pace::Times(pace)) => {
                let due = start + Duration::from_secs_f64(millis as f64 / 1e3 / pace);
                Ok(SourceStatus::Pending { until: due.max(now + POLL_INTERVAL).min(end) })
            }
            _ => Ok(SourceStatus::More),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, BoxError> {
        self.parts.iter().map(|part| encode_item(&part.stored)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_connectors::testkit::exercise_source;

    #[test]
    fn each_event_is_emitted_once_however_often_the_job_is_restored() {
        let settings = Settings { users: 150, songs: 100, seed: 7 };
        let minutes = Duration::from_secs(600);
        let last = minutes.as_millis() as i64;
        let events: Vec<Event> = Service::new(settings, 0, 1)
            .take_while(|arrival| arrival.millis <= last)
            .map(|arrival| arrival.event)
            .collect();
        assert!(events.len() > 500, "{}", events.len());
        for seed in 0..20 {
            for pace in [Pace::Unlimited, Pace::Times(1e7)] {
                let source = ServiceSource::new(settings, pace).for_service_time(minutes);
                exercise_source(seed, || source, &events);
            }
        }
    }
}
