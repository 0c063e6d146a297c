//! The first member's side of the control links.

use super::message::{self, Ending, FailureMessage, Order, Told};
use super::post::Post;
use super::{GATHER_TIMEOUT, HEARTBEAT_INTERVAL, Host, SILENCE_MAX};
use crate::checkpoint::{Damaged, DamagedElsewhere, Report, SealedSnapshot, Transaction};
use crate::error::JobError;
use crate::job::{JobMetrics, Shared};
use crate::slot::{Cause, SlotFailure};
use millstream_protocol::{FileEntry, Manifest, SubtaskId, Told as AgentTold};
use millstream_state::StateFile;
use millstream_types::{CheckpointId, OperatorId, SlotIndex, SubtaskIndex, VertexId};
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a member may take to end an attempt.
const GONE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a member may take to come before the agent is told that it cannot be reached.
const UNHEARD_MAX: Duration = Duration::from_secs(15);
/// How often the agent is told, so that several reports count together.
const TELL_INTERVAL: Duration = Duration::from_secs(3);

/// The other members, as the first one sees them.
pub(crate) struct Crew {
    host: Arc<Host>,
    state: Arc<State>,
    /// The words in the lock of the directory of checkpoints.
    directory: Option<String>,
    /// How many links there have been.
    links: u64,
    threads: Vec<JoinHandle<()>>,
}

/// Where what members tell goes while an attempt runs.
struct Events {
    reports: Sender<Report>,
    shared: Arc<Shared>,
}

struct State {
    host: Arc<Host>,
    metrics: JobMetrics,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    links: BTreeMap<usize, Link>,
    /// The attempts that have begun, and have not ended.
    attempts: BTreeMap<u64, Underway>,
}

/// An attempt in which other members take part.
#[derive(Default)]
struct Underway {
    /// Those in which it has not ended, each with its slots that are not over.
    members: BTreeMap<usize, u32>,
    /// Who was lost since it began.
    lost: Option<usize>,
    events: Option<Events>,
    /// What was told of the attempt before anybody wanted to hear it.
    early: Vec<Told>,
}

