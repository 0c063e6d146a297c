//! The service as a source: its events at their time, or as fast as they can be taken.

use super::{Arrival, OPENING_MILLIS, Service, Settings, USER_INTERVAL};
use crate::event::Event;
use millstream::connector::{
    BoxError, ProcessingClock, Source, SourceContext, SourceOutput, SourceReader, SourceStatus,
    Timestamp,
};
use std::time::Duration;

/// Events that a poll emits at the most.
const EVENTS_PER_POLL: usize = 4_096;
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
        let parts = Source::parallelism(&self).unwrap_or(context.parallelism);
        let service = Service::new(self.settings, context.subtask.0, parts);
        let last_millis = i64::try_from(self.service_limit.as_millis()).unwrap_or(i64::MAX);
        Ok(ServiceReader {
            service,
            waiting: None,
            source: self,
            last_millis,
            clock: context.clock,
            start: None,
        })
    }
}

/// Reads one part of a [`ServiceSource`].
pub struct ServiceReader {
    service: Service,
    /// Made, and not yet due.
    waiting: Option<Arrival>,
    source: ServiceSource,
    last_millis: i64,
    clock: ProcessingClock,
    /// When the service opened on the wall's clock: at the first poll.
    start: Option<Timestamp>,
}

impl SourceReader for ServiceReader {
    type Out = Event;

    fn poll(&mut self, out: &mut impl SourceOutput<Event>) -> Result<SourceStatus, BoxError> {
        let now = self.clock.now();
        let start = *self.start.get_or_insert(now);
        let end = start + self.source.wall_limit;
        let due_millis = match self.source.pace {
            Pace::Unlimited if now >= end => return Ok(SourceStatus::Finished),
            Pace::Unlimited => i64::MAX,
            // What is due by the end is emitted, though the poll may come after it.
            Pace::Times(pace) => (now.min(end).since(start).as_secs_f64() * 1e3 * pace) as i64,
        };
        let mut emitted = 0;
        while emitted < EVENTS_PER_POLL {
            let Some(arrival) = self.waiting.take().or_else(|| self.service.next()) else {
                return Ok(SourceStatus::Finished);
            };
            if arrival.millis > self.last_millis {
                return Ok(SourceStatus::Finished);
            }
            if arrival.millis > due_millis {
                self.waiting = Some(arrival);
                break;
            }
            out.collect(arrival.event);
            emitted += 1;
        }
        match (&self.waiting, self.source.pace) {
            // All that is due by the end was emitted, or the job is too slow for it.
            (waiting, Pace::Times(_))
                if now >= end && (waiting.is_some() || now >= end + OVERTIME_MAX) =>
            {
                Ok(SourceStatus::Finished)
            }
            (Some(arrival), Pace::Times(pace)) => {
                let due = start + Duration::from_secs_f64(arrival.millis as f64 / 1e3 / pace);
                Ok(SourceStatus::Pending { until: due.max(now + POLL_INTERVAL).min(end) })
            }
            _ => Ok(SourceStatus::More),
        }
    }
}
