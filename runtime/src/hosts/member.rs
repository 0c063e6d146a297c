//! A member that does what the first one says.

use super::control_link::{hear, speak};
use super::message::{
    CountersMessage, Ending, FailureMessage, FileMessage, MailMessage, Order, StateFileMessage,
    Told, TransactionMessage,
};
use super::peers::PeerLinks;
use super::{Connected, GATHER_TIMEOUT, HEARTBEAT_INTERVAL, Host, Purpose};
use crate::checkpoint::{
    Damaged, Disk, DiskOrder, Mail, Mailbox, Report, SealedSnapshot, Transaction, damaged_file,
    in_words,
};
use crate::error::JobError;
use crate::job::{Attempt, Job, JobStatus, MemberDirectory, Shared};
use crate::metrics::SubtaskMetrics;
use crate::slot::{Cause, SlotFailure};
use millstream_protocol::{CheckpointKind, FileEntry, Manifest, SubtaskId, Told as AgentTold};
use millstream_state::StateFile;
use millstream_types::{CheckpointId, OperatorId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// How often a member tells how far it is.
const COUNTERS_INTERVAL: Duration = Duration::from_millis(250);
/// As long as it takes.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Follows the first member until the job is over, or is not `wanted` here any more.
///
/// # Errors
/// If the job has failed, or the first member cannot be found.
pub(crate) fn follow(
    job: &Job,
    host: &Arc<Host>,
    wanted: &(dyn Fn() -> bool + Sync),
) -> Result<JobStatus, JobError> {
    let mut lost: Option<String> = None;
    let mut directory = None;
    loop {
        if !wanted() {
            return Ok(JobStatus::Canceled);
        }
        host.forget_attempts();
        let deadline = Instant::now() + if host.has_agent() { A_YEAR } else { GATHER_TIMEOUT };
        let purpose = Purpose::Control { member: host.deployment.member as u32 };
        let give_up = || (!wanted()).then_some(JobError::Canceled);
        let stream = host.dial(0, purpose, deadline, &give_up).map_err(|error| match &lost {
            _ if !wanted() => JobError::Canceled,
            Some(lost) => JobError::Host(format!("{lost}, and then {error}")),
            None => error,
        })?;
        let stream = host.hold(stream);
        let (told, to_tell) = channel();
        let current = Mutex::new(Current::default());
        let (orders, to_follow) = channel();
        let ending = std::thread::scope(|scope| {
            let reading = &*stream;
            let writing = scope.spawn(move || speak(&to_tell, reading, &Told::Heartbeat));
            let current = &current;
            scope.spawn(move || {
                // The first member takes links up only between two attempts. If its host is gone
                // meanwhile, the system notices.
                let error =
                    hear(reading, GATHER_TIMEOUT, |order| on_order(order, current, &orders));
                lock(current).lose();
                // Nobody listens any more if the job is over.
                let _ = orders.send(Todo::Lost(error.to_string()));
            });
            let mut part = Part { job, host, directory: &mut directory, current, wanted };
            let ending = part.serve(scope, &to_follow, &told);
            drop(told);
            // What there was to tell is told, and then the link ends.
            let _ = writing.join();
            let _ = stream.shutdown(std::net::Shutdown::Both);
            ending
        })?;
        match ending {
            Served::Over(Ending::Finished) => return Ok(JobStatus::Finished),
            Served::Over(Ending::Stopped) => return Ok(JobStatus::Stopped),
            Served::Over(Ending::Canceled) => return Ok(JobStatus::Canceled),
            Served::Over(Ending::Failed(error)) => return Err(JobError::Elsewhere(error)),
            Served::Unwanted => return Ok(JobStatus::Canceled),
            Served::Lost(error) => {
                let name = host.name(0);
                tracing::warn!("{name} is lost: {error}; waiting for it to come back");
                lost = Some(format!("{name} was lost: {error}"));
            }
        }
    }
}

/// What came of a link.
enum Served {
    Over(Ending),
    Lost(String),
    Unwanted,
}

/// What the member's thread is to do.
enum Todo {
    Directory { words: String },
    Begin { attempt: u64, slots: Range<u32>, restored: Option<Vec<u8>>, damaged: Damaged },
    Over(Ending),
    Lost(String),
}

/// The attempts that were ordered and have not ended, for who hears orders.
#[derive(Default)]
struct Current {
    attempts: BTreeMap<u64, Ordered>,
    /// No order comes any more.
    is_lost: bool,
}

/// What was ordered of an attempt.
#[derive(Default)]
struct Ordered {
    /// Its slots, if they are there.
    running: Option<(Arc<Shared>, Vec<Arc<Mailbox>>)>,
    /// It is not to go on.
    is_stopped: bool,
    /// Its slots may go.
    is_released: bool,
}

impl Current {
    fn lose(&mut self) {
        self.is_lost = true;
        self.attempts.values_mut().for_each(Ordered::stop);
    }

    /// True if the attempt is not to go on.
    fn is_stopped(&self, attempt: u64) -> bool {
        self.is_lost || self.attempts.get(&attempt).is_none_or(|ordered| ordered.is_stopped)
    }
}

impl Ordered {
    fn stop(&mut self) {
        self.is_stopped = true;
        if let Some((shared, _)) = &self.running {
            shared.stop();
        }
    }

    fn release(&mut self) {
        self.is_released = true;
        if let Some((shared, _)) = &self.running {
            shared.release();
        }
    }
}

fn on_order(order: Order, current: &Mutex<Current>, todo: &Sender<Todo>) {
    let mut current = lock(current);
    match order {
        Order::Heartbeat => {}
        Order::Directory { words } => {
            let _ = todo.send(Todo::Directory { words });
        }
        Order::Begin { attempt, slots: (first, end), restored, damaged } => {
            current.attempts.insert(attempt, Ordered::default());
            let (slots, damaged) = (first..end, damaged.into_iter().collect());
            // The thread that is told this ends only with the link.
            let _ = todo.send(Todo::Begin { attempt, slots, restored, damaged });
        }
        Order::Over { ending } => {
            let _ = todo.send(Todo::Over(ending));
        }
        Order::Stop { attempt } => {
            current.attempts.get_mut(&attempt).into_iter().for_each(Ordered::stop);
        }
        Order::Release { attempt } => {
            current.attempts.get_mut(&attempt).into_iter().for_each(Ordered::release);
        }
        Order::Mail { attempt, mail } => {
            let Some(mail) = mail_of(mail) else { return };
            let running = current.attempts.get(&attempt).and_then(|one| one.running.as_ref());
            if let Some((_, mailboxes)) = running {
                mailboxes.iter().for_each(|mailbox| mailbox.post(mail));
            }
        }
    }
}

fn mail_of(mail: MailMessage) -> Option<Mail> {
    Some(match mail {
        MailMessage::Announce { checkpoint, kind } => {
            Mail::Announce(CheckpointId(checkpoint), CheckpointKind::from_code(kind)?)
        }
        MailMessage::Complete { checkpoint, oldest } => {
            Mail::Complete { checkpoint: CheckpointId(checkpoint), oldest: CheckpointId(oldest) }
        }
        MailMessage::Abort { checkpoint } => Mail::Abort(CheckpointId(checkpoint)),
        MailMessage::Exit => Mail::Exit,
    })
}

/// A member's part in the job, as long as a link lasts.
struct Part<'env> {
    job: &'env Job,
    host: &'env Arc<Host>,
    directory: &'env mut Option<MemberDirectory>,
    current: &'env Mutex<Current>,
    wanted: &'env (dyn Fn() -> bool + Sync),
}