struct Link {
    orders: Sender<Order>,
    stream: Arc<TcpStream>,
    /// Which of all links it is.
    serial: u64,
    /// Whether it shares the directory of checkpoints, if it has said so.
    shares: Option<bool>,
}

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    pub(crate) fn new(host: Arc<Host>, metrics: JobMetrics) -> Self {
        let state = State {
            host: Arc::clone(&host),
            metrics,
            inner: Mutex::default(),
            changed: Condvar::new(),
        };
        Self { host, state: Arc::new(state), directory: None, links: 0, threads: Vec::new() }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    fn others(&self) -> std::ops::Range<usize> {
        1..self.host.deployment.members.len()
    }

    /// True if some member is not there.
    pub(crate) fn misses_any(&self) -> bool {
        !self.missing().is_empty()
    }

    fn missing(&self) -> Vec<usize> {
        let inner = self.state.inner();
        let is_there = |member: &usize| {
            let link = inner.links.get(member);
            link.is_some_and(|link| link.shares.is_some() || self.directory.is_none())
        };
        self.others().filter(|member| !is_there(member)).collect()
    }

    /// From now on members are asked whether they share the directory of checkpoints in whose lock these
    /// words stand.
    pub(crate) fn show_directory(&mut self, words: &str) {
        self.directory = Some(words.to_owned());
    }

    /// Whether the members share it. One that is alone has its own.
    ///
    /// # Errors
    /// If some do and some do not.
    pub(crate) fn shares_directory(&self) -> Result<bool, JobError> {
        if self.others().is_empty() {
            return Ok(false);
        }
        let inner = self.state.inner();
        let mut shares = inner.links.values().filter_map(|link| link.shares);
        let Some(all) = shares.next() else {
            return Err(JobError::Host("the other hosts are lost".to_owned()));
        };
        if shares.any(|one| one != all) {
            return Err(JobError::Invalid(
                "some hosts share the directory of checkpoints, and some have one of their own; let all share it, or none".into(),
            ));
        }
        Ok(all)
    }

    /// Waits until all members are there, as long as `goes_on`. Who has an agent is told by it when to give
    /// up, or that another takes the place of one that does not come; and tells it whom he does not hear.
    ///
    /// # Errors
    /// If some do not come and there is no agent, with their names.
    pub(crate) fn gather(&mut self, goes_on: impl Fn() -> bool) -> Result<(), JobError> {
        let deadline = Instant::now() + GATHER_TIMEOUT;
        let mut tell_at = Instant::now() + UNHEARD_MAX;
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(());
            }
            if !goes_on() {
                return Err(JobError::Canceled);
            }
            if self.host.has_agent() {
                if Instant::now() >= tell_at {
                    for member in missing {
                        let error = "it does not come".to_owned();
                        self.host.tell(AgentTold::Unreachable { member, error });
                    }
                    tell_at = Instant::now() + TELL_INTERVAL;
                }
            } else if Instant::now() >= deadline {
                let names: Vec<_> = missing
                    .iter()
                    .map(|at| {
                        let member = &self.host.deployment.members[*at];
                        format!("{} ({})", member.name, member.address)
                    })
                    .collect();
                return Err(JobError::Host(format!(
                    "{} did not come within {GATHER_TIMEOUT:?}: start the job there, with the same flags",
                    names.join(", ")
                )));
            }
            let look_again = Instant::now() + Duration::from_millis(100);
            let are_there = || self.missing().is_empty();
            if let Some((member, stream)) = self.host.hall.take_control(look_again, &are_there) {
                self.add(member as usize, stream)?;
            }
        }
    }

    fn add(&mut self, member: usize, stream: TcpStream) -> Result<(), JobError> {
        if !self.others().contains(&member) {
            return Ok(());
        }
        let failed = |error: io::Error| {
            JobError::Host(format!("the link to {}: {error}", self.host.name(member)))
        };
        let (orders, to_send) = channel();
        let (reading, writing) =
            (stream.try_clone().map_err(failed)?, stream.try_clone().map_err(failed)?);
        if let Some(words) = &self.directory {
            // The one who writes it listens.
            let _ = orders.send(Order::Directory { words: words.clone() });
        }
        let shares = None;
        self.links += 1;
        let serial = self.links;
        let stream = self.host.hold(stream);
        let link = Link { orders, stream, serial, shares };
        // One that comes back replaces what is left of it.
        self.lose(member, "it has connected anew");
        self.state.inner().links.insert(member, link);
        let name = self.host.name(member).to_owned();
        let state = Arc::clone(&self.state);
        let spawn = |f: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("control".into()).spawn(f)
        };
        let write = spawn(Box::new(move || write_orders(&to_send, &writing))).map_err(failed)?;
        let read = spawn(Box::new(move || {
            let error = hear(&reading, SILENCE_MAX, |told| state.on_told(member, told));
            state.on_lost(member, &name, &error.to_string(), Some(serial));
        }))
        .map_err(failed)?;
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.extend([write, read]);
        Ok(())
    }

    /// Begins an attempt at these slots wherever else they are.
    pub(crate) fn begin(
        &self,
        attempt: u64,
        slots: &Range<u32>,
        restored: Option<&Manifest>,
        damaged: &Damaged,
    ) {
        let manifest = restored.map(Manifest::encode);
        let mut inner = self.state.inner();
        let mut underway = Underway::default();
        for member in self.others() {
            let of_member = self.host.routes.slots(member);
            let (first, end) = (slots.start.max(of_member.start), slots.end.min(of_member.end));
            if first >= end {
                continue;
            }
            let Some(link) = inner.links.get(&member) else {
                underway.lost = Some(member);
                continue;
            };
            underway.members.insert(member, end - first);
            let (restored, slots) = (manifest.clone(), (first, end));
            let damaged = damaged.iter().cloned().collect();
            // One whose link is gone is noticed by that.
            let _ = link.orders.send(Order::Begin { attempt, slots, restored, damaged });
        }
        inner.attempts.insert(attempt, underway);
    }

    /// Why the attempt cannot come to anything, if that is known already.
    pub(crate) fn has_failed(&self, attempt: u64) -> Option<JobError> {
        let inner = self.state.inner();
        let underway = inner.attempts.get(&attempt)?;
        let failed = underway.early.iter().find_map(|told| match told {
            Told::Failed { failure, .. } => Some(failure.error.clone()),
            _ => None,
        });
        let lost = underway.lost.map(|member| format!("{} is lost", self.host.name(member)));
        lost.or(failed).map(JobError::Host)
    }

    /// What the others tell of the attempt goes there from now on, and what they have told before. Whoever
    /// is lost already fails it.
    pub(crate) fn report_to(&self, attempt: u64, reports: Sender<Report>, shared: Arc<Shared>) {
        let mut inner = self.state.inner();
        let Some(underway) = inner.attempts.get_mut(&attempt) else { return };
        let events = Events { reports, shared };
        for told in std::mem::take(&mut underway.early) {
            events.take(told);
        }
        if let Some(lost) = underway.lost {
            events.shared.fail(SlotFailure::of_host(format!("{} is lost", self.host.name(lost))));
            // So that whoever waits for reports looks at the failure.
            let _ = events.reports.send(Report::Woken);
        }
        underway.events = Some(events);
    }

    /// The ways to all other members that take part in an attempt.
    pub(crate) fn post(&self, attempt: u64) -> Post {
        let inner = self.state.inner();
        let members = inner.attempts.get(&attempt).into_iter().flat_map(|one| one.members.keys());
        let links = members.filter_map(|member| inner.links.get(member));
        Post::to_members(attempt, links.map(|link| link.orders.clone()))
    }

    /// All attempts are over.
    pub(crate) fn end_all(&self) {
        let attempts: Vec<_> = self.state.inner().attempts.keys().copied().collect();
        attempts.iter().for_each(|attempt| self.post(*attempt).stop());
        attempts.into_iter().for_each(|attempt| self.end(attempt));
    }

    /// An attempt is over: waits until nothing is left of it elsewhere. Whoever does not say so is taken
    /// for dead.
    pub(crate) fn end(&self, attempt: u64) {
        self.post(attempt).stop();
        let deadline = Instant::now() + GONE_TIMEOUT;
        let mut inner = self.state.inner();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let underway = inner.attempts.get(&attempt);
            let late: Vec<_> =
                underway.into_iter().flat_map(|one| one.members.keys().copied()).collect();
            if late.is_empty() {
                break;
            }
            if left.is_zero() {
                drop(inner);
                for member in late {
                    self.lose(member, "it does not end what it was told to end");
                }
                inner = self.state.inner();
                break;
            }
            let woken = self.state.changed.wait_timeout(inner, left);
            inner = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.attempts.remove(&attempt);
    }

    fn lose(&self, member: usize, why: &str) {
        self.state.on_lost(member, self.host.name(member), why, None);
    }

    /// The job is over, and this is how.
    pub(crate) fn over(mut self, result: &Result<crate::job::JobResult, JobError>) {
        use crate::job::JobStatus;
        let ending = match result {
            Ok(result) => match result.status {
                JobStatus::Finished => Ending::Finished,
                JobStatus::Stopped => Ending::Stopped,
                JobStatus::Canceled => Ending::Canceled,
            },
            Err(error) => Ending::Failed(error.to_string()),
        };
        for link in self.state.inner().links.values() {
            // One whose link is gone is told nothing.
            let _ = link.orders.send(Order::Over { ending: ending.clone() });
        }
        self.leave();
    }

    /// Leaves the members to themselves.
    pub(crate) fn leave(&mut self) {
        // With the sender the writer ends, and with it the link.
        self.state.inner().links.clear();
        for thread in self.threads.drain(..) {
            // What it has to say it has said.
            let _ = thread.join();
        }
    }
}

