//! `millstream bench checkpoint`.

use super::FormatArg;
use super::values::{duration, rate, share, size};
use crate::Failure;
use clap::Args;
use millstream_bench::{BenchError, checkpoint};
use millstream_ops::{Interrupt, JobArgs};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct CheckpointArgs {
    /// Size of the state, such as 10MiB or 1GiB, in keys of 8 bytes with values of 120
    #[arg(long, value_name = "SIZE", value_parser = size)]
    state_size: u64,

    /// Part of the keys that a phase changes, such as 0.1 or 10%
    #[arg(long, value_name = "R", value_parser = share)]
    change_rate: f64,

    /// Let each phase change keys from everywhere, not those whose turn it is, so that files die
    /// piecemeal and are compacted
    #[arg(long)]
    shuffle: bool,

    /// Events per second where latency is measured [default: half of full speed]
    #[arg(long, value_name = "EVENTS", value_parser = rate)]
    rate: Option<u64>,

    /// From the begin of one checkpoint to the begin of the next, in phases with checkpoints
    #[arg(long, value_name = "D", value_parser = duration, default_value = "1s")]
    interval: Duration,

    /// Pairs of phases with checkpoints and without: so many at full speed, as many at the rate
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// How long a phase lasts
    #[arg(long, value_name = "D", value_parser = duration, default_value = "1s")]
    phase: Duration,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,

    #[command(flatten)]
    job: JobArgs,
}

impl CheckpointArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        for (flag, value) in [("--interval", self.interval), ("--phase", self.phase)] {
            if value.is_zero() {
                let text = format!("{flag}: must be longer than nothing, for example 1s");
                return Err(BenchError::Usage(text).into());
            }
        }
        let session = super::session(&self.job, interrupt)?;
        let options = checkpoint::Options {
            state_bytes: self.state_size,
            change_rate: self.change_rate,
            shuffle: self.shuffle,
            rate: self.rate,
            interval: self.interval,
            pairs: self.pairs,
            phase: self.phase,
            format: self.format.into(),
        };
        Ok(checkpoint::run(&options, &session)?)
    }
}
