//! Hosts, what lies on their disks, and which of them are the members of an attempt.

use crate::disk::{Disk, DiskFaults};
use crate::job::subtasks_of;
use crate::message::Token;
use crate::plan::Plan;
use millstream_protocol::{Deployment, Member, SubtaskId};
use std::collections::BTreeMap;

/// A host; never given to another.
pub(crate) type HostId = usize;

/// Which attempt a script or a message belongs to. No two have the same number, and later ones have
/// greater ones.
pub(crate) type AttemptId = u64;

/// A disk whose scripts tell which attempt they are of.
pub(crate) type HostDisk = Disk<(AttemptId, Token)>;

/// The disks of all hosts, and the place where sinks put their rows. On one host that is its own disk;
/// with several it belongs to none of them, as rows of a host that is lost must not be.
#[derive(Clone, Debug)]
pub(crate) struct Disks {
    disks: BTreeMap<HostId, HostDisk>,
    outputs: HostId,
    next: HostId,
}

impl Disks {
    pub(crate) fn new(hosts: usize, faults: DiskFaults) -> Self {
        let outputs = if hosts == 1 { 0 } else { hosts };
        let mut disks = Self { disks: BTreeMap::new(), outputs, next: 0 };
        while disks.next <= outputs {
            disks.add(faults);
        }
        disks
    }

    /// A host with an empty disk.
    pub(crate) fn add(&mut self, faults: DiskFaults) -> HostId {
        let mut disk = Disk::new();
        disk.faults = faults;
        self.disks.insert(self.next, disk);
        self.next += 1;
        self.next - 1
    }

    /// A host is gone for ever.
    pub(crate) fn remove(&mut self, host: HostId) {
        self.disks.remove(&host);
    }

    pub(crate) fn heal(&mut self) {
        self.disks.values_mut().for_each(|disk| disk.faults = DiskFaults::default());
    }

    /// `None` for a host that is gone.
    pub(crate) fn get(&self, host: HostId) -> Option<&HostDisk> {
        self.disks.get(&host)
    }

    pub(crate) fn get_mut(&mut self, host: HostId) -> Option<&mut HostDisk> {
        self.disks.get_mut(&host)
    }

    pub(crate) fn outputs(&self) -> HostId {
        self.outputs
    }

    /// Where sinks put their rows.
    pub(crate) fn output(&self) -> &HostDisk {
        &self.disks[&self.outputs]
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (HostId, &mut HostDisk)> {
        self.disks.iter_mut().map(|(host, disk)| (*host, disk))
    }

    /// A number that changes whenever a name or something durable does.
    pub(crate) fn version(&self) -> u64 {
        self.disks.values().map(Disk::version).sum()
    }
}

/// Who runs an attempt: a host for each member, and a member for each subtask.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    pub(crate) attempt: AttemptId,
    /// By the members' places. The first one's process controls the job.
    pub(crate) hosts: Vec<HostId>,
    deployment: Deployment,
    /// A slot has one subtask here.
    slots: Vec<SubtaskId>,
    copies: usize,
}

impl Crew {
    pub(crate) fn new(
        plan: &Plan,
        hosts: Vec<HostId>,
        parallelism: &[u32],
        generation: u64,
        attempt: AttemptId,
    ) -> Self {
        let mut slots = subtasks_of(plan, parallelism);
        slots.sort_by_key(|id| (id.subtask, id.vertex));
        let member = |(place, host): (usize, &HostId)| Member {
            name: format!("host {host}"),
            address: format!("host-{host}:1"),
            slots: slots.len().div_ceil(hosts.len()) as u32,
            rack: plan.racks.map(|racks| format!("rack {}", place % racks)),
        };
        let deployment = Deployment {
            job: "simulated".to_owned(),
            generation,
            members: hosts.iter().enumerate().map(member).collect(),
            member: 0,
            parallelism: None,
            from_checkpoint: None,
            cores: Vec::new(),
            secret_file: None,
            data_directory: None,
            agent: None,
        };
        Self { attempt, hosts, deployment, slots, copies: plan.copies }
    }

    /// Where a subtask runs; with none, where the job is controlled.
    pub(crate) fn member_of(&self, subtask: Option<SubtaskId>) -> usize {
        let slot = subtask.and_then(|id| self.slots.iter().position(|slot| *slot == id));
        slot.and_then(|slot| self.deployment.member_of(slot as u32)).unwrap_or(0)
    }

    /// The members that have copies of what a member writes.
    pub(crate) fn replicas_of(&self, member: usize) -> Vec<usize> {
        let mut replicas = self.deployment.replicas_of(member);
        replicas.truncate(self.copies);
        replicas
    }

    /// The disks of all members.
    pub(crate) fn disks<'a>(&self, disks: &'a Disks) -> Vec<&'a HostDisk> {
        self.hosts.iter().filter_map(|host| disks.get(*host)).collect()
    }
}