impl State {
    /// A member cannot be reached any more, by the link of this serial number if not by any.
    fn on_lost(&self, member: usize, name: &str, why: &str, serial: Option<u64>) {
        let mut inner = self.inner();
        let is_this = |link: &&Link| serial.is_none_or(|serial| serial == link.serial);
        let Some(link) = inner.links.get(&member).filter(is_this) else { return };
        // It may be closed already.
        let _ = link.stream.shutdown(Shutdown::Both);
        inner.links.remove(&member);
        let mut is_missed = false;
        for (attempt, underway) in &mut inner.attempts {
            let Some(slots_left) = underway.members.remove(&member) else { continue };
            underway.lost = Some(member);
            let Some(events) = &underway.events else { continue };
            is_missed |= !events.shared.is_over();
            events.shared.fail(SlotFailure::of_host(format!("{name} is lost: {why}")));
            for _ in 0..slots_left {
                // Nobody listens any more if the attempt is over.
                let _ = events.reports.send(Report::Ended { attempt: *attempt });
            }
        }
        if is_missed {
            self.host.tell(AgentTold::Unreachable { member, error: why.to_owned() });
        }
        self.changed.notify_all();
    }

    fn on_told(&self, member: usize, told: Told) {
        if let Told::Counters { subtasks } = told {
            for one in subtasks {
                let vertex = self.metrics.vertices.get(one.vertex as usize);
                if let Some(metrics) = vertex.and_then(|v| v.subtasks.get(one.subtask as usize)) {
                    metrics.set(one.counters);
                }
            }
            return;
        }
        let mut inner = self.inner();
        let Some(link) = inner.links.get_mut(&member) else { return };
        if let Told::Directory { is_shared } = told {
            link.shares = Some(is_shared);
            drop(inner);
            self.host.hall.look_again();
            return;
        }
        let attempt = told.attempt();
        let Some(underway) = attempt.and_then(|attempt| inner.attempts.get_mut(&attempt)) else {
            return;
        };
        let Some(slots_left) = underway.members.get_mut(&member) else { return };
        match &told {
            Told::Gone { .. } => {
                underway.members.remove(&member);
                self.changed.notify_all();
                return;
            }
            Told::Ended { .. } => *slots_left = slots_left.saturating_sub(1),
            _ => {}
        }
        match &underway.events {
            Some(events) => events.take(told),
            None => underway.early.push(told),
        }
    }
}

