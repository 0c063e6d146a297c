//! A member that does what the first one says.

use super::control_link::{hear, speak};
use super::message::{
    CountersMessage, Ending, FailureMessage, FileMessage, MailMessage, Order, StateFileMessage,
    Told, TransactionMessage,
};
use super::peers::PeerLinks;
use super::{Connected, GATHER_TIMEOUT, HEARTBEAT_INTERVAL, Host, Purpose};
use crate::checkpoint::{
    Damaged, Disk, DiskOrder, Mail, Mailbox, Report, Restored, SealedSnapshot, Transaction,
    damaged_file, in_words,
};
use crate::error::JobError;
use crate::job::{Attempt, Job, JobStatus, MemberDirectory, Shared};
use crate::slot::{Cause, SlotFailure};
use millstream_protocol::{CheckpointKind, FileEntry, Manifest, SubtaskId, Told as AgentTold};
use millstream_state::StateFile;
use millstream_storage::CheckpointDirectory;
use millstream_types::{CheckpointId, OperatorId};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    wanted: &dyn Fn() -> bool,
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
                current.lock().unwrap_or_else(PoisonError::into_inner).lose();
                // Nobody listens any more if the job is over.
                let _ = orders.send(Todo::Lost(error.to_string()));
            });
            let ending = serve(job, host, &mut directory, current, &to_follow, &told, wanted);
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
    Begin { attempt: u64, restored: Option<Vec<u8>>, damaged: Damaged },
    Over(Ending),
    Lost(String),
}

/// The attempt that runs, for who hears orders.
#[derive(Default)]
struct Current {
    attempt: u64,
    running: Option<(Arc<Shared>, Vec<Arc<Mailbox>>)>,
    /// Attempts up to this one are not to go on.
    stopped: u64,
    /// The attempt has been released.
    released: u64,
}

impl Current {
    fn lose(&mut self) {
        self.stopped = u64::MAX;
        if let Some((shared, _)) = &self.running {
            shared.stop();
        }
    }
}

