//! A job on several hosts: its processes, and how they find each other.
//!
//! Each host has one process of the job, a **member**, with some of the job's slots. All run the same
//! executable and so have the same graph, which is compared when they meet. The first member controls the
//! job: it performs what a job of one process does, with slots of other members beside its own. To each
//! it has a **control link**; slots are connected with each other, each with each or by gateways, for one
//! attempt at a time.
//!
//! ```text
//! first member                         another member
//!   control thread ◀── control link ──▶ member thread      orders, reports, heartbeats
//!   slots ◀───────── data connections ─────────▶ slots     records, barriers, credits
//!                                                member    signs of life, to each other such member
//! ```
//!
//! # Invariants
//! - An attempt has a number that no other attempt of the job has, of whatever deployment: what belongs to
//!   another is refused.
//! - Who loses the control link, or hears nothing by it for a while, ends its attempt: the other side
//!   counts on it. So does who hears nothing of another member any more.
//! - A process follows one deployment of the job at a time. It lets go of the members of one before it follows the
//!   next ([`Host::follow`]), in which nothing that belongs to the one before takes effect.
//! - Nothing is received from a stranger but the fixed number of bytes by which it shows that it is one.

mod agent;
mod connection;
mod control_link;
mod files;
mod fleet;
mod fuzzing;
mod listener;
mod member;
mod message;
mod peers;
mod post;

pub(crate) use agent::Agent;
pub(crate) use control_link::Crew;
pub use fuzzing::check_message;
pub(crate) use member::follow;
pub(crate) use peers::Peer;
pub(crate) use post::Post;

use crate::config::CheckpointConfig;
use crate::error::JobError;
use crate::exchange::{Routes, SlotStream};
use crate::job::{JobMetrics, JobResult, JobStatus};
use crate::metrics::JobCounters;
use connection::{Hello, Identity, Purpose};
use files::{BandwidthLimit, MemberStorage};
use fleet::Fleet;
use listener::{Hall, Listener};
use millstream_network::remote::handshake::Secret;
use millstream_protocol::{Deployment, EndStatus, Member, Told};
use millstream_storage::{LocalDirectory, Storage};
use millstream_types::SlotIndex;
use std::fs::File;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

/// How long the members of a job may take to be there, or to be there again, if no agent knows better.
pub(crate) const GATHER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to connect to a member that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a member may take to have what it begins with.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(600);
/// How often it is looked whether there is still something to wait for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Who says nothing for so long is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often there is something to hear.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// This process' place among the members of a job.
pub(crate) struct Host {
    deployment: Deployment,
    routes: Routes,
    identity: Identity,
    /// Whoever has started this process.
    agent: OnceLock<Arc<Agent>>,
    listener: Arc<Listener>,
    hall: Arc<Hall>,
    /// The directories of the other members, if each has its own.
    directories: Mutex<Vec<Arc<MemberStorage>>>,
    /// The control links of this process.
    links: Mutex<Vec<Weak<TcpStream>>>,
    /// The job goes on with other members.
    has_let_go: AtomicBool,
}

impl Host {
    /// Begins to listen for the other members.
    ///
    /// # Errors
    /// If the deployment makes no sense, the secret is needed and is not there, or the address cannot be
    /// had.
    pub(crate) fn open(
        deployment: Deployment,
        routes: Routes,
        fingerprint: u64,
    ) -> Result<Self, JobError> {
        deployment.validate().map_err(JobError::Invalid)?;
        let own = deployment.members[deployment.member].clone();
        let address = resolve(&own.address)?;
        let secret = match &deployment.secret_file {
            Some(file) => Some(read_secret(file)?),
            None if address.ip().is_loopback() => None,
            None => {
                return Err(JobError::Invalid(format!(
                    "{} is not a loopback address, so anybody could connect to it: write a secret of at least 16 bytes to a file on each host, readable by its owner alone (chmod 600), and name it by secret_file",
                    own.address
                )));
            }
        };
        let identity = Identity::new(&deployment.job, deployment.generation, fingerprint, secret);
        let (listener, hall) = Listener::bind(address, identity.clone())
            .map_err(|error| JobError::Invalid(format!("{}: {error}", own.address)))?;
        let agent = OnceLock::new();
        Ok(Self::with(deployment, routes, identity, agent, Arc::new(listener), hall))
    }

    fn with(
        deployment: Deployment,
        routes: Routes,
        identity: Identity,
        agent: OnceLock<Arc<Agent>>,
        listener: Arc<Listener>,
        hall: Arc<Hall>,
    ) -> Self {
        let (directories, links) = (Mutex::default(), Mutex::default());
        let has_let_go = AtomicBool::new(false);
        Self { deployment, routes, identity, agent, listener, hall, directories, links, has_let_go }
    }

