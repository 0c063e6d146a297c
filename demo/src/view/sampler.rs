//! Counters that only grow, made into rates.

use super::Watched;
use crate::service::Pace;
use hdrhistogram::Histogram;
use millstream::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// Samples that are kept: more than a terminal is wide.
const SAMPLES_MAX: usize = 512;

/// How the job went since the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Events per second.
    pub(super) rate: f64,
    /// How far the watermark at the sinks is behind the newest event, in event time.
    pub(super) lag: Duration,
    /// The part of the latency markers that were this fast or faster: 50 %, 99 %. None if none came.
    pub(super) latency: Option<(Duration, Duration)>,
    /// The share of polls in which an output had no credit, of the worst subtask, since the start.
    pub(super) backpressure: f64,
    /// How far the source is behind what is due, on the wall's clock.
    pub(super) behind: Duration,
}

/// Takes samples.
pub(super) struct Sampler {
    samples: VecDeque<Sample>,
    at: Duration,
    events: u64,
    latency: Histogram<u64>,
}

impl Sampler {
    pub(super) fn new(watched: &Watched) -> Self {
        let latency = watched.metrics.latency();
        Self { samples: VecDeque::new(), at: Duration::ZERO, events: 0, latency }
    }

    /// All samples, the newest last.
    pub(super) fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> + ExactSizeIterator {
        self.samples.iter()
    }

    /// The newest sample.
    pub(super) fn newest(&self) -> Sample {
        self.samples.back().copied().unwrap_or_default()
    }

    /// When the newest sample was taken, after the start.
    pub(super) fn at(&self) -> Duration {
        self.at
    }

    /// Takes a sample `at` so long after the start.
    pub(super) fn take(&mut self, watched: &Watched, at: Duration) {
        let events = watched.metrics.source_records();
        let all = watched.metrics.latency();
        let mut fresh = all.clone();
        // It fails only if there were more of something before, and then all are fresh.
        let _ = fresh.subtract(&self.latency);
        let quantile = |q| Duration::from_nanos(fresh.value_at_quantile(q));
        let newest = watched.board.newest();
        let sample = Sample {
            rate: (events - self.events) as f64 / (at - self.at).as_secs_f64().max(1e-3),
            lag: newest
                .map_or(Duration::ZERO, |newest| newest.since(sink_watermark(watched, newest))),
            latency: (!fresh.is_empty()).then(|| (quantile(0.5), quantile(0.99))),
            backpressure: watched
                .metrics
                .vertices
                .iter()
                .map(|vertex| vertex.backpressure())
                .fold(0.0, f64::max),
            behind: newest.map_or(Duration::ZERO, |newest| behind(watched.pace, newest, at)),
        };
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        (self.at, self.events, self.latency) = (at, events, all);
    }
}

/// The least watermark of the sinks; before there is one, and after the end, no lag is known.
fn sink_watermark(watched: &Watched, newest: Timestamp) -> Timestamp {
    let sinks = watched.metrics.vertices.iter().filter(|vertex| vertex.is_sink);
    match sinks.map(|vertex| vertex.watermark()).min() {
        Some(watermark) if watermark.is_some() => watermark,
        _ => newest,
    }
}

fn behind(pace: Option<Pace>, newest: Timestamp, at: Duration) -> Duration {
    match pace {
        Some(Pace::Times(times)) => {
            let due = Pace::Times(times).service_time(at).unwrap_or(newest);
            due.since(newest).div_f64(times)
        }
        Some(Pace::Unlimited) | None => Duration::ZERO,
    }
}
