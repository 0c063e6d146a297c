//! Histograms of nanoseconds, reported in microseconds.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// From a nanosecond to two minutes, to three digits.
pub(super) fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("the bounds are in order")
}

/// The figures of a distribution, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: f64,
    /// Not everybody reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p90_us: Option<f64>,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
    pub(crate) max_us: f64,
}

impl Percentiles {
    pub(crate) fn of(nanos: &Histogram<u64>) -> Self {
        let at = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_us: at(0.5),
            p90_us: Some(at(0.9)),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: nanos.max() as f64 / 1e3,
        }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_us, p90_us, p99_us, p999_us, p9999_us, max_us } = self;
        write!(f, "  us: p50 {p50_us:.1}, ")?;
        if let Some(p90_us) = p90_us {
            write!(f, "p90 {p90_us:.1}, ")?;
        }
        write!(
            f,
            "p99 {p99_us:.1}, p99.9 {p999_us:.1}, \
             p99.99 {p9999_us:.1}, max {max_us:.1}"
        )
    }
}

/// Steps per halving of the distance to 100 %.
const STEPS_PER_HALF: u32 = 5;

/// The whole distribution in the text format of HdrHistogram's tools (`.hgrm`).
pub(super) fn distribution(nanos: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in nanos.iter_quantiles(STEPS_PER_HALF) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / 1e3;
        let quantile = step.quantile_iterated_to();
        // Writing to a string does not fail.
        let _ = write!(text, "{value:>12.3} {quantile:>14.12} {total:>10}");
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n\
         #[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        nanos.mean() / 1e3,
        nanos.stdev() / 1e3,
        nanos.max() as f64 / 1e3,
        nanos.len(),
        nanos.buckets(),
        // Three digits: the smallest power of two that tells 2,000 values apart.
        2_048,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut nanos = empty();
        (1..=1_000).for_each(|us| nanos.record(us * 1_000).unwrap());
        let Percentiles { p50_us, p99_us, max_us, .. } = Percentiles::of(&nanos);
        for (figure, expected) in [(p50_us, 500.0), (p99_us, 990.0), (max_us, 1_000.0)] {
            assert!((figure - expected).abs() / expected < 0.002, "{figure} for {expected}");
        }
    }

    #[test]
    fn a_distribution_ends_with_all_samples() {
        let mut nanos = empty();
        (1..=5_000).for_each(|n| nanos.record(n * 100).unwrap());
        let text = distribution(&nanos);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let last = rows.last().unwrap();
        assert_eq!(last[1..], ["1.000000000000", "5000"]);
        let values: Vec<f64> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
        assert!(values.is_sorted() && values.len() > 20, "{values:?}");
        assert!(text.contains("Total count    =         5000]"), "{text}");
    }
}