    /// This process' place in another deployment of the job, which it follows from now on: it has let go of
    /// the members of this one. What they have asked for is done, or is never done.
    ///
    /// # Errors
    /// If the other deployment wants of this process what only a new one can do.
    pub(crate) fn follow(
        &self,
        deployment: Deployment,
        routes: Routes,
        metrics: &JobMetrics,
    ) -> Result<Self, JobError> {
        deployment.validate().map_err(JobError::Invalid)?;
        self.let_go();
        let identity = self.identity.of_generation(deployment.generation);
        let hall = self.listener.expect_others(identity.clone());
        let agent = self.agent.clone();
        if let Some(agent) = agent.get() {
            agent.follow(&deployment, metrics);
        }
        Ok(Self::with(deployment, routes, identity, agent, Arc::clone(&self.listener), hall))
    }

    /// Whether this process can follow another deployment without beginning anew.
    pub(crate) fn can_follow(&self, other: &Deployment) -> bool {
        let own = &self.deployment;
        let address = |of: &Deployment| of.members.get(of.member).map(|one| one.address.clone());
        let as_own = Deployment {
            generation: own.generation,
            members: own.members.clone(),
            member: own.member,
            cores: own.cores.clone(),
            ..other.clone()
        };
        as_own == *own && other.slots() == own.slots() && address(other) == address(own)
    }

    /// Lets go of all other members: whatever waits for one of them does so no longer, and those see their
    /// links end. From any thread.
    pub(crate) fn let_go(&self) {
        self.has_let_go.store(true, Ordering::SeqCst);
        self.hall.close();
        self.directories().iter().for_each(|directory| directory.give_up());
        for link in self.links().drain(..).filter_map(|link| link.upgrade()) {
            // It may be closed already.
            let _ = link.shutdown(Shutdown::Both);
        }
    }

    fn has_let_go(&self) -> bool {
        self.has_let_go.load(Ordering::SeqCst)
    }

