//! `millstream bench recovery`.

use super::FormatArg;
use super::values::{duration, size};
use crate::Failure;
use clap::Args;
use millstream_bench::recovery::{self, Role};
use millstream_ops::{Interrupt, JobArgs};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct RecoveryArgs {
    /// Size of the state, such as 10MiB or 1GiB, in keys of 8 bytes with values of 120
    #[arg(long, value_name = "SIZE", value_parser = size)]
    state_size: u64,

    /// Drop the system's caches between kill and restart; only root can
    #[arg(long)]
    cold: bool,

    /// How long the restarted job is watched, to see when it is at its full rate
    #[arg(long, value_name = "D", value_parser = duration, default_value = "5s")]
    watch: Duration,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,

    /// Be one of the processes that are killed and started again
    #[arg(long, hide = true)]
    role: Option<Role>,

    /// The key to look for
    #[arg(long, hide = true, default_value_t = 0)]
    probe: u64,

    #[command(flatten)]
    job: JobArgs,
}

impl RecoveryArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        if let Some(role) = self.role {
            let session = super::session(&self.job, interrupt)?;
            return Ok(recovery::serve(role, self.state_size, self.probe, self.watch, &session)?);
        }
        let config = self.job.config().map_err(millstream_bench::BenchError::from)?;
        let options = recovery::Options {
            ours: super::ours()?,
            arguments: std::env::args_os().skip(1).collect(),
            state_bytes: self.state_size,
            cold: self.cold,
            watch: self.watch,
            checkpoint_dir: config.checkpoint_dir().map(Into::into),
            slots: config.slots(),
            format: self.format.into(),
        };
        Ok(recovery::run(&options, &interrupt)?)
    }
}
