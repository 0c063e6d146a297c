//! A job on several hosts.

use crate::clock::Clock;
use crate::disk::SmallDisk;
use crate::jobs::Workload;
use crate::moment::Moment;
use crate::process::{Process, until};
use crate::site::{Program, Site};
use anyhow::{Context, Result, bail, ensure};
use millstream_hosts::Hosts;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, OpenOptions, Permissions};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Hosts of a cluster. The first controls the job.
pub const MEMBERS: usize = 3;
/// Of each host.
const SLOTS: u32 = 2;
const PORT: u16 = 7801;
/// What all members know.
const SECRET: &str = "many words that nobody shall see";

/// How fast a job runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many seconds at the least, because its source is paced.
    Seconds(f64),
    /// As fast as it can.
    Full,
}

/// A host, by its number, and how many slots of the job it has.
pub type Share = (usize, u32);

/// One process of the job on each of [`MEMBERS`] hosts, or on some of them. They share a disk.
///
/// All of it ends with this value.
#[derive(Debug)]
pub struct Cluster<'a> {
    // First, so that processes end before their networks and disks do.
    members: Vec<Option<Process>>,
    program: &'a Program,
    workload: Workload,
    flags: Vec<String>,
    site: Site,
    /// Who has slots of the job, the one that controls it first.
    shares: Vec<Share>,
    /// Each host has checkpoints of its own.
    has_own_checkpoints: bool,
    /// Of hosts whose disk is small.
    disks: BTreeMap<usize, SmallDisk>,
    /// Of hosts whose clock can be set.
    clocks: BTreeMap<usize, Clock>,
    /// The file that names the hosts, the secret, and what each member says.
    folder: TempDir,
    hosts: Hosts,
}

impl<'a> Cluster<'a> {
    /// A job that has not been started anywhere.
    ///
    /// # Errors
    /// If hosts or files cannot be made.
    pub fn new(program: &'a Program, workload: Workload, pace: Pace) -> Result<Self> {
        let hosts = Hosts::new(MEMBERS)?;
        let folder = tempfile::tempdir()?;
        let secret = folder.path().join("secret");
        fs::write(&secret, SECRET)?;
        fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
        let mut flags = Vec::new();
        if let Pace::Seconds(seconds) = pace {
            let rate = workload.records() as f64 / seconds;
            flags.extend(["--source-rate".to_owned(), rate.to_string()]);
        }
        let mut cluster = Self {
            program,
            workload,
            flags,
            site: Site::new()?,
            shares: Vec::new(),
            has_own_checkpoints: false,
            disks: BTreeMap::new(),
            clocks: BTreeMap::new(),
            folder,
            members: (0..MEMBERS).map(|_| None).collect(),
            hosts,
        };
        cluster.divide(&[(0, SLOTS), (1, SLOTS), (2, SLOTS)])?;
        Ok(cluster)
    }

    /// Gives slots of the job to these hosts alone, for processes that are started from now on.
    ///
    /// # Errors
    /// If the file that says so cannot be written.
    pub fn divide(&mut self, shares: &[Share]) -> Result<()> {
        let secret = self.folder.path().join("secret").display().to_string();
        let mut file = format!("secret_file = {secret:?}\n");
        for &(member, slots) in shares {
            let (name, address) = (name(member), self.address(member));
            write!(
                file,
                "[[host]]\nname = \"{name}\"\naddress = \"{address}\"\nslots = {slots}\n"
            )?;
        }
        fs::write(self.folder.path().join("hosts.toml"), file)?;
        self.shares = shares.to_vec();
        if let Some(&(first, _)) = shares.first() {
            self.site.look_at(self.checkpoints(first));
        }
        Ok(())
    }

    /// From now on each host has a directory of checkpoints of its own.
    ///
    /// # Errors
    /// As [`Self::divide`].
    pub fn part_checkpoints(&mut self) -> Result<()> {
        self.has_own_checkpoints = true;
        self.divide(&self.shares.clone())
    }

    /// Gives a host a disk of so many KiB for checkpoints of its own.
    ///
    /// # Errors
    /// If there can be none.
    pub fn limit_disk(&mut self, member: usize, kib: u64) -> Result<()> {
        self.disks.insert(member, SmallDisk::new(kib)?);
        self.part_checkpoints()
    }

    /// The small disk of a host.
    ///
    /// # Errors
    /// If it has none.
    pub fn disk(&self, member: usize) -> Result<&SmallDisk> {
        self.disks.get(&member).with_context(|| format!("{} has no small disk", name(member)))
    }

    /// Gives the processes of a host that are started from now on a clock that can be set.
    ///
    /// # Errors
    /// If there can be none.
    pub fn add_clock(&mut self, member: usize) -> Result<()> {
        let clock = Clock::new(self.folder.path().join(name(member)).with_extension("clock"))?;
        self.clocks.insert(member, clock);
        Ok(())
    }

    /// The clock of a host that can be set.
    ///
    /// # Errors
    /// If it has none.
    pub fn clock(&self, member: usize) -> Result<&Clock> {
        self.clocks.get(&member).with_context(|| format!("{} has no such clock", name(member)))
    }

    /// The slots of a member, if each has as many.
    pub fn slots(member: usize) -> Range<u32> {
        let first = member as u32 * SLOTS;
        first..first + SLOTS
    }

    /// Where the checkpoints of a host lie.
    pub fn checkpoints(&self, member: usize) -> PathBuf {
        match self.disks.get(&member) {
            Some(disk) => disk.path().join("checkpoints"),
            None if self.has_own_checkpoints => self.folder.path().join(name(member)),
            None => self.folder.path().join("checkpoints"),
        }
    }

