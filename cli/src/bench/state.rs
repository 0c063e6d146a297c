//! `millstream bench state`.

use super::FormatArg;
use super::values::{number, size};
use crate::Failure;
use clap::Args;
use millstream_bench::BenchError;
use millstream_bench::state::{self, Distribution, Side};
use millstream_ops::Interrupt;
use std::path::PathBuf;

/// The least value is a counter.
const VALUE_BYTES_MIN: u64 = 8;
/// A batch of values must not fill memory.
const VALUE_BYTES_MAX: u64 = 1 << 20;

#[derive(Args)]
pub(crate) struct StateArgs {
    /// Different keys, such as 100000, 500k or 10M
    #[arg(long, value_name = "N", value_parser = number, default_value = "10M")]
    keys: u64,

    /// How keys are drawn: uniform, or zipf with the exponent 0.99
    #[arg(long, value_name = "D", default_value = "uniform")]
    distribution: Distribution,

    /// Bytes of a value, from 8 to 1MiB
    #[arg(long, value_name = "BYTES", value_parser = value_size, default_value = "16")]
    value_size: u64,

    /// Operations of a run; fjall does one hundredth of it
    #[arg(long, value_name = "N", value_parser = number, default_value = "10M")]
    ops: u64,

    /// Runs of each program
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,

    /// The most memory of a program, page cache included: then segments and fjall alone are compared,
    /// and both keep files. Takes the right to make a control group
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// Folder for files [default: the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,

    /// Be one of the programs that take turns
    #[arg(long, hide = true)]
    side: Option<Side>,

    /// The list of processes that a program joins
    #[arg(long, hide = true, value_name = "FILE")]
    group: Option<PathBuf>,
}

impl StateArgs {
    pub(super) fn run(self, interrupt: &Interrupt) -> Result<(), Failure> {
        let options = state::Options {
            ours: super::ours()?,
            keys: self.keys,
            distribution: self.distribution,
            value_bytes: self.value_size as usize,
            operations: self.ops,
            runs: self.runs,
            memory_bytes: self.memory,
            group: self.group,
            data: self.data,
            format: self.format.into(),
        };
        if options.distribution == Distribution::Zipf && options.keys < 3 {
            return Err(BenchError::Usage("--keys: zipf draws from 3 keys at least".into()).into());
        }
        match self.side {
            Some(side) => Ok(state::serve(side, &options)?),
            None => Ok(state::run(&options, interrupt)?),
        }
    }
}

fn value_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes @ VALUE_BYTES_MIN..=VALUE_BYTES_MAX => Ok(bytes),
        _ => Err("values have from 8 bytes to 1MiB".to_owned()),
    }
}
