//! `millstream bench failover`.

use super::FormatArg;
use super::values::size;
use crate::Failure;
use clap::Args;
use millstream_bench::failover::{self, Fault};
use millstream_ops::{Interrupt, JobArgs};
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct FailoverArgs {
    /// Size of the state, such as 10MiB or 1GiB, in keys of 8 bytes with values of 120
    #[arg(long, value_name = "SIZE", value_parser = size)]
    state_size: u64,

    /// The worker is not killed: its host reaches no other any more
    #[arg(long)]
    silence: bool,

    /// How often, each time to a new cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// Where the workers have their disks [default: among the system's temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,

    /// Be a process of the job, and tell of results at this socket
    #[arg(long, hide = true)]
    told: Option<PathBuf>,
}

impl FailoverArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        if let Some(told) = &self.told {
            let session = super::session(&JobArgs::default(), interrupt)?;
            return Ok(failover::serve(self.state_size, told, &session)?);
        }
        let options = failover::Options {
            ours: super::ours()?,
            arguments: std::env::args_os().skip(1).collect(),
            state_bytes: self.state_size,
            fault: if self.silence { Fault::Silence } else { Fault::Kill },
            runs: self.runs,
            folder: self.data,
            format: self.format.into(),
        };
        Ok(failover::run(&options, &interrupt)?)
    }
}
