//! Configuration: defaults, then a TOML file, then `MILLSTREAM_*` variables, then flags. What comes
//! later wins.

mod cluster;
mod durability;

pub(crate) use cluster::ClusterChoice;
pub(crate) use durability::StateKind;
use durability::{Durability, parse_bytes, parse_durability, parse_mode};
use millstream_protocol::{ParseRestartStrategyError, RestartStrategy};
use millstream_runtime::config::{ExecutionConfig, IdlePolicy, parse_duration};
use millstream_storage::{Location, StorageError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The settings of a job's execution.
///
/// | key | meaning | default |
/// |---|---|---|
/// | `slots` | task slots, each a thread | 1 |
/// | `parallelism` | subtasks of an operator that sets none | as `slots` |
/// | `max_parallelism` | key groups, the most that state can be split into | 128 |
/// | `idle` | `park`, `spin`, or `spin DURATION then park` | `spin 20us then park` |
/// | `pin` | pin slots to cores | `true` |
/// | `batch_bytes` | bytes of rows in a batch between subtasks | 65536 |
/// | `credits` | batches on the way per channel, 2 at least | 8 |
/// | `flush_interval` | how long a record waits in a batch while its sender is busy | `1ms` |
/// | `fan_in_above` | of two hosts with more pairs of slots than this, slots share connections | 256 |
/// | `latency_interval` | how often sources emit latency markers; `off` for never | `200ms` |
/// | `source_rate` | records per second of each source at the most; `off` for no limit | `off` |
/// | `state` | where state is kept: `segments` or `heap` | `segments` with checkpoints, else `heap` |
/// | `state_memory` | the most memory of a slot's state store, such as `512MiB` | no limit |
/// | `checkpoint_dir` | where checkpoints lie; without it none are taken | — |
/// | `checkpoint_replica` | a second place, a directory or `s3://…`, that must have a checkpoint before it counts | — |
/// | `checkpoint_durability` | `local`, or `replicated(K)`: K other hosts of the job must have a checkpoint before it counts | `local` |
/// | `replication_bandwidth` | bytes per second that a host sends to others for that, such as `100MiB`; `off` for no limit | `off` |
/// | `checkpoint_interval` | from the begin of one to the begin of the next; `off` for only on demand | `10s` |
/// | `checkpoint_mode` | `exactly-once`, `unaligned` (exactly-once too) or `at-least-once` | `exactly-once` |
/// | `checkpoint_alignment_timeout` | how long `exactly-once` aligns before it goes on as `unaligned`; `off` for ever | `off` |
/// | `checkpoint_timeout` | one that takes longer is given up | `10m` |
/// | `checkpoint_min_pause` | from the end of one to the begin of the next, at least | `0s` |
/// | `checkpoint_max_concurrent` | how many may be under way | 1 |
/// | `checkpoint_tolerable_failures` | how many in a row may fail before the job does | 3 |
/// | `checkpoint_retained` | how many are kept | 2 |
/// | `checkpoint_retain_on_cancel` | whether they stay when the job is cancelled | `true` |
/// | `resume` | go on from the newest checkpoint, or begin if there is none | `false` |
/// | `resume_strict` | fail, rather than go on from an older one, if the newest is damaged | `false` |
/// | `cluster` | a file that names the hosts that the job runs on; it sets `slots` | — |
/// | `host` | which of them this is | the host's own name |
/// | `restart` | `none`, `fixed N DELAY`, `exponential FIRST LONGEST FACTOR`, `rate N INTERVAL DELAY` | `fixed 3 1s` with checkpoints, else `none` |
///
/// In the environment a key is upper case behind `MILLSTREAM_`: `MILLSTREAM_SLOTS=2`.
///
/// ```
/// use millstream::Config;
/// let config = Config::default().set("slots", "2")?.set("idle", "park")?;
/// assert_eq!(config.slots(), 2);
/// assert!(Config::default().set("slots", "many").is_err());
/// # Ok::<(), millstream::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub(crate) execution: ExecutionConfig,
    pub(crate) state: Option<StateKind>,
    pub(crate) durability: Durability,
    pub(crate) cluster: ClusterChoice,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such setting.
    #[error("{origin}: there is no setting \"{key}\"; the settings are {}", KEYS.join(", "))]
    UnknownKey {
        /// Where it stands.
        origin: String,
        /// Its key.
        key: String,
    },
    /// The value is of no use.
    #[error("{origin}: {key} = \"{value}\" does not work: {expected}")]
    Value {
        /// Where it stands.
        origin: String,
        /// Its key.
        key: String,
        /// Its value.
        value: String,
        /// What would work.
        expected: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {source}", path.display())]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

const KEYS: [&str; 31] = [
    "slots",
    "parallelism",
    "max_parallelism",
    "idle",
    "pin",
    "batch_bytes",
    "credits",
    "flush_interval",
    "fan_in_above",
    "latency_interval",
    "source_rate",
    "state",
    "state_memory",
    "checkpoint_dir",
    "checkpoint_replica",
    "checkpoint_durability",
    "replication_bandwidth",
    "checkpoint_interval",
    "checkpoint_mode",
    "checkpoint_alignment_timeout",
    "checkpoint_timeout",
    "checkpoint_min_pause",
    "checkpoint_max_concurrent",
    "checkpoint_tolerable_failures",
    "checkpoint_retained",
    "checkpoint_retain_on_cancel",
    "resume",
    "resume_strict",
    "restart",
    "cluster",
    "host",
];

impl Config {
    /// The number of slots.
    pub fn slots(&self) -> u32 {
        self.execution.slots
    }

    /// Where checkpoints lie; `None` if none are taken.
    pub fn checkpoint_dir(&self) -> Option<&Path> {
        self.durability.directory.as_deref()
    }

    /// Sets the number of slots.
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.execution.slots = slots;
        self
    }

    /// Sets what a slot does that has nothing to do.
    pub fn with_idle(mut self, idle: IdlePolicy) -> Self {
        self.execution.idle = idle;
        self
    }

    /// Takes up the settings of a TOML file.
    ///
    /// # Errors
    /// If it cannot be read, is no TOML, or has a setting that there is not.
    pub fn with_file(mut self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table: toml::Table = text.parse().map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let origin = path.display().to_string();
        for (key, value) in &table {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.apply(&origin, key, &value)?;
        }
        Ok(self)
    }

    /// Takes up `MILLSTREAM_*` variables. Those that are no setting are for others.
    ///
    /// # Errors
    /// If a value is of no use.
    pub fn with_environment(mut self) -> Result<Self, ConfigError> {
        for key in KEYS {
            let variable = format!("MILLSTREAM_{}", key.to_uppercase());
            if let Ok(value) = std::env::var(&variable) {
                self.apply(&variable, key, &value)?;
            }
        }
        Ok(self)
    }

    /// Sets one setting by its key.
    ///
    /// # Errors
    /// If there is no such setting or the value is of no use.
    pub fn set(mut self, key: &str, value: &str) -> Result<Self, ConfigError> {
        self.apply(&format!("--{}", key.replace('_', "-")), key, value)?;
        Ok(self)
    }

    fn apply(&mut self, origin: &str, key: &str, value: &str) -> Result<(), ConfigError> {
        let key = key.replace('-', "_");
        let bad = |expected: &str| ConfigError::Value {
            origin: origin.to_owned(),
            key: key.clone(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        let positive = |most: u64| {
            value
                .parse::<u64>()
                .ok()
                .filter(|n| (1..=most).contains(n))
                .ok_or_else(|| bad(&format!("a whole number from 1 to {most}")))
        };
        let duration =
            || parse_duration(value).ok_or_else(|| bad("a duration such as 500us, 20ms or 1s"));
        let flag = || value.parse::<bool>().map_err(|_| bad("true or false"));
        let count = |most: u64| {
            value
                .parse::<u64>()
                .ok()
                .filter(|n| *n <= most)
                .ok_or_else(|| bad(&format!("a whole number up to {most}")))
        };
        let Self { execution, state, durability, cluster } = self;
        match &*key {
            "slots" => execution.slots = positive(1_024)? as u32,
            "parallelism" => execution.parallelism = Some(positive(32_768)? as u32),
            "max_parallelism" => execution.max_parallelism = positive(32_768)? as u16,
            "idle" => {
                execution.idle = value.parse::<IdlePolicy>().map_err(|e| bad(&e.to_string()))?;
            }
            "pin" => execution.pin = flag()?,
            "batch_bytes" => execution.exchange.batch_bytes = positive(16 << 20)? as usize,
            "credits" => {
                execution.exchange.credits = positive(1_024)?.max(2) as usize;
            }
            "flush_interval" => execution.exchange.flush_interval = duration()?,
            "fan_in_above" => execution.exchange.fan_in_above = count(u64::from(u32::MAX))? as u32,
            "latency_interval" if value == "off" => execution.latency_interval = None,
            "latency_interval" => {
                let interval: Duration = duration()?;
                execution.latency_interval = Some(interval);
            }
            "source_rate" if value == "off" => execution.source_rate = None,
            "source_rate" => {
                let rate = value.parse::<f64>().ok().filter(|rate| *rate > 0.0 && rate.is_finite());
                execution.source_rate =
                    Some(rate.ok_or_else(|| bad("records per second, such as 50000"))?);
            }
            "state" => {
                *state = Some(StateKind::parse(value).ok_or_else(|| bad("segments or heap"))?);
            }
            "state_memory" => {
                execution.state_memory_bytes = parse_bytes(value)
                    .ok_or_else(|| bad("a number of bytes such as 512MiB or 2GiB"))?;
            }
            "checkpoint_dir" => durability.directory = Some(value.into()),
            "checkpoint_replica" => {
                let replica: Location =
                    value.parse().map_err(|error: StorageError| bad(&error.to_string()))?;
                durability.replica = Some(replica);
            }
            "checkpoint_durability" => {
                durability.copies = parse_durability(value)
                    .ok_or_else(|| bad("local, or replicated(1) with the number of other hosts"))?;
            }
            "replication_bandwidth" if value == "off" => durability.copy_bandwidth = None,
            "replication_bandwidth" => {
                let bytes = parse_bytes(value)
                    .ok_or_else(|| bad("bytes per second such as 100MiB, or off"))?;
                durability.copy_bandwidth = Some(bytes);
            }
            "checkpoint_interval" if value == "off" => durability.interval = Some(None),
            "checkpoint_interval" => durability.interval = Some(Some(duration()?)),
            "checkpoint_mode" => {
                durability.settings.mode = parse_mode(value)
                    .ok_or_else(|| bad("exactly-once, unaligned or at-least-once"))?;
            }
            "checkpoint_alignment_timeout" if value == "off" => {
                durability.settings.alignment_timeout = None;
            }
            "checkpoint_alignment_timeout" => {
                durability.settings.alignment_timeout = Some(duration()?);
            }
            "checkpoint_timeout" => durability.settings.timeout = duration()?,
            "checkpoint_min_pause" => durability.settings.min_pause = duration()?,
            "checkpoint_max_concurrent" => {
                durability.settings.max_concurrent = positive(64)? as u32;
            }
            "checkpoint_tolerable_failures" => {
                durability.settings.tolerable_failures = count(1_000_000)? as u32;
            }
            "checkpoint_retained" => durability.settings.retained = positive(10_000)? as u32,
            "checkpoint_retain_on_cancel" => durability.retain_on_cancel = flag()?,
            "resume" => durability.resume = flag()?,
            "resume_strict" => durability.strict = flag()?,
            "restart" => {
                let strategy: RestartStrategy = value
                    .parse()
                    .map_err(|error: ParseRestartStrategyError| bad(&error.to_string()))?;
                execution.restart = Some(strategy);
            }
            "cluster" => cluster.file = Some(value.into()),
            "host" => cluster.host = Some(value.to_owned()),
            _ => {
                return Err(ConfigError::UnknownKey { origin: origin.to_owned(), key });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_understood() {
        let value = |key| match key {
            "idle" => "spin",
            "pin" | "checkpoint_retain_on_cancel" | "resume" | "resume_strict" => "false",
            "flush_interval"
            | "latency_interval"
            | "checkpoint_interval"
            | "checkpoint_timeout"
            | "checkpoint_alignment_timeout"
            | "checkpoint_min_pause" => "3ms",
            "state" => "heap",
            "checkpoint_mode" => "unaligned",
            "checkpoint_durability" => "replicated(2)",
            "restart" => "fixed 3 1s",
            _ => "2",
        };
        for key in KEYS {
            Config::default().set(key, value(key)).unwrap();
        }
    }

    #[test]
    fn errors_name_the_origin_and_what_would_work() {
        let error = Config::default().set("slots", "0").unwrap_err().to_string();
        assert_eq!(error, "--slots: slots = \"0\" does not work: a whole number from 1 to 1024");
        let error = Config::default().set("slot", "1").unwrap_err().to_string();
        assert!(
            error.contains("there is no setting \"slot\"") && error.contains("max_parallelism")
        );
    }
}