    fn links(&self) -> MutexGuard<'_, Vec<Weak<TcpStream>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A control link, which is held until it is dropped, or let go of.
    fn hold(&self, stream: TcpStream) -> Arc<TcpStream> {
        let stream = Arc::new(stream);
        let mut links = self.links();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&stream));
        drop(links);
        if self.has_let_go() {
            // As above.
            let _ = stream.shutdown(Shutdown::Both);
        }
        stream
    }

    /// From now on the process talks to the agent that has started it, if one has.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(crate) fn attach_agent(
        &self,
        metrics: &JobMetrics,
        on_order: agent::OnOrder,
    ) -> Result<(), JobError> {
        let attached = Agent::attach(&self.deployment, metrics, on_order)
            .map_err(|error| JobError::Invalid(format!("no thread can be started: {error}")))?;
        if let Some(agent) = attached {
            // It is attached once.
            let _ = self.agent.set(Arc::new(agent));
        }
        Ok(())
    }

    /// Whether an agent has started this process, which decides how long it waits for others.
    pub(crate) fn has_agent(&self) -> bool {
        self.deployment.agent.is_some()
    }

    /// Whether another deployment of the job was before this one, whose processes may be there still.
    pub(crate) fn takes_a_place(&self) -> bool {
        self.has_agent() && self.deployment.generation > 1
    }

    /// Tells the agent.
    pub(crate) fn tell(&self, told: Told) {
        // It would count for the deployment that is followed instead.
        if let Some(agent) = self.agent.get().filter(|_| !self.has_let_go()) {
            agent.tell(told);
        }
    }

    /// Tells the agent how the job has ended, as its last words.
    pub(crate) fn tell_end(&self, result: &Result<JobResult, JobError>) {
        let Some(agent) = self.agent.get() else { return };
        let (status, error) = match result {
            Ok(result) => match result.status {
                JobStatus::Finished => (EndStatus::Finished, None),
                JobStatus::Stopped => (EndStatus::Stopped, None),
                JobStatus::Canceled => (EndStatus::Canceled, None),
            },
            Err(JobError::Canceled) => (EndStatus::Canceled, None),
            Err(error) => (EndStatus::Failed, Some(shortened(error.to_string()))),
        };
        agent.end(Told::Ended { status, error });
    }

    /// The cores that this process may pin its slots to; `None` if it may pin them to any.
    pub(crate) fn cores(&self) -> Option<&[usize]> {
        self.deployment.agent.as_ref().map(|_| &*self.deployment.cores)
    }

    /// The slots of this process.
    pub(crate) fn slots(&self) -> Range<u32> {
        self.routes.slots(self.deployment.member)
    }

    /// The slots of each process.
    pub(crate) fn slots_of_all(&self) -> impl Iterator<Item = Range<u32>> {
        (0..self.deployment.members.len()).map(|member| self.routes.slots(member))
    }

    /// How many connections each of them has to slots of other members.
    pub(crate) fn connections_of_slots(&self) -> Vec<usize> {
        self.routes.connections_of_slots(self.deployment.member)
    }

    /// Attempts have numbers above this one, if this process controls the job.
    pub(crate) fn attempts_before(&self) -> u64 {
        match self.deployment.generation {
            // Started by hand, maybe not for the first time: whatever came before had less time.
            0 => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_millis() as u64),
            generation => generation << 32,
        }
    }

    /// Whoever controls the job may have begun to count anew.
    fn forget_attempts(&self) {
        self.hall.expect_any();
    }

    /// True if this process controls the job.
    pub(crate) fn is_first(&self) -> bool {
        self.deployment.member == 0
    }

    /// The name of a member.
    fn name(&self, member: usize) -> &str {
        &self.deployment.members[member].name
    }

    /// The directories of all members as one place, of which this process has `own`, which it serves to the
    /// others from now on.
    ///
    /// # Errors
    /// If there are to be more copies than other members, or one of them has no address.
    pub(crate) fn fleet(
        &self,
        own: Arc<LocalDirectory>,
        config: &CheckpointConfig,
        counters: &Arc<JobCounters>,
    ) -> Result<Arc<dyn Storage>, JobError> {
        let (members, member) = (&self.deployment.members, self.deployment.member);
        if config.copies >= members.len() {
            return Err(JobError::Invalid(format!(
                "checkpoint_durability is replicated({}), and the job has {} other hosts; name more, or ask for fewer copies",
                config.copies,
                members.len() - 1
            )));
        }
        let limit = Arc::new(BandwidthLimit::new(config.copy_bandwidth, Arc::clone(counters)));
        let mut others = Vec::new();
        for other in self.deployment.replicas_of(member) {
            let Member { name, address, .. } = &members[other];
            others.push(Arc::new(MemberStorage::new(
                name.clone(),
                resolve(address)?,
                self.identity.clone(),
                member as u32,
                Arc::clone(&limit),
            )));
        }
        self.hall.serve(Arc::clone(&own));
        self.directories().clone_from(&others);
        if self.has_let_go() {
            others.iter().for_each(|other| other.give_up());
        }
        let others = others.into_iter().map(|other| other as Arc<dyn Storage>).collect();
        Ok(Arc::new(Fleet::new(own, others, config.copies)))
    }

    fn directories(&self) -> MutexGuard<'_, Vec<Arc<MemberStorage>>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt is over: whatever waits for the directories of other members meanwhile does so in vain.
    pub(crate) fn give_up_files(&self, f: impl FnOnce()) {
        let directories = self.directories().clone();
        directories.iter().for_each(|directory| directory.give_up());
        f();
        directories.iter().for_each(|directory| directory.take_up());
        if self.has_let_go() {
            directories.iter().for_each(|directory| directory.give_up());
        }
    }

    /// Connects this process' slots with those of the other members that they have routes to, for an attempt,
    /// and with the members that have no control link with this one. Waits for the others to do the same, until there
    /// is a reason to `give_up`.
    ///
    /// # Errors
    /// If one of them cannot be reached, or does not come, or the reason.
    pub(crate) fn connect_slots(
        &self,
        attempt: u64,
        give_up: &(dyn Fn() -> Option<JobError> + Sync),
    ) -> Result<Connected, JobError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        // Whoever is to connect may have to fetch his state first.
        let latest = Instant::now() + RESTORE_TIMEOUT;
        self.hall.expect(attempt);
        let here = self.slots();
        std::thread::scope(|scope| {
            // The later member connects to the earlier one.
            let mut dialed = Vec::new();
            for member in 0..self.deployment.member {
                dialed.push(
                    scope.spawn(move || self.dial_member(member, attempt, deadline, give_up)),
                );
            }
            let mut streams: Vec<Vec<SlotStream>> = here.clone().map(|_| Vec::new()).collect();
            let mut peers = Vec::new();
            for member in self.deployment.member + 1..self.deployment.members.len() {
                let await_it = |purpose| self.await_member(member, purpose, latest, give_up);
                if !self.is_first() {
                    let purpose = Purpose::Peer { attempt, member: member as u32 };
                    peers.push(Peer { member, stream: await_it(purpose)? });
                }
                for (from, to) in self.routes.connections(member, self.deployment.member) {
                    let stream = await_it(Purpose::Slot { attempt, from, to })?;
                    let name = format!("slot {from} on {}", self.name(member));
                    let place = &mut streams[(to - here.start) as usize];
                    place.push(SlotStream { slot: SlotIndex(from), name, stream });
                }
            }
            for dialed in dialed {
                let dialed = dialed.join().unwrap_or_else(|p| std::panic::resume_unwind(p))?;
                let Dialed { peer, of_slots } = dialed;
                peers.extend(peer);
                for (slot, stream) in of_slots {
                    streams[(slot - here.start) as usize].push(stream);
                }
            }
            Ok(Connected { streams, peers })
        })
    }

    /// Makes all connections to an earlier member.
    fn dial_member(
        &self,
        member: usize,
        attempt: u64,
        deadline: Instant,
        give_up: &(dyn Fn() -> Option<JobError> + Sync),
    ) -> Result<Dialed, JobError> {
        let dial = |purpose| self.dial(member, purpose, deadline, give_up);
        let peer = if member > 0 {
            let purpose = Purpose::Peer { attempt, member: self.deployment.member as u32 };
            Some(Peer { member, stream: dial(purpose)? })
        } else {
            None
        };
        let connections = self.routes.connections(self.deployment.member, member);
        let of_slots = connections.map(|(from, to)| {
            let stream = dial(Purpose::Slot { attempt, from, to })?;
            let name = format!("slot {to} on {}", self.name(member));
            Ok((from, SlotStream { slot: SlotIndex(to), name, stream }))
        });
        Ok(Dialed { peer, of_slots: of_slots.collect::<Result<_, JobError>>()? })
    }

    /// Waits for a connection that a later member makes.
    fn await_member(
        &self,
        member: usize,
        purpose: Purpose,
        latest: Instant,
        give_up: &dyn Fn() -> Option<JobError>,
    ) -> Result<TcpStream, JobError> {
        loop {
            if let Some(stream) = self.hall.take(purpose, Instant::now() + LOOK_INTERVAL) {
                return Ok(stream);
            }
            if let Some(reason) = give_up() {
                return Err(reason);
            }
            if Instant::now() >= latest {
                return Err(JobError::Host(format!(
                    "{} has not connected ({purpose}) within {RESTORE_TIMEOUT:?}",
                    self.name(member)
                )));
            }
        }
    }

    /// Connects to another member, unless there is a reason to `give_up` before.
    fn dial(
        &self,
        member: usize,
        purpose: Purpose,
        deadline: Instant,
        give_up: &dyn Fn() -> Option<JobError>,
    ) -> Result<TcpStream, JobError> {
        let address = &self.deployment.members[member].address;
        let failed = |error: &dyn std::fmt::Display| {
            JobError::Host(format!("{} at {address}: {error}", self.name(member)))
        };
        let resolved = resolve(address)?;
        let hello = Hello::new(&self.identity, purpose);
        connection::dial(resolved, &self.identity, &hello, deadline, &|| give_up().is_none())
            .map_err(|error| give_up().unwrap_or_else(|| failed(&error)))
    }
}

