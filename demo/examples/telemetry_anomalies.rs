//! Values of metrics that are far from what they were lately.
//!
//! Each file is a series: CSV with the columns `timestamp` (a date and time, UTC if it names no zone,
//! or milliseconds since 1970) and `value`. A value is an anomaly if it differs from the mean of the
//! series' newest values by more than so many standard deviations of theirs.
//!
//! ```text
//! cargo run --release --example telemetry_anomalies -- metrics
//! ```
#![forbid(unsafe_code)]

use clap::{Args, ValueEnum};
use millstream::prelude::*;
use millstream_connectors::{Csv, FileSource, StdoutSink};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Args)]
struct Telemetry {
    /// CSV files with the columns timestamp and value: a folder with all below it, a file, or a
    /// quoted pattern
    path: PathBuf,

    /// How many standard deviations from the mean are an anomaly
    #[arg(long, value_name = "K", default_value_t = 6.0, value_parser = positive)]
    sigmas: f64,

    /// How many values the mean and the deviation are of; a quarter of them must be there first
    #[arg(long, value_name = "N", default_value_t = 288, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    window: u32,

    /// How anomalies are written to standard output
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Aligned columns
    Table,
    /// A JSON object per line
    Json,
}

/// A row of a file.
#[millstream::record]
#[derive(Clone, Debug, Deserialize)]
struct Sample {
    #[serde(rename = "timestamp", deserialize_with = "millstream_demo::event::time")]
    time_millis: i64,
    #[serde(deserialize_with = "finite")]
    value: f64,
}

/// A value that is far from those before it.
#[derive(Clone, Debug, Serialize)]
struct Anomaly {
    series: String,
    time: String,
    value: f64,
    mean: f64,
    deviation: f64,
    sigmas: f64,
}

fn main() -> ExitCode {
    let about = "Values of metrics that are far from what they were lately";
    millstream_ops::run_with("telemetry anomalies", about, |env, flags: Telemetry| {
        let Telemetry { path, sigmas, window, format } = flags;
        let files = FileSource::new(all_below(&path), Csv::<Sample>::new()).with_file_name();
        let anomalies = env
            .from_source("samples", files)
            .key_by(|(series, _): &(Arc<str>, Sample)| series.clone())
            .process(move |state| Judge { newest: state.list("newest"), window, sigmas })
            .name("judge")
            .uid("judge");
        match format {
            Format::Table => anomalies.sink_to("anomalies", StdoutSink::table()),
            Format::Json => anomalies.sink_to("anomalies", StdoutSink::json()),
        };
    })
}

/// Compares each sample with the newest ones of its series.
///
/// A file's rows come in their order; one that is older than the row before takes its place in time,
/// so that it counts as what it is.
struct Judge {
    /// By time, at most `window`.
    newest: ListState<Arc<str>, Sample>,
    window: u32,
    sigmas: f64,
}

impl KeyedProcessFunction<Arc<str>, (Arc<str>, Sample)> for Judge {
    type Out = Anomaly;

    fn process(
        &mut self,
        (series, sample): (Arc<str>, Sample),
        cx: &mut KeyedContext<'_, Arc<str>>,
        out: &mut impl Collector<Anomaly>,
    ) -> Result<(), BoxError> {
        let Sample { time_millis, value } = sample;
        let window = self.window as usize;
        let (mean, deviation) = self.newest.update(cx, |newest| {
            let statistics = (newest.len() >= window / 4).then(|| mean_and_deviation(newest));
            let at = newest.partition_point(|other| other.time_millis <= time_millis);
            newest.insert(at, sample);
            if newest.len() > window {
                newest.remove(0);
            }
            statistics.unwrap_or((value, f64::INFINITY))
        });
        // A series that hardly changed may change a little before it is one.
        let deviation = deviation.max(mean.abs() * 1e-3).max(1e-9);
        let sigmas = (value - mean).abs() / deviation;
        if sigmas > self.sigmas {
            let time = Timestamp::from_millis(time_millis).to_string();
            let [mean, deviation, sigmas] = [mean, deviation, sigmas].map(rounded);
            out.collect(Anomaly { series: name(&series), time, value, mean, deviation, sigmas });
        }
        Ok(())
    }
}

fn mean_and_deviation(samples: &[Sample]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().map(|sample| sample.value).sum::<f64>() / count;
    let squares = samples.iter().map(|sample| (sample.value - mean).powi(2)).sum::<f64>();
    (mean, (squares / count).sqrt())
}

/// To four significant digits.
fn rounded(number: f64) -> f64 {
    format!("{number:.3e}").parse().unwrap_or(number)
}

/// A file's name without its ending.
fn name(path: &str) -> String {
    Path::new(path)
        .file_stem()
        .map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into())
}

/// For a folder, the pattern of all CSV files below it.
fn all_below(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    // Characters that mean something in a pattern stand for themselves in brackets.
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']');
    let escape = |c: char| if special(c) { format!("[{c}]") } else { c.to_string() };
    let folder: String = path.to_string_lossy().chars().map(escape).collect();
    Path::new(&folder).join("**").join("*.csv")
}

fn finite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    value
        .is_finite()
        .then_some(value)
        .ok_or_else(|| serde::de::Error::custom("not a finite number"))
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "write a number above zero".to_owned())
}
