//! What can be set for a job's execution.

use crate::exchange::ExchangeSettings;
use millstream_protocol::manifest::layout::STATE_FOLDER;
use millstream_protocol::{CheckpointSettings, Deployment, RestartStrategy};
use millstream_storage::Location;
use millstream_types::DEFAULT_MAX_PARALLELISM;
pub use millstream_types::parse_duration;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The settings of a job's execution.
#[derive(Clone, Debug)]
pub struct ExecutionConfig {
    /// The number of slots, at least 1. More than cores is allowed, and slower.
    pub slots: u32,
    /// The number of subtasks of a vertex that sets none; the number of slots if `None`.
    pub parallelism: Option<u32>,
    /// The number of key groups.
    pub max_parallelism: u16,
    /// What a slot does that has nothing to do.
    pub idle: IdlePolicy,
    /// Whether slots are pinned to cores.
    pub pin: bool,
    /// How records are batched between subtasks.
    pub exchange: ExchangeSettings,
    /// How often sources emit latency markers; never if `None`.
    pub latency_interval: Option<Duration>,
    /// The most records per second that each source emits, over all its subtasks.
    pub source_rate: Option<f64>,
    /// Whether and how checkpoints are taken.
    pub checkpoints: Option<CheckpointConfig>,
    /// When the job starts again after a failure; never if `None` and there are no checkpoints, up to
    /// three times, a second apart, if there are.
    pub restart: Option<RestartStrategy>,
    /// The most memory that a slot's store may use, in bytes.
    pub state_memory_bytes: u64,
    /// The hosts that the job runs on, if there are several, and which of them this is. It sets the
    /// number of slots.
    pub deployment: Option<Deployment>,
}

impl ExecutionConfig {
    /// When the job starts again after a failure.
    pub fn restart_strategy(&self) -> RestartStrategy {
        self.restart.unwrap_or(if self.checkpoints.is_some() {
            RestartStrategy::FixedDelay { attempts_max: 3, delay: Duration::from_secs(1) }
        } else {
            RestartStrategy::None
        })
    }
}

/// How checkpoints are taken, and what becomes of them.
#[derive(Clone, Debug)]
pub struct CheckpointConfig {
    /// Where they lie, and stores keep their files. Belongs to one job at a time.
    pub directory: PathBuf,
    /// A second place, on another disk or in an object store: a checkpoint is complete when it has
    /// all of it too, and what the directory has lost is read from there.
    pub replica: Option<Location>,
    /// How many other hosts of the job must have a checkpoint before it is complete.
    pub copies: usize,
    /// The most bytes per second that a host sends to others for that.
    pub copy_bandwidth: Option<u64>,
    /// When they are taken, and how many are kept.
    pub settings: CheckpointSettings,
    /// The job goes on from the newest one that is whole, if there is one. If not set, a directory
    /// that holds one is refused.
    pub resume: bool,
    /// There must be one to go on from: to begin anew is refused.
    pub must_exist: bool,
    /// The newest one must be whole: to go on from an older one is refused.
    pub strict: bool,
    /// They stay when the job is cancelled.
    pub retain_on_cancel: bool,
}

impl CheckpointConfig {
    /// The folder in which stores keep their files.
    pub(crate) fn stores(&self) -> PathBuf {
        self.directory.join(STATE_FOLDER)
    }

    /// Checkpoints on demand in a directory, which is made if it does not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            replica: None,
            copies: 0,
            copy_bandwidth: None,
            settings: CheckpointSettings::default(),
            resume: false,
            must_exist: false,
            strict: false,
            retain_on_cancel: true,
        }
    }
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self {
            slots: 1,
            parallelism: None,
            max_parallelism: DEFAULT_MAX_PARALLELISM,
            idle: IdlePolicy::default(),
            pin: true,
            exchange: ExchangeSettings::default(),
            latency_interval: Some(Duration::from_millis(200)),
            source_rate: None,
            checkpoints: None,
            restart: None,
            state_memory_bytes: u64::MAX,
            deployment: None,
        }
    }
}

/// What a slot does that has nothing to do.
///
/// To wake a parked slot takes tens of microseconds; a spinning one answers at once and uses its
/// whole core.
///
/// ```
/// use millstream_runtime::config::IdlePolicy;
/// use std::time::Duration;
/// let policy: IdlePolicy = "spin 20us then park".parse()?;
/// assert_eq!(policy, IdlePolicy::SpinThenPark(Duration::from_micros(20)));
/// # Ok::<(), millstream_runtime::config::ParseIdlePolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Park at once.
    Park,
    /// Look for work for this long, then park.
    SpinThenPark(Duration),
    /// Never park.
    Spin,
}

impl Default for IdlePolicy {
    fn default() -> Self {
        Self::SpinThenPark(Duration::from_micros(20))
    }
}

impl fmt::Display for IdlePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Park => f.write_str("park"),
            Self::SpinThenPark(spin) => write!(f, "spin {spin:?} then park"),
            Self::Spin => f.write_str("spin"),
        }
    }
}

/// Text that is no idle policy.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{0}\" is no idle policy; use \"park\", \"spin\", or \"spin DURATION then park\" with a duration such as 20us"
)]
pub struct ParseIdlePolicyError(String);

impl FromStr for IdlePolicy {
    type Err = ParseIdlePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<_> = text.split_whitespace().collect();
        match words[..] {
            ["park"] => Some(Self::Park),
            ["spin"] => Some(Self::Spin),
            ["spin", duration, "then", "park"] => parse_duration(duration).map(Self::SpinThenPark),
            _ => None,
        }
        .ok_or_else(|| ParseIdlePolicyError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_policies_are_read_as_they_are_written() {
        let long = IdlePolicy::SpinThenPark(Duration::from_millis(5));
        for policy in [IdlePolicy::Park, IdlePolicy::Spin, IdlePolicy::default(), long] {
            assert_eq!(policy.to_string().parse::<IdlePolicy>().unwrap(), policy);
        }
        for wrong in ["", "sleep", "spin then park", "spin 20 then park", "spin -1s then park"] {
            assert!(wrong.parse::<IdlePolicy>().is_err(), "{wrong}");
        }
    }
}
