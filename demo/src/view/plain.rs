//! Lines: one at the start, one every second, one at the end unless one was written just before.

use super::sampler::Sampler;
use super::{Ended, Watched, clock, latency};
use crate::DemoError;
use crate::board::Findings;
use millstream_ops::{count, duration};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(1);

/// The view of those who have no terminal.
pub(crate) struct Plain<'a> {
    watched: &'a Watched,
    sampler: Sampler,
}

impl<'a> Plain<'a> {
    pub(crate) fn new(watched: &'a Watched) -> Self {
        Self { watched, sampler: Sampler::new(watched) }
    }

    /// Writes a line at once and every second until `job_ended` has news, and then the last one,
    /// unless one was written just before.
    ///
    /// # Errors
    /// If standard output cannot be written; the job is cancelled then.
    pub(crate) fn run(mut self, job_ended: &Receiver<()>) -> Result<Ended, DemoError> {
        let mut ended = false;
        loop {
            let at = self.watched.started.elapsed();
            // Over a moment only, the last line's rates would say little.
            if !ended || at - self.sampler.at() >= INTERVAL / 2 {
                let line = self.line_at(at);
                if let Err(error) = print(&line) {
                    self.watched.job.cancel();
                    return Err(error);
                }
            }
            if ended {
                return Ok(match self.watched.interrupt.is_raised() {
                    true => Ended::Interrupted,
                    false => Ended::WithTheJob,
                });
            }
            // Lines that were missed are not made up for.
            let next = INTERVAL * u32::try_from(at.as_secs() + 1).unwrap_or(u32::MAX);
            let wait = next.saturating_sub(self.watched.started.elapsed());
            ended = job_ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
        }
    }

    /// The line for `at` so long after the job's start.
    pub(super) fn line_at(&mut self, at: Duration) -> String {
        self.sampler.take(self.watched, at);
        let sample = self.sampler.newest();
        let findings = self.watched.board.findings();
        let counters = &self.watched.metrics.counters;
        let mut line = format!("{:>4} s", at.as_secs());
        let mut add = |text: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = write!(line, "  {text}");
        };
        match self.watched.board.newest() {
            Some(newest) => add(format_args!("{}", clock(newest))),
            None => add(format_args!("no event yet")),
        }
        add(format_args!("{}/s", count(sample.rate as u64)));
        add(format_args!("watermark -{:.1} s", sample.lag.as_secs_f64()));
        if let Some((_, p99)) = sample.latency {
            add(format_args!("p99 {}", latency(p99)));
        }
        add(format_args!("backpressure {:.0} %", sample.backpressure * 100.0));
        if sample.behind > INTERVAL {
            add(format_args!("{} behind", duration(sample.behind)));
        }
        for (name, number) in [("late", counters.late()), ("malformed", counters.malformed())] {
            if number > 0 {
                add(format_args!("{} {name}", count(number)));
            }
        }
        add(format_args!("{} sessions", count(findings.sessions)));
        add(format_args!("{} alarms", count(findings.alarm_count())));
        let best = findings
            .top_lists()
            .filter_map(|list| Some((&list.genre, list.songs.first()?)))
            .max_by_key(|(_, (_, plays))| *plays);
        if let Some((genre, (track, plays))) = best {
            add(format_args!("#1 {} ({genre}, {} plays)", track.title, count(*plays)));
        }
        line
    }
}

/// What the job came to, as lines.
pub(crate) fn final_lists(findings: &Findings) -> String {
    let mut text = String::new();
    for list in findings.top_lists() {
        let songs = list.songs.iter().take(3);
        let songs: Vec<_> =
            songs.map(|(track, plays)| format!("{} ({})", track.title, count(*plays))).collect();
        let _ = writeln!(text, "{:<12} {}", list.genre, songs.join(", "));
    }
    for (kind, number) in &findings.alarm_counts {
        let _ = writeln!(text, "{:>12} times somebody {kind}", count(*number));
    }
    text
}

/// Writes text with a line end to standard output.
pub(crate) fn print(text: &str) -> Result<(), DemoError> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(DemoError::Output)
}
