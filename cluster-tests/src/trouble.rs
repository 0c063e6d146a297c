//! What goes wrong with a job on several hosts.

use crate::cluster::{Cluster, MEMBERS};
use crate::process::until;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use millstream_hosts::{Fault, Host};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::fmt;
use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longer than members wait for a sign of life.
const STOPPED: Duration = Duration::from_secs(4);
/// Longer than it takes to notice, so that those who meet again do so after the job was ended.
const PARTED: Duration = Duration::from_secs(5);
const DELAY: Duration = Duration::from_millis(100);
const JITTER_MIN: Duration = Duration::from_millis(5);
const JITTER_MAX: Duration = Duration::from_millis(40);
const LOSS_PERCENT: f64 = 1.0;
/// Little enough that a host must wait that sends next to nothing.
const BYTES_PER_SECOND: u64 = 250_000;

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
    pub(crate) fn begin(self, cluster: &Cluster<'_>, rng: &mut SmallRng) -> Result<Steady> {
        let hosts = cluster.hosts();
        let (a, b) = two(rng);
        let fault = match self {
            Self::Delay => hosts.delay(a, b, DELAY)?,
            Self::Jitter => hosts.jitter(a, b, JITTER_MIN..=JITTER_MAX)?,
            Self::Loss => hosts.loss(a, LOSS_PERCENT)?,
            Self::Bandwidth => hosts.bandwidth(a, BYTES_PER_SECOND)?,
            _ => Fault::default(),
        };
        Ok(Steady { trouble: self, a, b, fault })
    }

    /// Does what is over before the job is. True if the job must begin anew for it.
    ///
    /// # Errors
    /// If it cannot be done, or the job ends while it lasts.
    pub(crate) fn strike(self, cluster: &mut Cluster<'_>, rng: &mut SmallRng) -> Result<bool> {
        let (a, b) = two(rng);
        let other = rng.gen_range(1..MEMBERS);
        match self {
            Self::KillOther => kill(cluster, &[other])?,
            Self::KillFirst => kill(cluster, &[0])?,
            Self::KillTwo => kill(cluster, &[a, b])?,
            Self::StopOther => stop(cluster, other)?,
            Self::StopFirst => stop(cluster, 0)?,
            Self::Partition => part(cluster, |c| Ok(c.hosts().partition(a, b)?))?,
            Self::PartitionOneWay => part(cluster, |c| Ok(c.hosts().partition_one_way(a, b)?))?,
            Self::Isolate => part(cluster, |c| Ok(c.hosts().isolate(a)?))?,
            Self::Mixed => return MIX[rng.gen_range(0..MIX.len())].strike(cluster, rng),
            Self::Delay | Self::Jitter | Self::Loss | Self::Bandwidth => {}
        }
        Ok(!self.is_steady())
    }
}

/// Trouble that lasts as long as the job.
#[derive(Debug)]
pub(crate) struct Steady {
    trouble: Trouble,
    a: usize,
    b: usize,
    fault: Fault,
}

impl Steady {
    /// Looks whether packets of the job that runs are slow.
    ///
    /// # Errors
    /// If they are not.
    pub(crate) fn check_while_it_runs(&self, cluster: &Cluster<'_>) -> Result<()> {
        let least = match self.trouble {
            Trouble::Delay => 2 * DELAY,
            Trouble::Jitter => 2 * JITTER_MIN,
            _ => return Ok(()),
        };
        let begun = Instant::now();
        let address = cluster.address(self.b);
        cluster.hosts().host(self.a).within(|| TcpStream::connect(address))??;
        let took = begun.elapsed();
        ensure!(took >= least, "it takes {took:?} to connect, not {least:?}");
        Ok(())
    }

    /// Looks whether packets of the job that has ended were lost or held back. Then ends it.
    ///
    /// # Errors
    /// If none were.
    pub(crate) fn end(self, cluster: &Cluster<'_>) -> Result<()> {
        match self.trouble {
            Trouble::Loss => {
                let lost = (0..MEMBERS).map(|member| sent_again(cluster.hosts().host(member)));
                let lost = lost.sum::<Result<u64>>()?;
                ensure!(lost > 0, "no packet was sent again");
            }
            Trouble::Bandwidth => {
                let held_back = held_back(cluster.hosts().host(self.a))?;
                ensure!(held_back > 0, "no packet was held back");
            }
            _ => {}
        }
        Ok(self.fault.heal()?)
    }
}

/// Segments of TCP that a host has sent again.
fn sent_again(host: &Host) -> Result<u64> {
    let table = host.within(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    // A line of names, and one of numbers.
    let mut lines = table.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, numbers) = (lines.next(), lines.next());
    let (names, numbers) = names.zip(numbers).context("the system does not count segments")?;
    let found = names.split(' ').zip(numbers.split(' ')).find(|(name, _)| *name == "RetransSegs");
    Ok(found.context("the system does not count what is sent again")?.1.parse()?)
}

/// How often a host had to wait with a packet.
fn held_back(host: &Host) -> Result<u64> {
    let output = host.command("tc").args(["-s", "qdisc", "show", "dev", "eth0"]).output()?;
    let words = String::from_utf8_lossy(&output.stdout);
    let mut words = words.split_ascii_whitespace();
    words.find(|word| *word == "overlimits").context("there is no limit of bandwidth")?;
    Ok(words.next().context("a number is missing")?.parse()?)
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
