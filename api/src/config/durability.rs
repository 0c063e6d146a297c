//! The settings of state, checkpoints and restarts.

use millstream_protocol::{CheckpointMode, CheckpointSettings};
use millstream_runtime::config::CheckpointConfig;
use millstream_state::{HeapBackend, SegmentsBackend, StateBackend};
use millstream_storage::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a job keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKind {
    Heap,
    Segments,
}

impl StateKind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "heap" => Some(Self::Heap),
            "segments" => Some(Self::Segments),
            _ => None,
        }
    }

    pub(crate) fn backend(self) -> Arc<dyn StateBackend> {
        match self {
            Self::Heap => Arc::new(HeapBackend),
            Self::Segments => Arc::new(SegmentsBackend::new()),
        }
    }
}

/// How often checkpoints are taken if only their directory is given.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);

/// The settings whose keys begin with `checkpoint_`, and those of how a job goes on.
#[derive(Clone, Debug)]
pub(crate) struct Durability {
    pub(super) directory: Option<PathBuf>,
    pub(super) replica: Option<Location>,
    /// Other hosts that must have a checkpoint.
    pub(super) copies: usize,
    pub(super) copy_bandwidth: Option<u64>,
    /// `Some(None)` for checkpoints on demand alone.
    pub(super) interval: Option<Option<Duration>>,
    pub(super) settings: CheckpointSettings,
    pub(super) retain_on_cancel: bool,
    pub(super) resume: bool,
    /// There must be one to go on from.
    pub(super) must_exist: bool,
    pub(super) strict: bool,
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            directory: None,
            replica: None,
            copies: 0,
            copy_bandwidth: None,
            interval: None,
            settings: CheckpointSettings {
                retained: 2,
                tolerable_failures: 3,
                ..CheckpointSettings::default()
            },
            retain_on_cancel: true,
            resume: false,
            must_exist: false,
            strict: false,
        }
    }
}

impl Durability {
    /// A place for what the process stores was given: checkpoints lie there if any are wanted and no other
    /// place is named. Whoever gives a place starts the job again where it has been.
    pub(crate) fn place_in(&mut self, place: &Path) {
        let is_wanted = self.interval.is_some() || self.copies > 0 || self.resume;
        if self.directory.is_none() && is_wanted {
            self.directory = Some(place.join("checkpoints"));
        }
        self.resume |= self.directory.is_some();
    }

    /// Whoever has started the process names a directory that holds checkpoints: the job goes on there.
    pub(crate) fn go_on_in(&mut self, directory: &Path) {
        self.directory = Some(directory.to_owned());
        (self.resume, self.must_exist) = (true, true);
    }

    /// What the runtime is to do; none without a directory.
    ///
    /// # Errors
    /// If something is set that only makes sense with a directory.
    pub(crate) fn checkpoints(&self) -> Result<Option<CheckpointConfig>, String> {
        let Some(directory) = &self.directory else {
            let without = if self.interval.is_some() {
                "checkpoint_interval"
            } else if self.replica.is_some() {
                "checkpoint_replica"
            } else if self.copies > 0 {
                "checkpoint_durability"
            } else if self.resume {
                "resume"
            } else {
                return Ok(None);
            };
            return Err(format!(
                "{without} is set, and there is no place for checkpoints; say where with checkpoint_dir (--checkpoint-dir DIR)"
            ));
        };
        let CheckpointSettings { mode, alignment_timeout, max_concurrent, .. } = self.settings;
        if alignment_timeout.is_some() && mode != CheckpointMode::ExactlyOnce {
            return Err(
                "checkpoint_alignment_timeout is set, but only checkpoint_mode = exactly-once aligns; leave one of them out".into(),
            );
        }
        if max_concurrent > 1 && (alignment_timeout.is_some() || mode == CheckpointMode::Unaligned)
        {
            return Err(format!(
                "checkpoint_max_concurrent is {max_concurrent}, but where barriers may overtake there can be one checkpoint at a time; set it to 1"
            ));
        }
        let interval = self.interval.unwrap_or(Some(INTERVAL_DEFAULT));
        let mut config = CheckpointConfig::new(directory);
        config.replica = self.replica.clone();
        (config.copies, config.copy_bandwidth) = (self.copies, self.copy_bandwidth);
        config.settings = CheckpointSettings { interval, ..self.settings };
        config.retain_on_cancel = self.retain_on_cancel;
        config.resume = self.resume;
        config.must_exist = self.must_exist;
        config.strict = self.strict;
        Ok(Some(config))
    }
}

/// How many other hosts must have a checkpoint: `local` for none, `replicated(2)` for two.
pub(super) fn parse_durability(text: &str) -> Option<usize> {
    if text == "local" {
        return Some(0);
    }
    let copies = text.strip_prefix("replicated(")?.strip_suffix(')')?;
    copies.parse().ok().filter(|copies| (1..=1_024).contains(copies))
}

pub(super) fn parse_mode(text: &str) -> Option<CheckpointMode> {
    match text {
        "exactly-once" => Some(CheckpointMode::ExactlyOnce),
        "unaligned" => Some(CheckpointMode::Unaligned),
        "at-least-once" => Some(CheckpointMode::AtLeastOnce),
        _ => None,
    }
}

/// A number of bytes such as `64KiB`, `2GiB` or `1048576`.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}