impl Events {
    /// A member has told something of the attempt.
    fn take(&self, told: Told) {
        let report = match told {
            Told::Heartbeat
            | Told::Directory { .. }
            | Told::Counters { .. }
            | Told::Gone { .. } => return,
            Told::Failed { failure, .. } => {
                self.shared.fail(failure.into());
                Report::Woken
            }
            Told::Ready { attempt, with_state } => {
                Report::Ready { attempt, with_state: with_state.into_iter().collect() }
            }
            Told::Ended { attempt } => Report::Ended { attempt },
            Told::Finished { attempt, transactions } => {
                let transactions = transactions.into_iter().map(Transaction::from).collect();
                Report::Finished { attempt, at: Instant::now(), transactions }
            }
            Told::Sealed { slot, checkpoint, transactions, .. } => Report::Sealed(SealedSnapshot {
                slot: SlotIndex(slot),
                checkpoint: CheckpointId(checkpoint),
                bytes: None,
                transactions: transactions.into_iter().map(Transaction::from).collect(),
            }),
            Told::Stored { slot, checkpoint, result, .. } => {
                let result = result.map(|file| FileEntry {
                    name: file.name,
                    len: file.len,
                    crc32c: file.crc32c,
                });
                let (slot, checkpoint) = (SlotIndex(slot), CheckpointId(checkpoint));
                Report::Stored { slot, checkpoint, result }
            }
            Told::Durable { slot, checkpoint, result, .. } => {
                let file = |file: message::StateFileMessage| StateFile {
                    name: file.name,
                    len: file.len,
                    note: file.note,
                };
                let result = result.map(|files| files.into_iter().map(file).collect());
                let (slot, checkpoint) = (SlotIndex(slot), CheckpointId(checkpoint));
                Report::Durable { slot, checkpoint, result }
            }
            Told::Recovered { attempt, vertex, subtask } => {
                Report::Recovered { attempt, subtask: subtask_id(vertex, subtask) }
            }
            Told::Declined { vertex, subtask, checkpoint, reason, .. } => {
                let subtask = subtask_id(vertex, subtask);
                Report::Declined { subtask, checkpoint: CheckpointId(checkpoint), reason }
            }
        };
        // An error means that the attempt is at its end.
        let _ = self.reports.send(report);
    }
}

