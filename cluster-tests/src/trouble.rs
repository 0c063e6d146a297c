//! What goes wrong with a job on several hosts.

use crate::cluster::{Cluster, MEMBERS};
use crate::process::until;
use anyhow::{Result, ensure};
use clap::ValueEnum;
use millstream_hosts::Fault;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::fmt;
use std::time::{Duration, Instant};

/// Longer than members wait for a sign of life.
const STOPPED: Duration = Duration::from_secs(4);
/// Longer than it takes to notice, so that those who meet again do so after the job was ended.
const PARTED: Duration = Duration::from_secs(5);
const DELAY: Duration = Duration::from_millis(100);
const JITTER_MIN: Duration = Duration::from_millis(5);
const JITTER_MAX: Duration = Duration::from_millis(40);
const LOSS_PERCENT: f64 = 1.0;
const BYTES_PER_SECOND: u64 = 1_000_000;

/// Mostly what takes no time.
const MIX: [Trouble; 7] = [
    Trouble::KillOther,
    Trouble::KillOther,
    Trouble::KillFirst,
    Trouble::KillFirst,
    Trouble::KillTwo,
    Trouble::StopOther,
    Trouble::Isolate,
];

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Trouble {
    /// A member that is not the first is killed, and started again at once.
    KillOther,
    /// The first member is killed, and started again at once to go on.
    KillFirst,
    /// Two members are killed at once, and started again.
    KillTwo,
    /// A member that is not the first stands still for longer than the others wait.
    StopOther,
    /// The first member stands still.
    StopFirst,
    /// Two hosts do not reach each other for a while.
    Partition,
    /// A host does not reach another for a while, but hears it.
    PartitionOneWay,
    /// A host reaches no other for a while.
    Isolate,
    /// Any of these, several times.
    Mixed,
    /// All the time packets between two hosts take long.
    Delay,
    /// All the time packets between two hosts overtake each other.
    Jitter,
    /// All the time a host loses some packets.
    Loss,
    /// All the time a host sends and receives slowly.
    Bandwidth,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Trouble {
    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// True if it lasts as long as the job, which must bear it without beginning anew.
    pub fn is_steady(self) -> bool {
        matches!(self, Self::Delay | Self::Jitter | Self::Loss | Self::Bandwidth)
    }

    /// How often it strikes in one run of the job. What is over at once strikes twice, so that the
    /// job is hit too that has been hit before.
    pub(crate) fn strikes(self) -> usize {
        match self {
            Self::KillOther | Self::KillFirst | Self::KillTwo => 2,
            Self::Mixed => 4,
            _ => 1,
        }
    }

    /// Begins what lasts as long as the job.
    pub(crate) fn begin(self, cluster: &Cluster<'_>, rng: &mut SmallRng) -> Result<Fault> {
        let hosts = cluster.hosts();
        let (a, b) = two(rng);
        Ok(match self {
            Self::Delay => hosts.delay(a, b, DELAY)?,
            Self::Jitter => hosts.jitter(a, b, JITTER_MIN..=JITTER_MAX)?,
            Self::Loss => hosts.loss(a, LOSS_PERCENT)?,
            Self::Bandwidth => hosts.bandwidth(a, BYTES_PER_SECOND)?,
            _ => Fault::default(),
        })
    }

    /// Does what is over before the job is.
    pub(crate) fn strike(self, cluster: &mut Cluster<'_>, rng: &mut SmallRng) -> Result<()> {
        let (a, b) = two(rng);
        let other = rng.gen_range(1..MEMBERS);
        match self {
            Self::KillOther => kill(cluster, &[other]),
            Self::KillFirst => kill(cluster, &[0]),
            Self::KillTwo => kill(cluster, &[a, b]),
            Self::StopOther => stop(cluster, other),
            Self::StopFirst => stop(cluster, 0),
            Self::Partition => part(cluster, |c| Ok(c.hosts().partition(a, b)?)),
            Self::PartitionOneWay => part(cluster, |c| Ok(c.hosts().partition_one_way(a, b)?)),
            Self::Isolate => part(cluster, |c| Ok(c.hosts().isolate(a)?)),
            Self::Mixed => MIX[rng.gen_range(0..MIX.len())].strike(cluster, rng),
            Self::Delay | Self::Jitter | Self::Loss | Self::Bandwidth => Ok(()),
        }
    }
}

/// Two members, in any order.
fn two(rng: &mut SmallRng) -> (usize, usize) {
    let mut all: Vec<_> = (0..MEMBERS).collect();
    all.shuffle(rng);
    (all[0], all[1])
}

fn kill(cluster: &mut Cluster<'_>, members: &[usize]) -> Result<()> {
    cluster.kill(members)?;
    for &member in members {
        // The others follow the first, which knows where the job was.
        cluster.start(member, if member == 0 { &["--resume"] } else { &[] })?;
    }
    Ok(())
}

fn stop(cluster: &mut Cluster<'_>, member: usize) -> Result<()> {
    cluster.process(member)?.pause()?;
    pass(STOPPED, cluster)?;
    cluster.process(member)?.go_on()
}

fn part(
    cluster: &mut Cluster<'_>,
    fault: impl FnOnce(&Cluster<'_>) -> Result<Fault>,
) -> Result<()> {
    let fault = fault(cluster)?;
    pass(PARTED, cluster)?;
    Ok(fault.heal()?)
}

/// Lets time pass. Nobody may end meanwhile.
fn pass(time: Duration, cluster: &mut Cluster<'_>) -> Result<()> {
    let begun = Instant::now();
    until("some time to pass", || {
        let ended = cluster.ended()?;
        ensure!(ended.is_none(), "host {ended:?} has ended meanwhile");
        Ok((begun.elapsed() >= time).then_some(()))
    })
}