impl<'env> Part<'env> {
    /// Does what is ordered. Attempts are followed by threads of their own, which end with the link.
    fn serve<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        todo: &Receiver<Todo>,
        told: &Sender<Told>,
    ) -> Result<Served, JobError> {
        loop {
            match todo.recv_timeout(HEARTBEAT_INTERVAL) {
                Ok(Todo::Directory { words }) => {
                    let is_shared = self.open_directory(&words)?;
                    // Whoever has sent the order listens, or the link is lost.
                    let _ = told.send(Told::Directory { is_shared });
                }
                Ok(Todo::Begin { attempt, slots, restored, damaged }) => {
                    // As above.
                    let tell = |message| drop(told.send(message));
                    match self.begin(attempt, slots, restored.as_deref(), &damaged) {
                        Ok(begun) => {
                            let (told, wanted) = (told.clone(), self.wanted);
                            scope.spawn(move || {
                                begun.run(&|message| drop(told.send(message)), wanted)
                            });
                        }
                        Err(error) => {
                            tell(failed(attempt, SlotFailure::of_host(error.to_string())));
                            lock(self.current).attempts.remove(&attempt);
                            tell(Told::Gone { attempt });
                        }
                    }
                }
                Ok(Todo::Over(ending)) => return Ok(Served::Over(ending)),
                Ok(Todo::Lost(error)) => return Ok(Served::Lost(error)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Ok(Served::Lost("it is gone".into()));
                }
            }
            if !(self.wanted)() {
                return Ok(Served::Unwanted);
            }
        }
    }

    /// Opens this host's directory of checkpoints. True if it is the first member's.
    fn open_directory(&mut self, words: &str) -> Result<bool, JobError> {
        // The lock of one that was opened for an earlier life of the first member is given back.
        *self.directory = None;
        let Some(config) = &self.job.config.checkpoints else {
            return Err(JobError::Invalid(format!(
                "{} takes checkpoints, and this host was given no place for them; start the job with the same flags on all hosts",
                self.host.name(0)
            )));
        };
        let counters = &self.job.metrics.counters;
        let opened = MemberDirectory::open(config, self.host, counters, words)?;
        Ok(self.directory.insert(opened).is_shared)
    }

    /// Starts this member's slots of an attempt.
    fn begin(
        &self,
        attempt: u64,
        slots: Range<u32>,
        restored: Option<&[u8]>,
        damaged: &Damaged,
    ) -> Result<Begun<'env>, JobError> {
        let Self { job, host, current, .. } = *self;
        let directory = self.directory.as_ref().map(|directory| &directory.checkpoints);
        let manifest = restored.map(Manifest::decode).transpose().map_err(|error| {
            JobError::Restore(format!("{} has sent a manifest: {error}", host.name(0)))
        })?;
        let restored = job.restore_exactly(directory, manifest, damaged)?;
        let give_up = || {
            let is_stopped = lock(current).is_stopped(attempt);
            is_stopped.then(|| JobError::Host("the attempt is over".to_owned()))
        };
        let Connected { streams, peers } = match job.is_regional() {
            true => Connected::default(),
            false => host.connect_slots(attempt, &give_up)?,
        };
        if let Some(error) = give_up() {
            return Err(error);
        }
        let (reporter, reports) = channel();
        let (restored, of_attempt) = (restored.as_ref(), slots.clone());
        let running = Attempt::start(job, attempt, slots, restored, streams, reporter.clone())?;
        let shared = Arc::clone(&running.shared);
        let (us, woken) = (Arc::clone(host), reporter.clone());
        let on_lost = move |member, error: String| {
            let name = us.name(member);
            shared.fail(SlotFailure::of_host(format!("{name} is lost: {error}")));
            us.tell(AgentTold::Unreachable { member, error });
            // So that it is told at once, and not when slots that are busy say something.
            let _ = woken.send(Report::Woken);
        };
        let links = PeerLinks::open(peers, on_lost)
            .map_err(|error| JobError::Host(format!("no thread can be started: {error}")))?;
        let disk = match (directory, &job.config.checkpoints) {
            (Some(directory), Some(config)) => {
                Some(Disk::start(directory.clone(), config.stores(), reporter)?)
            }
            _ => None,
        };
        {
            let mut current = lock(current);
            let is_lost = current.is_lost;
            let ordered = current.attempts.entry(attempt).or_default();
            ordered.running = Some((Arc::clone(&running.shared), running.mailboxes.clone()));
            if is_lost || ordered.is_stopped {
                running.shared.stop();
            } else if ordered.is_released {
                running.shared.release();
            }
        }
        let subtasks = counted(job, &of_attempt);
        Ok(Begun {
            attempt,
            slots: of_attempt,
            running,
            reports,
            links,
            disk,
            subtasks,
            host,
            current,
        })
    }
}