fn subtask_id(vertex: u32, subtask: u32) -> SubtaskId {
    SubtaskId { vertex: VertexId(vertex), subtask: SubtaskIndex(subtask) }
}

impl From<FailureMessage> for SlotFailure {
    fn from(FailureMessage { blamed, is_panic, error, damaged }: FailureMessage) -> Self {
        let cause = match damaged {
            _ if is_panic => Cause::Panic(error),
            Some(file) => Cause::Error(DamagedElsewhere { words: error, file }.into()),
            None => Cause::Error(error.into()),
        };
        let blamed =
            blamed.map(|(operator, subtask)| (OperatorId(operator), SubtaskIndex(subtask)));
        Self { blamed, cause }
    }
}

/// Reads messages until the link ends, or nothing is heard for too long: of `first` for the first
/// message. Returns why.
pub(super) fn hear<M: message::Message>(
    stream: &TcpStream,
    first: Duration,
    mut on: impl FnMut(M),
) -> io::Error {
    let mut silence_max = first;
    let mut reader = io::BufReader::new(stream);
    loop {
        let message =
            stream.set_read_timeout(Some(silence_max)).and_then(|()| message::read(&mut reader));
        match message {
            Ok(message) => {
                silence_max = SILENCE_MAX;
                on(message);
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return io::Error::new(error.kind(), "it has closed the connection");
            }
            Err(error)
                if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) =>
            {
                let words = format!("it has said nothing for {silence_max:?}");
                return io::Error::new(io::ErrorKind::TimedOut, words);
            }
            Err(error) => return error,
        }
    }
}

fn write_orders(orders: &Receiver<Order>, stream: &TcpStream) {
    // Who hears the other side notices a failure.
    let _ = speak(orders, stream, &Order::Heartbeat);
}

/// Writes a heartbeat, then messages, and heartbeats when there are none, until there will be no more.
///
/// # Errors
/// If the link ends before.
pub(super) fn speak<M: message::Message>(
    messages: &Receiver<M>,
    stream: &TcpStream,
    heartbeat: &M,
) -> io::Result<()> {
    let written = stream.set_write_timeout(Some(SILENCE_MAX)).and_then(|()| {
        // From now on the other side expects a sign of life.
        message::write(heartbeat, stream)?;
        loop {
            match messages.recv_timeout(HEARTBEAT_INTERVAL) {
                Ok(message) => message::write(&message, stream)?,
                Err(RecvTimeoutError::Timeout) => message::write(heartbeat, stream)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    });
    // The other side reads what was sent, and then the end. A failure ends both sides at once.
    let how = if written.is_ok() { Shutdown::Write } else { Shutdown::Both };
    let _: Result<(), io::Error> = stream.shutdown(how);
    written
}
