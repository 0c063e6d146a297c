//! What goes wrong with a job on several hosts.

use crate::cluster::{Cluster, MEMBERS};
use crate::jobs;
use crate::moment::Moment;
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
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
/// More than a host's part of the checkpoints needs, and not much.
const ROOM_KIB: u64 = 32 << 10;
/// Many times as long as from one checkpoint to the next.
const FULL: Duration = Duration::from_millis(1_500);
/// How far a clock jumps, in seconds.
const JUMP: i64 = 3600;

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
    /// A host's disk, with its part of the checkpoints and maybe copies of another one's, is full for a
    /// while.
    FullDisk,
    /// The wall clock of a member goes an hour forwards, then two back, and then is right again.
    ClockJump,
    /// The first member is killed, and started again to go on by a clock that is an hour behind.
    ClockBehind,
    /// An operator of some slot fails, of a job that must be [`Workload::Copies`](crate::jobs::Workload::Copies).
    Trip,
    /// Any of those before these four, several times.
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

    /// True if it lasts as long as the job.
    pub fn is_steady(self) -> bool {
        matches!(self, Self::Delay | Self::Jitter | Self::Loss | Self::Bandwidth)
    }

    /// True if the job must bear it without beginning anew.
    pub fn is_borne(self) -> bool {
        self.is_steady() || matches!(self, Self::ClockJump | Self::Trip)
    }

    /// How often it strikes in one run of the job. What is over at once strikes twice, so that the
    /// job is hit too that has been hit before.
    pub(crate) fn strikes(self) -> usize {
        match self {
            Self::KillOther | Self::KillFirst | Self::KillTwo => 2,
            Self::Mixed | Self::Trip => 4,
            _ => 1,
        }
    }

    /// Begins what lasts as long as the job, and prepares what comes while it runs.
    pub(crate) fn begin(self, cluster: &mut Cluster<'_>, rng: &mut SmallRng) -> Result<Steady> {
        let (a, b) = two(rng);
        match self {
            Self::FullDisk => cluster.limit_disk(a, ROOM_KIB)?,
            Self::ClockJump => cluster.add_clock(a)?,
            Self::ClockBehind => cluster.add_clock(0)?,
            _ => {}
        }
        let hosts = cluster.hosts();
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
    pub(crate) fn strike(
        self,
        prepared: &Steady,
        cluster: &mut Cluster<'_>,
        rng: &mut SmallRng,
    ) -> Result<bool> {
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
            Self::FullDisk => fill_disk(cluster, prepared.a)?,
            Self::ClockJump => [JUMP, -JUMP, 0]
                .into_iter()
                .try_for_each(|ahead| set_clock(cluster, prepared.a, ahead))?,
            Self::Trip => trip(cluster)?,
            Self::ClockBehind => {
                cluster.clock(0)?.set(-JUMP)?;
                kill(cluster, &[0])?;
                set_clock(cluster, 0, -JUMP)?;
            }
            Self::Mixed => {
                return MIX[rng.gen_range(0..MIX.len())].strike(prepared, cluster, rng);
            }
            Self::Delay | Self::Jitter | Self::Loss | Self::Bandwidth => {}
        }
        Ok(!self.is_borne())
    }
}

/// Trouble that lasts as long as the job, and whom it hits.
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

/// Makes a slot fail, and waits until it goes on alone. Whether the others do is told by their not having begun anew.
fn trip(cluster: &mut Cluster<'_>) -> Result<()> {
    // Of the newest that can be seen, the job may not know yet; of the one before it does.
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    let file = cluster.site().output().with_file_name(jobs::TRIP);
    let went_on = cluster.parts_gone_on();
    fs::write(&file, "")?;
    until("a slot to fail and go on", || {
        let ended = cluster.ended()?;
        ensure!(ended.is_none(), "host {ended:?} has ended, and no slot has failed and gone on");
        Ok((cluster.parts_gone_on() > went_on).then_some(()))
    })
}

/// Leaves no room on a member's disk for a while, in which no checkpoint completes, the first member says why,
/// and the job begins anew.
fn fill_disk(cluster: &mut Cluster<'_>, member: usize) -> Result<()> {
    let recoveries = cluster.recoveries();
    let mut full: Option<(Instant, _)> = None;
    until("no checkpoint for a while, and a new beginning", || {
        let ended = cluster.ended()?;
        ensure!(ended.is_none(), "host {ended:?} has ended on a full disk");
        cluster.disk(member)?.fill()?;
        let newest = cluster.site().newest()?;
        match full {
            Some((since, before)) if before == newest => {
                let is_over = since.elapsed() >= FULL && cluster.recoveries() > recoveries;
                return Ok(is_over.then_some(()));
            }
            // One that still completes makes room, which may be enough for another.
            _ => full = Some((Instant::now(), newest)),
        }
        Ok(None)
    })?;
    let disk = cluster.disk(member)?;
    let place = disk.path().display().to_string();
    let said = cluster.log(0).lines().any(|line| {
        let why = line.contains(" failed: ") && line.contains("No space left on device");
        why && line.contains(&place)
    });
    ensure!(said, "it is not said that no checkpoint completes for want of room in {place}");
    disk.free()
}

/// Sets the clock of a member, and waits for a checkpoint that completes by it.
fn set_clock(cluster: &mut Cluster<'_>, member: usize, ahead: i64) -> Result<()> {
    cluster.clock(member)?.set(ahead)?;
    cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
    let before = cluster.log(member).len();
    // It says when somebody comes who is no member.
    let (other, address) = ((member + 1) % MEMBERS, cluster.address(member));
    cluster.hosts().host(other).within(|| TcpStream::connect(address))??;
    let line = until("a member to say something", || {
        let log = cluster.log(member);
        let ended = log[before..].rsplit_once('\n').map(|(lines, _)| lines);
        Ok(ended.and_then(|lines| lines.lines().last()).map(str::to_owned))
    })?;
    let here = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let found = seconds(&line)? - here;
    ensure!((found - ahead).abs() < JUMP / 2, "a clock is {found} s ahead and not {ahead}: {line}");
    Ok(())
}

/// When a line of a log was written, in seconds since 1970.
fn seconds(line: &str) -> Result<i64> {
    let time = line.split(' ').next().unwrap_or_default();
    let parsed = Command::new("date").args(["+%s", "-d", time]).output()?;
    let parsed = String::from_utf8_lossy(&parsed.stdout).trim().parse();
    parsed.with_context(|| format!("no time at its beginning: {line}"))
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
