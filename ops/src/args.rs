//! Flags that every job has.

use crate::{MetricsServer, MetricsServerError};
use clap::{Args, ValueEnum};
use millstream::{Config, ConfigError};
use std::path::PathBuf;
use tracing_subscriber::filter::LevelFilter;

/// Flags that set how a job is executed.
///
/// They come last: a flag wins over a `MILLSTREAM_*` variable, a variable over the file of
/// `--config`, the file over the default.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Job options")]
pub struct JobArgs {
    // Values are texts here and parsed by `Config`, which knows what works and says so.
    /// Task slots, each a thread on a core of its own [default: 1]
    #[arg(long, value_name = "N")]
    slots: Option<String>,

    /// Subtasks of operators that set no number [default: as many as slots]
    #[arg(long, value_name = "N")]
    parallelism: Option<String>,

    /// Key groups, the most subtasks that keyed state can be split over [default: 128]
    #[arg(long, value_name = "N")]
    max_parallelism: Option<String>,

    /// What a slot without work does: "park", "spin", or "spin DURATION then park"
    /// [default: spin 20us then park]
    #[arg(long, value_name = "POLICY")]
    idle: Option<String>,

    /// Where state is kept: "segments" or "heap" [default: segments with checkpoints, else heap]
    #[arg(long, value_name = "BACKEND")]
    state: Option<String>,

    /// Take checkpoints, into this directory; makes it if it does not exist
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<String>,

    /// How often checkpoints are taken [default: 10s]
    #[arg(long, value_name = "DURATION")]
    checkpoint_interval: Option<String>,

    /// Go on from the newest checkpoint that is whole, or begin if there is none
    #[arg(long)]
    resume: bool,

    /// Records per second that each source emits at the most [default: no limit]
    #[arg(long, value_name = "RATE")]
    source_rate: Option<String>,

    /// Run on the hosts that this file names, with one process of the program on each
    #[arg(long, value_name = "FILE")]
    cluster: Option<String>,

    /// Which of the hosts of --cluster this is [default: the host's own name]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Any other setting, such as flush_interval=500us or pin=false; can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,

    /// A TOML file of settings; flags and MILLSTREAM_* variables win over it
    #[arg(long, value_name = "FILE", env = "MILLSTREAM_CONFIG")]
    config: Option<PathBuf>,

    /// Serve metrics as Prometheus text while the job runs, at http://ADDR/metrics
    #[arg(long, value_name = "ADDR", env = "MILLSTREAM_METRICS")]
    metrics: Option<String>,
}

impl JobArgs {
    /// The configuration: defaults, then the file, then the environment, then these flags.
    ///
    /// # Errors
    /// If one of them has a setting that does not exist or a value that does not work.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(file) = &self.config {
            config = config.with_file(file)?;
        }
        config = config.with_environment()?;
        for (key, value) in &self.settings {
            config = config.set(key, value)?;
        }
        let flags = [
            ("slots", &self.slots),
            ("parallelism", &self.parallelism),
            ("max_parallelism", &self.max_parallelism),
            ("idle", &self.idle),
            ("state", &self.state),
            ("checkpoint_dir", &self.checkpoint_dir),
            ("checkpoint_interval", &self.checkpoint_interval),
            ("source_rate", &self.source_rate),
            ("cluster", &self.cluster),
            ("host", &self.host),
        ];
        for (key, value) in flags {
            if let Some(value) = value {
                config = config.set(key, value)?;
            }
        }
        if self.resume {
            config = config.set("resume", "true")?;
        }
        Ok(config)
    }

    /// Starts to serve metrics, if `--metrics` asks for it.
    ///
    /// # Errors
    /// If the address is none or is in use.
    pub fn serve_metrics(&self) -> Result<Option<MetricsServer>, MetricsServerError> {
        self.metrics.as_deref().map(MetricsServer::bind).transpose()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().into(), value.trim().into())),
        _ => Err("write KEY=VALUE, for example flush_interval=500us".into()),
    }
}

/// The flag that sets how much is logged.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// How much is logged to standard error: off, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        global = true,
        default_value = "warn",
        hide_possible_values = true,
        env = "MILLSTREAM_LOG_LEVEL"
    )]
    log_level: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// Also what should be looked at.
    Warn,
    /// Also what happens.
    Info,
    /// Also why.
    Debug,
    /// Everything.
    Trace,
}

impl LogArgs {
    /// Begins to log to standard error. Does nothing if the process logs already.
    pub fn init(&self) {
        let level = match self.log_level {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        // An error means that a subscriber is set: that one is meant to be used.
        let _ = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_writer(std::io::stderr)
            // A full disk under a log file must not end what is logged.
            .log_internal_errors(false)
            .try_init();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        job: JobArgs,
    }

    fn parse(flags: &[&str]) -> JobArgs {
        Program::try_parse_from([&["program"], flags].concat()).unwrap().job
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "slots = 3\nmax_parallelism = 64\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(parse(&["--config", path]).config().unwrap().slots(), 3);
        assert_eq!(parse(&["--config", path, "--slots", "2"]).config().unwrap().slots(), 2);
        assert_eq!(parse(&["--set", "slots=4"]).config().unwrap().slots(), 4);
    }

    #[test]
    fn what_does_not_work_is_named_as_it_was_given() {
        let error = parse(&["--slots", "0"]).config().unwrap_err().to_string();
        assert!(error.starts_with("--slots: slots = \"0\" does not work"), "{error}");
        let error = parse(&["--set", "slott=1"]).config().unwrap_err().to_string();
        assert!(error.contains("no setting \"slott\""), "{error}");
        assert!(Program::try_parse_from(["program", "--set", "slots"]).is_err());
    }
}
