//! `millstream bench rollback`.

use super::FormatArg;
use super::values::{size, turn};
use crate::Failure;
use clap::Args;
use millstream_bench::rollback;
use millstream_ops::{Interrupt, JobArgs};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct RollbackArgs {
    /// Size of the state, such as 10MiB or 1GiB, in keys of 8 bytes with values of 120
    #[arg(long, value_name = "SIZE", value_parser = size)]
    state_size: u64,

    /// How long keys are updated between the checkpoint and a failure
    #[arg(long, value_name = "D", value_parser = turn, default_value = "1s")]
    run_on: Duration,

    /// Failures of each kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,

    #[command(flatten)]
    job: JobArgs,
}

impl RollbackArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        let session = super::session(&self.job, interrupt)?;
        let options = rollback::Options {
            state_bytes: self.state_size,
            run_on: self.run_on,
            pairs: self.pairs,
            format: self.format.into(),
        };
        Ok(rollback::run(&options, &session)?)
    }
}
