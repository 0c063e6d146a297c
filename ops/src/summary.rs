//! What a run came to, in a few lines.

use crate::Usage;
use millstream::{JobResult, JobStatus};
use std::fmt;
use std::time::Duration;

/// The summary of a run.
///
/// ```text
/// word count: finished in 1.23 s
///   records in        10,000,000   8,130,081/s
///   records out          123,456     100,371/s
///   late                       0
///   malformed                  0
///   latency      p50 120 us, p99 310 us, max 2.1 ms (of 12 markers)
///   CPU          2.31 s, 188 % of a core
///   memory       123.0 MiB at most
/// ```
#[derive(Clone, Debug)]
pub struct Summary {
    name: String,
    status: JobStatus,
    elapsed: Duration,
    cpu: Duration,
    records_in: u64,
    records_out: u64,
    late: u64,
    malformed: u64,
    latency: Option<Latency>,
    resident_bytes_peak: u64,
}

/// How long latency markers were on their way.
#[derive(Clone, Copy, Debug)]
struct Latency {
    p50: Duration,
    p99: Duration,
    max: Duration,
    markers: u64,
}

impl Summary {
    /// Of a job that has just ended.
    pub fn new(name: &str, result: &JobResult) -> Self {
        let metrics = &result.metrics;
        let histogram = metrics.latency();
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        Self {
            name: name.to_owned(),
            status: result.status,
            elapsed: result.elapsed,
            cpu: result.cpu,
            records_in: metrics.source_records(),
            records_out: metrics.sink_records(),
            late: metrics.counters.late(),
            malformed: metrics.counters.malformed(),
            latency: (!histogram.is_empty()).then(|| Latency {
                p50: at(0.5),
                p99: at(0.99),
                max: Duration::from_nanos(histogram.max()),
                markers: histogram.len(),
            }),
            resident_bytes_peak: Usage::now().resident_bytes_peak,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = match self.status {
            JobStatus::Finished => "finished in",
            JobStatus::Stopped => "stopped after",
            JobStatus::Canceled => "cancelled after",
        };
        let seconds = self.elapsed.as_secs_f64();
        let per_second = |records: u64| match seconds {
            0.0 => String::new(),
            _ => format!("{}/s", count((records as f64 / seconds) as u64)),
        };
        writeln!(f, "{}: {ended} {}", self.name, duration(self.elapsed))?;
        for (label, records) in [("records in", self.records_in), ("records out", self.records_out)]
        {
            writeln!(f, "  {label:<12} {:>15} {:>15}", count(records), per_second(records))?;
        }
        for (label, records) in [("late", self.late), ("malformed", self.malformed)] {
            writeln!(f, "  {label:<12} {:>15}", count(records))?;
        }
        if let Some(Latency { p50, p99, max, markers }) = self.latency {
            // What stays within a chain takes no time that the slot's clock sees.
            let shown = |time: Duration| match time.as_nanos() {
                0..1_000 => "< 1 us".to_owned(),
                _ => duration(time),
            };
            let [p50, p99, max] = [p50, p99, max].map(shown);
            let markers = count(markers);
            writeln!(f, "  latency      p50 {p50}, p99 {p99}, max {max} (of {markers} markers)")?;
        }
        let share = if seconds == 0.0 { 0.0 } else { self.cpu.as_secs_f64() / seconds * 100.0 };
        writeln!(f, "  CPU          {}, {share:.0} % of a core", duration(self.cpu))?;
        writeln!(f, "  memory       {} at most", mebibytes(self.resident_bytes_peak))
    }
}

/// A number with its thousands apart.
///
/// ```
/// assert_eq!(millstream_ops::count(1_234_567), "1,234,567");
/// ```
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration to three digits, in a unit that suits it.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(millstream_ops::duration(Duration::from_nanos(1_234_567)), "1.23 ms");
/// ```
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match nanos {
        n if n < 1e3 => return format!("{n} ns"),
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let places = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.places$} {unit}")
}

/// Bytes in MiB, to a tenth.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")]
        {
            assert_eq!(count(number), text);
        }
        for (nanos, text) in
            [(0, "0 ns"), (999, "999 ns"), (15_300, "15.3 us"), (250_000_000, "250 ms")]
        {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(duration(Duration::from_secs(75)), "75.0 s");
        assert_eq!(mebibytes(3 << 19), "1.5 MiB");
    }

    #[test]
    fn a_summary_has_all_that_one_asks_for() {
        let env = millstream::Environment::new(millstream::Config::default());
        env.from_collection("numbers", 0..5_000u64).filter(|n| n % 2 == 0).discard();
        let result = env.execute("even").unwrap();
        let text = Summary::new("even", &result).to_string();
        let lines: Vec<_> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines[0][..3], ["even:", "finished", "in"], "{text}");
        assert_eq!(lines[1][..3], ["records", "in", "5,000"], "{text}");
        assert_eq!(lines[2][..3], ["records", "out", "2,500"], "{text}");
        assert_eq!(lines[3], ["late", "0"], "{text}");
        assert_eq!(lines[4], ["malformed", "0"], "{text}");
        assert!(text.contains("% of a core") && text.contains("MiB at most"), "{text}");
    }
}
