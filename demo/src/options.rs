//! The flags of `millstream demo`, and what examples share.

use crate::DemoError;
use crate::input::{EventSource, FileFormat};
use crate::service::{DELAY_MAX, Pace, ServiceSource, Settings};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a program reads, for those that can read anything: `[PATH]`.
#[derive(Args, Clone, Debug)]
pub struct Input {
    /// A file, a folder or a quoted pattern; .gz and .zst are unpacked [default: standard input]
    #[arg(default_value = "/dev/stdin", hide_default_value = true)]
    pub path: PathBuf,
}

/// What the demo reads, and how it shows what it finds.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Events per second on average, such as 50k or 1M; or "max" for as many as the job can take
    #[arg(long, value_name = "EVENTS", default_value = "50k", value_parser = rate)]
    rate: Rate,

    /// How long the service runs, such as 10s or 5m [default: until q or Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Users; one in a thousand is a bot
    #[arg(
        long, value_name = "N", default_value_t = Settings::default().users,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000),
    )]
    users: u64,

    /// Songs at the beginning
    #[arg(
        long, value_name = "N", default_value_t = Settings::default().songs,
        value_parser = clap::value_parser!(u64).range(10..=1_000_000_000),
    )]
    songs: u64,

    /// Chooses another service: other users, other songs, other events
    #[arg(long, value_name = "N", default_value_t = Settings::default().seed)]
    seed: u64,

    /// Read real events instead: a file, a folder or a quoted pattern; .gz and .zst are unpacked
    #[arg(
        long, value_name = "PATH",
        conflicts_with_all = ["rate", "duration", "users", "songs", "seed", "write_events"],
    )]
    input: Option<PathBuf>,

    /// How the files are written [default: csv if they end in .csv, .csv.gz or .csv.zst, else json]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<FileFormat>,

    /// How much later than newer ones events in files may come
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    #[arg(requires = "input")]
    out_of_order: Duration,

    /// Skip and count what is no event in files, instead of failing at the first
    #[arg(long, requires = "input")]
    skip_malformed: bool,

    /// Only write the service's events to a file, or to standard output if it is -
    #[arg(long, value_name = "FILE", requires = "duration")]
    write_events: Option<PathBuf>,

    /// Lines instead of the live view, in a terminal too
    #[arg(long)]
    plain: bool,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// Run the job.
    Run {
        /// What it reads.
        source: EventSource,
        /// How late events may come.
        out_of_order: Duration,
        /// Whether a live view is welcome.
        live: bool,
    },
    /// Write events to a file, or to standard output if there is none.
    Write { source: ServiceSource, file: Option<PathBuf>, format: FileFormat },
}

impl DemoOptions {
    /// # Errors
    /// If the flags contradict each other, or the input's format cannot be told.
    pub(crate) fn plan(&self) -> Result<Plan, DemoError> {
        if let Some(path) = &self.input {
            let format = match self.format {
                Some(format) => format,
                None => FileFormat::of_input(path)?,
            };
            let source = EventSource::files(path, format);
            return Ok(Plan::Run {
                source: if self.skip_malformed { source.skipping_malformed() } else { source },
                out_of_order: self.out_of_order,
                live: !self.plain,
            });
        }
        let settings = Settings { users: self.users, songs: self.songs, seed: self.seed };
        let pace = match self.rate {
            Rate::PerSecond(rate) => Pace::of_rate(rate, &settings),
            Rate::Max => Pace::Unlimited,
        };
        let Some(file) = &self.write_events else {
            if self.format.is_some() {
                let reason = "--format says how files are written: give it with --input or \
                              --write-events";
                return Err(DemoError::Usage(reason.into()));
            }
            let source = ServiceSource::new(settings, pace);
            let source = match self.duration {
                Some(duration) => source.for_duration(duration),
                None => source,
            };
            return Ok(Plan::Run {
                source: EventSource::Service(source),
                out_of_order: DELAY_MAX,
                live: !self.plain,
            });
        };
        let (Pace::Times(times), Some(duration)) = (pace, self.duration) else {
            let reason = "--write-events writes what --rate gives in --duration: give a number for \
                          --rate";
            return Err(DemoError::Usage(reason.into()));
        };
        let format = self.format.unwrap_or_else(|| FileFormat::of_name(file));
        Ok(Plan::Write {
            source: ServiceSource::new(settings, Pace::Unlimited)
                .for_service_time(duration.mul_f64(times)),
            file: (file != Path::new("-")).then(|| file.clone()),
            format,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    PerSecond(f64),
    Max,
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    let (number, times) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => match text.strip_suffix(['m', 'M']) {
            Some(number) => (number, 1e6),
            None => (text, 1.0),
        },
    };
    let rate = number.parse::<f64>().ok().map(|number| number * times);
    match rate.filter(|rate| (1.0..=1e9).contains(rate)) {
        Some(rate) => Ok(Rate::PerSecond(rate)),
        None => Err("write a number from 1 to 1000M, such as 50k, or max".into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" | "min" => Some(60.0),
        "h" => Some(3_600.0),
        _ => None,
    };
    let number = number.parse::<f64>().ok();
    // No longer than a century, so that sums with times do not overflow.
    let duration = seconds.zip(number).map(|(unit, number)| unit * number);
    match duration.filter(|seconds| *seconds > 0.0 && *seconds < 3e9) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err("write a time such as 10s, 500ms, 5m or 1h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        demo: DemoOptions,
    }

    fn plan(flags: &str) -> Result<Plan, String> {
        let flags = ["demo"].into_iter().chain(flags.split_whitespace());
        let program = Program::try_parse_from(flags).map_err(|error| error.to_string())?;
        program.demo.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn rates_and_times_are_read_as_people_write_them() {
        assert_eq!(rate("50k"), Ok(Rate::PerSecond(50_000.0)));
        assert_eq!(rate("1.5M"), Ok(Rate::PerSecond(1_500_000.0)));
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "0", "-1", "k", "2G", "inf", "NaN", "1e12"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "5", "s", "-1s", "0s", "1d", "1.2.3s", "99999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        for flags in [
            "--input x --rate 5",
            "--input x --seed 5",
            "--input x --write-events y --duration 1s",
            "--write-events y",
            "--write-events y --duration 1s --rate max",
            "--format csv",
            "--users 0",
            "--songs 3",
            "--out-of-order 5s",
            "--skip-malformed",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
        assert!(matches!(plan(""), Ok(Plan::Run { live: true, .. })));
        assert!(matches!(
            plan("--plain --rate max --duration 1m"),
            Ok(Plan::Run { live: false, .. })
        ));
    }

    #[test]
    fn the_name_of_a_file_says_how_it_is_written() {
        let format = |flags: &str| match plan(flags) {
            Ok(Plan::Write { format, file, .. }) => (format, file.is_some()),
            other => panic!("{flags}: {other:?}"),
        };
        let flags = "--duration 1s --write-events";
        assert_eq!(format(&format!("{flags} x.csv.gz")), (FileFormat::Csv, true));
        assert_eq!(format(&format!("{flags} x.jsonl")), (FileFormat::Json, true));
        assert_eq!(format(&format!("{flags} x.txt --format csv")), (FileFormat::Csv, true));
        assert_eq!(format(&format!("{flags} -")), (FileFormat::Json, false));
    }
}