/// The connections of this process for an attempt.
#[derive(Default)]
pub(crate) struct Connected {
    /// Of each of its slots.
    pub(crate) streams: Vec<Vec<SlotStream>>,
    /// To members with which it has no control link.
    pub(crate) peers: Vec<Peer>,
}

/// Those that this process has made to one other member, each with its slot here.
struct Dialed {
    peer: Option<Peer>,
    of_slots: Vec<(u32, SlotStream)>,
}

fn resolve(address: &str) -> Result<SocketAddr, JobError> {
    let unknown = |error: &dyn std::fmt::Display| {
        JobError::Invalid(format!("\"{address}\" is no address such as 10.0.0.1:7801: {error}"))
    };
    let mut found = address.to_socket_addrs().map_err(|error| unknown(&error))?;
    found.next().ok_or_else(|| unknown(&"nobody knows the name"))
}

/// What an agent is told of an error, of which programs may make any number of words: it hears lines up to
/// 64 KiB, and escapes may make a byte six.
pub(crate) fn shortened(mut error: String) -> String {
    const BYTES_MAX: usize = 8 << 10;
    if error.len() > BYTES_MAX {
        error.truncate(error.floor_char_boundary(BYTES_MAX));
        error.push('…');
    }
    error
}

/// The most that a file with a secret may hold.
const SECRET_FILE_MAX: u64 = 4096;

fn read_secret(path: &Path) -> Result<Secret, JobError> {
    let failed = |error: &dyn std::fmt::Display| {
        JobError::Invalid(format!("secret file {}: {error}", path.display()))
    };
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    let mode = file.metadata().map_err(|error| failed(&error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(failed(&format!(
            "others than its owner may read it (mode {:o}); chmod 600 it",
            mode & 0o777
        )));
    }
    let mut text = Vec::new();
    file.by_ref().take(SECRET_FILE_MAX).read_to_end(&mut text).map_err(|error| failed(&error))?;
    Secret::new(text.trim_ascii()).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_no_more_of_an_error_than_it_hears() {
        assert_eq!(shortened("why".to_owned()), "why");
        let told = Told::Restarting { error: shortened("\u{1}ä".repeat(40_000)) };
        assert!(serde_json::to_vec(&told).unwrap().len() < 64 << 10);
    }
}