fn on_order(order: Order, current: &Mutex<Current>, todo: &Sender<Todo>) {
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    match order {
        Order::Heartbeat => {}
        Order::Directory { words } => {
            let _ = todo.send(Todo::Directory { words });
        }
        Order::Begin { attempt, restored, damaged } => {
            let damaged = damaged.into_iter().collect();
            // The thread that is told this ends only with the link.
            let _ = todo.send(Todo::Begin { attempt, restored, damaged });
        }
        Order::Over { ending } => {
            let _ = todo.send(Todo::Over(ending));
        }
        Order::Stop { attempt } => {
            current.stopped = current.stopped.max(attempt);
            if let Some((shared, _)) = &current.running
                && current.attempt <= attempt
            {
                shared.stop();
            }
        }
        Order::Release { attempt } => {
            current.released = attempt;
            if let Some((shared, _)) = &current.running
                && current.attempt == attempt
            {
                shared.release();
            }
        }
        Order::Mail { attempt, mail } => {
            let Some(mail) = mail_of(mail) else { return };
            if let Some((_, mailboxes)) = &current.running
                && current.attempt == attempt
            {
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

fn serve(
    job: &Job,
    host: &Arc<Host>,
    directory: &mut Option<MemberDirectory>,
    current: &Mutex<Current>,
    todo: &Receiver<Todo>,
    told: &Sender<Told>,
    wanted: &dyn Fn() -> bool,
) -> Result<Served, JobError> {
    loop {
        match todo.recv_timeout(HEARTBEAT_INTERVAL) {
            Ok(Todo::Directory { words }) => {
                // The lock of one that was opened for an earlier life of the first member is given back.
                *directory = None;
                let Some(config) = &job.config.checkpoints else {
                    return Err(JobError::Invalid(format!(
                        "{} takes checkpoints, and this host was given no place for them; start the job with the same flags on all hosts",
                        host.name(0)
                    )));
                };
                let counters = &job.metrics.counters;
                let opened =
                    directory.insert(MemberDirectory::open(config, host, counters, &words)?);
                // Whoever has sent the order listens, or the link is lost.
                let _ = told.send(Told::Directory { is_shared: opened.is_shared });
            }
            Ok(Todo::Begin { attempt, restored, damaged }) => {
                let checkpoints = directory.as_ref().map(|directory| &directory.checkpoints);
                let restore = || {
                    let manifest = restored.as_deref().map(Manifest::decode).transpose();
                    let manifest = manifest.map_err(|error| {
                        JobError::Restore(format!("{} has sent a manifest: {error}", host.name(0)))
                    })?;
                    job.restore_exactly(checkpoints, manifest, &damaged)
                };
                run_attempt(job, host, checkpoints, current, attempt, restore, told, wanted);
                // Whoever has sent the order listens, or the link is lost.
                let _ = told.send(Told::Gone { attempt });
            }
            Ok(Todo::Over(ending)) => return Ok(Served::Over(ending)),
            Ok(Todo::Lost(error)) => return Ok(Served::Lost(error)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(Served::Lost("it is gone".into())),
        }
        if !wanted() {
            return Ok(Served::Unwanted);
        }
    }
}

/// Runs this member's part of an attempt to its end, and tells of it.
#[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
fn run_attempt(
    job: &Job,
    host: &Arc<Host>,
    directory: Option<&CheckpointDirectory>,
    current: &Mutex<Current>,
    attempt: u64,
    restore: impl FnOnce() -> Result<Option<Restored>, JobError>,
    told: &Sender<Told>,
    wanted: &dyn Fn() -> bool,
) {
    // Whoever has sent the order listens, or the link is lost.
    let tell = |message| drop(told.send(message));
    let started = restore().and_then(|restored| {
        let give_up = || {
            let stopped = lock(current).stopped >= attempt;
            stopped.then(|| JobError::Host("the attempt is over".to_owned()))
        };
        let Connected { streams, peers } = host.connect_slots(attempt, &give_up)?;
        if let Some(error) = give_up() {
            return Err(error);
        }
        let (reporter, reports) = channel();
        let (slots, restored) = (host.slots(), restored.as_ref());
        let running = Attempt::start(job, attempt, slots, restored, streams, reporter.clone())?;
        let shared = Arc::clone(&running.shared);
        let woken = reporter.clone();
        let us = Arc::clone(host);
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
        Ok((running, reports, links, disk))
    });
    let (mut running, reports, links, disk) = match started {
        Ok(started) => started,
        Err(error) => return tell(failed(attempt, SlotFailure::of_host(error.to_string()))),
    };
    {
        let mut current = lock(current);
        current.attempt = attempt;
        current.running = Some((Arc::clone(&running.shared), running.mailboxes.clone()));
        if current.stopped >= attempt {
            running.shared.stop();
        } else if current.released == attempt {
            running.shared.release();
        }
    }
    let mut left = host.slots().len();
    let mut counted = Instant::now();
    while left > 0 {
        match reports.recv_timeout(COUNTERS_INTERVAL) {
            Ok(report) => {
                if let Some(failure) = running.shared.take_failure() {
                    tell(failed(attempt, failure));
                }
                left -= usize::from(matches!(report, Report::Ended { .. }));
                forward(attempt, report, disk.as_ref(), &tell);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if counted.elapsed() >= COUNTERS_INTERVAL || left == 0 {
            counted = Instant::now();
            tell(counters(job, host));
            if !wanted() {
                running.shared.stop();
            }
        }
    }
    drop(links);
    // What it has not written by now no checkpoint waits for.
    host.give_up_files(|| drop(disk));
    lock(current).running = None;
    running.shared.stop();
    if let Err(error) = running.join() {
        tell(failed(attempt, SlotFailure::of_host(error.to_string())));
    }
    if let Some(failure) = running.shared.take_failure() {
        tell(failed(attempt, failure));
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

fn counters(job: &Job, host: &Host) -> Told {
    let here = host.slots();
    let vertices = (0..).zip(job.metrics.vertices.iter().zip(&job.slots_of));
    let subtasks = vertices.flat_map(|(vertex, (metrics, slots))| {
        let subtasks = (0..).zip(metrics.subtasks.iter().zip(slots));
        subtasks.filter(|(_, (_, slot))| here.contains(&slot.0)).map(
            move |(subtask, (metrics, _))| CountersMessage {
                vertex,
                subtask,
                counters: metrics.counters(),
            },
        )
    });
    Told::Counters { subtasks: subtasks.collect() }
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
