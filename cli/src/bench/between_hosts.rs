//! `millstream bench shuffle`, `round-trip`, `zero-copy` and `replication`.

use super::FormatArg;
use super::values::{size, turn};
use crate::Failure;
use clap::Args;
use millstream_bench::shuffle::{self, Mode};
use millstream_bench::two_hosts::{Options, Place, Side};
use millstream_bench::{replication, round_trip, zero_copy};
use millstream_ops::{Interrupt, JobArgs};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Which of its processes this one is, if it is none that people have started.
#[derive(Args, Clone)]
struct PlaceArgs {
    #[arg(long, hide = true, requires_all = ["member", "first", "folder"])]
    side: Option<Side>,
    #[arg(long, hide = true)]
    member: Option<usize>,
    #[arg(long, hide = true)]
    first: Option<SocketAddr>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

impl PlaceArgs {
    fn place(self) -> Option<(Side, Place)> {
        let place = Place { member: self.member?, first: self.first?, folder: self.folder? };
        Some((self.side?, place))
    }
}

/// Between how many hosts.
#[derive(Args, Clone, Copy)]
struct HostsArgs {
    /// Hosts to make: two
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=2))]
    hosts: u32,
}

/// How often and how long.
#[derive(Args, Clone, Copy)]
struct TurnArgs {
    /// Pairs of turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,

    /// How long a turn is counted
    #[arg(long, value_name = "D", value_parser = turn, default_value = "2s")]
    duration: Duration,

    /// How figures are written to standard output
    #[arg(long, value_enum, default_value = "text")]
    format: FormatArg,
}

impl TurnArgs {
    fn options(self) -> Result<Options, Failure> {
        Ok(Options {
            ours: super::ours()?,
            arguments: std::env::args_os().skip(1).collect(),
            pairs: self.pairs,
            duration: self.duration,
            format: self.format.into(),
        })
    }
}

#[derive(Args)]
pub(crate) struct ShuffleArgs {
    /// batches or rows
    #[arg(long, value_name = "MODE")]
    mode: Mode,

    #[command(flatten)]
    hosts: HostsArgs,
    #[command(flatten)]
    turns: TurnArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    job: JobArgs,
}

impl ShuffleArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        if let Some((side, place)) = self.place.place() {
            let session = super::session(&self.job, interrupt)?;
            return Ok(shuffle::serve(self.mode, side, &place, self.turns.duration, &session)?);
        }
        let options = self.turns.options()?;
        Ok(shuffle::run(self.mode, &options, &interrupt)?)
    }
}

#[derive(Args)]
pub(crate) struct RoundTripArgs {
    #[command(flatten)]
    hosts: HostsArgs,
    #[command(flatten)]
    turns: TurnArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    job: JobArgs,
}

impl RoundTripArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        if let Some((side, place)) = self.place.place() {
            let session = super::session(&self.job, interrupt)?;
            return Ok(round_trip::serve(side, &place, self.turns.duration, &session)?);
        }
        let options = self.turns.options()?;
        Ok(round_trip::run(&options, &interrupt)?)
    }
}

#[derive(Args)]
pub(crate) struct ReplicationArgs {
    /// Size of the state, such as 10MiB or 1GiB, in keys of 8 bytes with values of 120
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64MiB")]
    state_size: u64,

    #[command(flatten)]
    hosts: HostsArgs,
    #[command(flatten)]
    turns: TurnArgs,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    job: JobArgs,
}

impl ReplicationArgs {
    pub(super) fn run(self, interrupt: Interrupt) -> Result<(), Failure> {
        if let Some((side, place)) = self.place.place() {
            let session = super::session(&self.job, interrupt)?;
            let duration = self.turns.duration;
            return Ok(replication::serve(self.state_size, side, &place, duration, &session)?);
        }
        let options = self.turns.options()?;
        Ok(replication::run(self.state_size, &options, &interrupt)?)
    }
}

#[derive(Args)]
pub(crate) struct ZeroCopyArgs {
    #[command(flatten)]
    turns: TurnArgs,
}

impl ZeroCopyArgs {
    pub(super) fn run(self, interrupt: &Interrupt) -> Result<(), Failure> {
        let TurnArgs { pairs, duration, format } = self.turns;
        let options = zero_copy::Options { pairs, duration, format: format.into() };
        Ok(zero_copy::run(&options, interrupt)?)
    }
}
