//! Values that are far from those before them: the operators of the example `telemetry_anomalies`, with
//! results in a file.

use millstream::prelude::*;
use millstream::{Chain, Environment};
use millstream_connectors::{Csv, FileSource};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

const SERIES: u64 = 9;
const SAMPLES_PER_SERIES: u64 = 1_000;

/// Rows of all files together.
pub(super) const SAMPLES: u64 = SERIES * SAMPLES_PER_SERIES;

/// How many values the mean and the deviation are of.
const WINDOW: usize = 48;
const SIGMAS: f64 = 2.0;

#[millstream::record]
#[derive(Clone, Debug, Deserialize)]
struct Sample {
    timestamp: i64,
    value: f64,
}

pub(super) fn anomalies(env: &Environment, input: &Path) -> DataStream<impl Chain<Out = String>> {
    let files = FileSource::new(input.join("telemetry"), Csv::<Sample>::new()).with_file_name();
    env.from_source("samples", files)
        .key_by(|(series, _): &(Arc<str>, Sample)| series.clone())
        .process(|state| Judge { newest: state.list("newest") })
        .uid("judge")
}

/// Compares each sample with the newest ones of its series.
struct Judge {
    /// By time, at most [`WINDOW`].
    newest: ListState<Arc<str>, Sample>,
}

impl KeyedProcessFunction<Arc<str>, (Arc<str>, Sample)> for Judge {
    type Out = String;

    fn process(
        &mut self,
        (series, sample): (Arc<str>, Sample),
        cx: &mut KeyedContext<'_, Arc<str>>,
        out: &mut impl Collector<String>,
    ) -> Result<(), BoxError> {
        let Sample { timestamp, value } = sample;
        let (mean, deviation) = self.newest.update(cx, |newest| {
            let statistics = (newest.len() >= WINDOW / 4).then(|| mean_and_deviation(newest));
            let at = newest.partition_point(|other| other.timestamp <= timestamp);
            newest.insert(at, sample);
            if newest.len() > WINDOW {
                newest.remove(0);
            }
            statistics.unwrap_or((value, f64::INFINITY))
        });
        if (value - mean).abs() / deviation.max(1e-9) > SIGMAS {
            let name = Path::new(&*series).file_name().unwrap_or_default().display();
            out.collect(format!("{name} {timestamp} {value} {mean:.6} {deviation:.6}"));
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

/// Writes the files that the job reads.
///
/// # Errors
/// If they cannot be written.
pub fn write_input(input: &Path) -> io::Result<()> {
    let folder = input.join("telemetry");
    fs::create_dir_all(&folder)?;
    for series in 0..SERIES {
        let mut out = BufWriter::new(File::create(folder.join(format!("{series}.csv")))?);
        writeln!(out, "timestamp,value")?;
        for n in 0..SAMPLES_PER_SERIES {
            let noise = (series * SAMPLES_PER_SERIES + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
            let value = (noise % 1_000 + n % 100) as f64 / 8.0;
            // Now and then a value comes late, and now and then it is far from the others.
            let time = if noise.is_multiple_of(11) { n.saturating_sub(3) } else { n };
            let value = if noise.is_multiple_of(37) { value * 3.0 } else { value };
            writeln!(out, "{},{value}", time * 1_000)?;
        }
        out.flush()?;
    }
    Ok(())
}