    /// The hosts that have slots of the job.
    fn divided(&self) -> Vec<usize> {
        self.shares.iter().map(|&(member, _)| member).collect()
    }

    /// Adds flags that all processes have which are started from now on.
    pub fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Starts a member, or starts it again.
    ///
    /// # Errors
    /// If it cannot be started, or is there.
    pub fn start(&mut self, member: usize, flags: &[&str]) -> Result<()> {
        ensure!(self.members[member].is_none(), "{} is there", name(member));
        let host = self.hosts.host(member);
        let checkpoints = self.checkpoints(member);
        let clock = self.clocks.get(&member);
        let mut command =
            self.site.command_on(host, clock, self.program, self.workload, &checkpoints);
        command.arg("--cluster").arg(self.folder.path().join("hosts.toml"));
        command.args(["--host", &name(member)]).args(&self.flags).args(flags);
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(member))?;
        command.stderr(log);
        let process = Process::start(&mut command)?;
        if let Some(clock) = self.clocks.get_mut(&member) {
            clock.given_to(process.id());
        }
        self.members[member] = Some(process);
        Ok(())
    }

    /// Starts all members.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_all(&mut self) -> Result<()> {
        self.start_all_with(&[])
    }

    /// Starts all members, with flags.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_all_with(&mut self, flags: &[&str]) -> Result<()> {
        self.divided().into_iter().try_for_each(|member| self.start(member, flags))
    }

    /// Kills all members (SIGKILL).
    ///
    /// # Errors
    /// As [`Self::kill`].
    pub fn kill_all(&mut self) -> Result<()> {
        self.kill(&self.divided())
    }

    /// The process of a member.
    ///
    /// # Errors
    /// If it is not there.
    pub fn process(&mut self, member: usize) -> Result<&mut Process> {
        self.members[member].as_mut().with_context(|| format!("{} is not there", name(member)))
    }

    /// Kills members (SIGKILL), all before any of them is waited for.
    ///
    /// # Errors
    /// If one was not there any more.
    pub fn kill(&mut self, members: &[usize]) -> Result<()> {
        let mut killed = Vec::new();
        for &member in members {
            let process = self.members[member].take();
            killed
                .push((member, process.with_context(|| format!("{} is not there", name(member)))?));
        }
        for (_, process) in &mut killed {
            process.begin_to_kill()?;
        }
        for (member, process) in killed {
            let status = process.kill()?;
            ensure!(status.signal().is_some(), "{} had ended before: {status}", name(member));
        }
        Ok(())
    }

    /// Which member has ended by itself, if any has: none may, as long as the job runs.
    ///
    /// # Errors
    /// If one has failed.
    pub fn ended(&mut self) -> Result<Option<usize>> {
        first_ended(&mut self.members)
    }

    /// Waits for a moment in the life of the job.
    ///
    /// # Errors
    /// If the job ends before it.
    pub fn wait_for(&mut self, moment: Moment) -> Result<()> {
        let ended = moment.wait(&self.site, || first_ended(&mut self.members))?;
        ensure!(ended.is_none(), "the job has ended before {moment:?}");
        ensure!(!self.site.has_final_checkpoint()?, "the job was about to end: {moment:?}");
        Ok(())
    }

    /// Waits for the ends of all members, all of which must be there.
    ///
    /// # Errors
    /// If one fails, or does not end in time.
    pub fn wait(&mut self) -> Result<()> {
        until("the end of a job", || {
            let mut left = 0;
            for member in self.divided() {
                match self.process(member)?.ended()? {
                    None => left += 1,
                    Some(status) if status.success() => {}
                    Some(status) => bail!("{} has ended with {status}", name(member)),
                }
            }
            Ok((left == 0).then_some(()))
        })
    }

    /// How often the job has gone on from a checkpoint, in all.
    pub fn recoveries(&self) -> usize {
        // The member says so that controls the job.
        self.logs().matches("going on from checkpoint").count()
    }

    /// How often only some slots have gone on from a checkpoint.
    pub fn parts_gone_on(&self) -> usize {
        // As above.
        self.logs().matches(" go on from checkpoint").count()
    }

    /// The folders that all members work in.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The hosts, by the numbers of the members.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Where a member listens for others.
    pub fn address(&self, member: usize) -> SocketAddr {
        (self.hosts.host(member).address(), PORT).into()
    }

    fn log_file(&self, member: usize) -> PathBuf {
        self.folder.path().join(name(member)).with_extension("log")
    }

    /// What a member has said.
    pub fn log(&self, member: usize) -> String {
        fs::read_to_string(self.log_file(member)).unwrap_or_default()
    }

    /// What all have said.
    pub fn logs(&self) -> String {
        let of = |member| format!("---- {}\n{}", name(member), self.log(member));
        (0..MEMBERS).map(of).collect()
    }

    /// What all members know, and nobody else shall.
    pub fn secret(&self) -> &str {
        SECRET
    }

    /// The folder of the file that names the hosts.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn first_ended(members: &mut [Option<Process>]) -> Result<Option<usize>> {
    for (member, process) in members.iter_mut().enumerate() {
        let Some(process) = process else { continue };
        if let Some(status) = process.ended()? {
            ensure!(status.success(), "{} has ended with {status}", name(member));
            return Ok(Some(member));
        }
    }
    Ok(None)
}

fn name(member: usize) -> String {
    format!("host{member}")
}