/// A member's slots of an attempt, which run.
struct Begun<'env> {
    attempt: u64,
    slots: Range<u32>,
    running: Attempt,
    reports: Receiver<Report>,
    links: PeerLinks,
    disk: Option<Disk>,
    subtasks: Vec<(u32, u32, Arc<SubtaskMetrics>)>,
    host: &'env Arc<Host>,
    current: &'env Mutex<Current>,
}

impl Begun<'_> {
    /// Follows them to their end, and tells of it.
    fn run(self, tell: &impl Fn(Told), wanted: &dyn Fn() -> bool) {
        let Self { attempt, slots, mut running, reports, links, disk, subtasks, host, current } =
            self;
        let mut left = slots.len();
        let mut told_at = Instant::now();
        while left > 0 {
            match reports.recv_timeout(COUNTERS_INTERVAL) {
                Ok(report) => {
                    if let Some(failure) = running.shared.take_failure() {
                        tell(failed(attempt, failure));
                    }
                    left -= usize::from(matches!(report, Report::Ended { .. }));
                    forward(attempt, report, disk.as_ref(), tell);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if told_at.elapsed() >= COUNTERS_INTERVAL || left == 0 {
                told_at = Instant::now();
                tell(counters(&subtasks));
                if !wanted() {
                    running.shared.stop();
                }
            }
        }
        drop(links);
        // What it has not written by now no checkpoint waits for.
        host.give_up_files(|| drop(disk));
        running.shared.stop();
        if let Err(error) = running.join() {
            tell(failed(attempt, SlotFailure::of_host(error.to_string())));
        }
        if let Some(failure) = running.shared.take_failure() {
            tell(failed(attempt, failure));
        }
        lock(current).attempts.remove(&attempt);
        tell(Told::Gone { attempt });
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(attempt: u64, failure: SlotFailure) -> Told {
    let blamed = failure.blamed.map(|(operator, subtask)| (operator.0, subtask.0));
    let (is_panic, error, damaged) = match failure.cause {
        Cause::Panic(message) => (true, message, None),
        Cause::Error(error) => (false, in_words(&*error), damaged_file(&*error).map(str::to_owned)),
    };
    Told::Failed { attempt, failure: FailureMessage { blamed, is_panic, error, damaged } }
}

/// Without a `disk` there are no checkpoints.
fn forward(attempt: u64, report: Report, disk: Option<&Disk>, tell: &impl Fn(Told)) {
    match report {
        Report::Ready { with_state, .. } => {
            tell(Told::Ready { attempt, with_state: with_state.into_iter().collect() });
        }
        Report::Finished { transactions, .. } => {
            let transactions = transactions.into_iter().map(TransactionMessage::from).collect();
            tell(Told::Finished { attempt, transactions });
        }
        Report::Ended { .. } => tell(Told::Ended { attempt }),
        Report::Sealed(SealedSnapshot { slot, checkpoint, bytes, transactions }) => {
            let transactions = transactions.into_iter().map(TransactionMessage::from).collect();
            tell(Told::Sealed { attempt, slot: slot.0, checkpoint: checkpoint.0, transactions });
            if let (Some(disk), Some(bytes)) = (disk, bytes) {
                disk.order(DiskOrder::Snapshot { slot, checkpoint, bytes });
            }
        }
        Report::Stored { slot, checkpoint, result } => {
            let file = |file: FileEntry| FileMessage {
                name: file.name,
                len: file.len,
                crc32c: file.crc32c,
            };
            let (slot, checkpoint) = (slot.0, checkpoint.0);
            tell(Told::Stored { attempt, slot, checkpoint, result: result.map(file) });
        }
        Report::Persisted { slot, checkpoint, result } => {
            if let Some(disk) = disk {
                disk.order(DiskOrder::StateFiles { slot, checkpoint, result });
            }
        }
        Report::FileChanged(change) => {
            if let Some(disk) = disk {
                disk.order(DiskOrder::Follow(change));
            }
        }
        Report::Durable { slot, checkpoint, result } => {
            let file = |file: StateFile| StateFileMessage {
                name: file.name,
                len: file.len,
                note: file.note,
            };
            let result = result.map(|files| files.into_iter().map(file).collect());
            let (slot, checkpoint) = (slot.0, checkpoint.0);
            tell(Told::Durable { attempt, slot, checkpoint, result });
        }
        Report::Recovered { subtask: SubtaskId { vertex, subtask }, .. } => {
            tell(Told::Recovered { attempt, vertex: vertex.0, subtask: subtask.0 });
        }
        Report::Declined { subtask, checkpoint, reason } => {
            let (vertex, of) = (subtask.vertex.0, subtask.subtask.0);
            let checkpoint = checkpoint.0;
            tell(Told::Declined { attempt, vertex, subtask: of, checkpoint, reason });
        }
        // What the first member's own threads tell it.
        Report::ManifestStored { .. } | Report::Asked | Report::Woken => {}
    }
}

/// The subtasks in these slots, with their counters.
fn counted(job: &Job, slots: &Range<u32>) -> Vec<(u32, u32, Arc<SubtaskMetrics>)> {
    let vertices = (0..).zip(job.metrics.vertices.iter().zip(&job.slots_of));
    let all = vertices.flat_map(|(vertex, (metrics, slots))| {
        let subtasks = (0..).zip(metrics.subtasks.iter().zip(slots));
        subtasks.map(move |(subtask, (metrics, slot))| (slot, (vertex, subtask, metrics.clone())))
    });
    all.filter(|(slot, _)| slots.contains(&slot.0)).map(|(_, counted)| counted).collect()
}

fn counters(subtasks: &[(u32, u32, Arc<SubtaskMetrics>)]) -> Told {
    let message = |(vertex, subtask, metrics): &(u32, u32, Arc<SubtaskMetrics>)| CountersMessage {
        vertex: *vertex,
        subtask: *subtask,
        counters: metrics.counters(),
    };
    Told::Counters { subtasks: subtasks.iter().map(message).collect() }
}

impl From<Transaction> for TransactionMessage {
    fn from(Transaction { operator, bytes }: Transaction) -> Self {
        Self { operator: operator.0, bytes }
    }
}

impl From<TransactionMessage> for Transaction {
    fn from(TransactionMessage { operator, bytes }: TransactionMessage) -> Self {
        Self { operator: OperatorId(operator), bytes }
    }
}
