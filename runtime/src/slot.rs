//! The loop of a task slot: polls its subtasks in turn, and parks when none has anything to do.
//!
//! # Invariants
//! - A slot parks only after it has set its doorbell's flag and then polled every subtask once more
//!   in vain: so whoever feeds it later sees the flag and wakes it.
//! - A parked slot has a timer only if a subtask named a deadline and can keep it: one that is
//!   blocked waits for a wake-up, by whoever gives back a credit, unless a barrier is to overtake.
//! - When the job is to stop, or a subtask fails, the loop ends at its next pass.

use crate::checkpoint::{Mail, Mailbox, SlotCheckpoints};
use crate::clock::PollClock;
use crate::config::IdlePolicy;
use crate::error::JobError;
use crate::exchange::SlotLinks;
use crate::executor::ParkingLot;
use crate::metrics::{LinkStats, SlotMetrics};
use crate::operator::{UserFailure, take_blame};
use crate::subtask::{Progress, Subtask};
use millstream_network::Doorbell;
use millstream_network::remote::LinkError;
use millstream_state::{StateError, SubtaskState};
use millstream_types::{OperatorId, SubtaskIndex, Timestamp};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Passes without work before the clock is read again to see whether the spin is over.
const SPINS_PER_CLOCK: u32 = 8;

/// How long a park for a deadline lasts at the least. To park and to wake up takes some ten
/// microseconds of a core, so that a slot that does so for what is due every few of them is busy
/// with nothing else; what is due meanwhile is done at once when it wakes up. A record wakes it
/// sooner.
const PARK_MIN: Duration = Duration::from_micros(50);

/// How long a slot without work tidies up its store before it looks for work again: no record waits
/// for longer.
const MAINTENANCE_IDLE: Duration = Duration::from_micros(50);
/// What a slot that is never without work gives to it, and how often: one part in a hundred.
const MAINTENANCE_BUSY: Duration = Duration::from_micros(100);
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(10);

/// How often a slot that is never without work tells about itself.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// The same where there is time for it.
const REPORT_INTERVAL_IDLE: Duration = Duration::from_millis(10);

/// A subtask in its slot.
pub(crate) struct Placed {
    pub(crate) subtask: SubtaskIndex,
    /// The first operator of its chain: blamed for what no other operator is.
    pub(crate) first: OperatorId,
    pub(crate) chain: Box<dyn Subtask>,
}

/// Why a slot failed.
pub(crate) struct SlotFailure {
    /// Whose fault it is; nobody's if the slot's connections to other hosts failed.
    pub(crate) blamed: Option<(OperatorId, SubtaskIndex)>,
    pub(crate) cause: Cause,
}

pub(crate) enum Cause {
    Panic(String),
    Error(crate::error::BoxError),
}

impl SlotFailure {
    pub(crate) fn from_panic(
        payload: Box<dyn Any + Send>,
        first: OperatorId,
        subtask: SubtaskIndex,
    ) -> Self {
        let blamed = take_blame().unwrap_or(first);
        let payload = match payload.downcast::<UserFailure>() {
            Ok(failure) => {
                let UserFailure { operator, error } = *failure;
                return Self::of_operator(operator, subtask, Cause::Error(error));
            }
            Err(payload) => payload,
        };
        // Tables report what a backend could not do by unwinding, as their callers could not go on.
        let cause = match payload.downcast::<StateError>() {
            Ok(error) => Cause::Error(error),
            Err(payload) => Cause::Panic(panic_message(payload.as_ref())),
        };
        Self::of_operator(blamed, subtask, cause)
    }

    pub(crate) fn of_operator(operator: OperatorId, subtask: SubtaskIndex, cause: Cause) -> Self {
        Self { blamed: Some((operator, subtask)), cause }
    }

    /// A host of the job is lost.
    pub(crate) fn of_host(error: String) -> Self {
        Self { blamed: None, cause: Cause::Error(error.into()) }
    }

    /// True if what the slot remembers is as its operators have left it: one of them has returned an error, or
    /// the slot has lost a connection. What has panicked, or found state that it could not read or write,
    /// may have left anything.
    pub(crate) fn leaves_state_whole(&self) -> bool {
        matches!(&self.cause, Cause::Error(error) if !error.is::<StateError>())
    }

    fn of_links(error: LinkError) -> Self {
        Self { blamed: None, cause: Cause::Error(error.into()) }
    }

    /// With the operator's name.
    pub(crate) fn into_error(self, name: impl FnOnce(OperatorId) -> String) -> JobError {
        let Some((operator, subtask)) = self.blamed else {
            return match self.cause {
                Cause::Panic(message) => JobError::Host(message),
                Cause::Error(error) => JobError::Connection(error),
            };
        };
        let (operator, subtask) = (name(operator), subtask.0);
        match self.cause {
            Cause::Panic(message) => JobError::Panicked { operator, subtask, message },
            Cause::Error(error) => JobError::Failed { operator, subtask, error },
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// A slot with its subtasks.
pub(crate) struct SlotLoop<'a> {
    pub(crate) subtasks: &'a mut [Placed],
    pub(crate) idle: IdlePolicy,
    pub(crate) doorbell: &'a Doorbell,
    pub(crate) parking: &'a ParkingLot,
    /// Connections to slots of other hosts, if there are any.
    pub(crate) links: Option<&'a RefCell<SlotLinks>>,
    pub(crate) mailbox: &'a Mailbox,
    pub(crate) checkpoints: Option<&'a SlotCheckpoints>,
    /// Where figures of the store and the connections go.
    pub(crate) metrics: &'a SlotMetrics,
    /// What each subtask remembers.
    pub(crate) states: &'a [Rc<SubtaskState>],
    /// When all subtasks have finished the loop goes on, until it is told to end: what they hold may still be
    /// asked for, and what comes by the slot's connections may be for others.
    pub(crate) stay: bool,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) clock: Rc<PollClock>,
    /// What the connections of earlier attempts have counted.
    pub(crate) links_before: LinkStats,
    /// When the slot has last told about itself.
    pub(crate) reported: Timestamp,
    /// The slot has worked since.
    pub(crate) has_news: bool,
}

/// What came of a pass over the subtasks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Worked,
    Idle,
    AllFinished,
}

/// Turns links over: records are read there, whose types are the user's.
fn guarded(turn: impl FnOnce() -> Result<bool, LinkError>) -> Result<bool, SlotFailure> {
    match catch_unwind(AssertUnwindSafe(turn)) {
        Ok(turned) => turned.map_err(SlotFailure::of_links),
        Err(payload) => {
            let cause = Cause::Panic(panic_message(payload.as_ref()));
            Err(SlotFailure { blamed: None, cause })
        }
    }
}

impl SlotLoop<'_> {
    /// Runs until all subtasks have finished, then until it is told to end if it is to stay, or the job is to
    /// stop. Calls `finished` when they have.
    pub(crate) async fn run(mut self, finished: impl FnOnce()) -> Result<(), SlotFailure> {
        let mut progress = vec![Progress::Busy; self.subtasks.len()];
        let mut finished = Some(finished);
        let mut idle_since: Option<Instant> = None;
        let mut spins: u32 = 0;
        let mut maintained = self.clock.now();
        self.report_now();
        while !self.stop.load(Ordering::Relaxed) {
            self.clock.update();
            if self.mailbox.is_full() && self.read_mail()? {
                break;
            }
            // What has come is there for this pass, and what the last one has made goes out.
            let moved = self.turn_links()?;
            let pass = self.pass(&mut progress)?;
            if pass == Pass::AllFinished
                && let Some(finished) = finished.take()
            {
                self.report_now();
                finished();
                if !self.stay {
                    return Ok(());
                }
            }
            match pass {
                Pass::Idle | Pass::AllFinished if moved => {
                    self.has_news = true;
                    self.report(REPORT_INTERVAL);
                    continue;
                }
                Pass::Worked => {
                    idle_since = None;
                    self.has_news = true;
                    let now = self.clock.now();
                    if now >= maintained + MAINTENANCE_INTERVAL {
                        maintained = now;
                        self.maintain(MAINTENANCE_BUSY);
                        self.report(REPORT_INTERVAL);
                    }
                    continue;
                }
                Pass::Idle | Pass::AllFinished => {
                    self.report(REPORT_INTERVAL_IDLE);
                    if self.maintain(MAINTENANCE_IDLE) {
                        self.has_news = true;
                        continue;
                    }
                }
            }
            let spin = match self.idle {
                IdlePolicy::Spin => Duration::MAX,
                IdlePolicy::SpinThenPark(spin) => spin,
                IdlePolicy::Park => Duration::ZERO,
            };
            if spin > Duration::ZERO {
                spins = spins.wrapping_add(1);
                let since = *idle_since.get_or_insert_with(Instant::now);
                if !spins.is_multiple_of(SPINS_PER_CLOCK) || since.elapsed() < spin {
                    std::hint::spin_loop();
                    continue;
                }
            }
            idle_since = None;
            self.park(&mut progress, finished.is_none()).await?;
        }
        if finished.is_none() {
            self.report_now();
        }
        Ok(())
    }

    /// Turns the connections to other hosts over; true if anything has happened there.
    fn turn_links(&self) -> Result<bool, SlotFailure> {
        match self.links {
            None => Ok(false),
            Some(links) => guarded(|| links.borrow_mut().tick()),
        }
    }

    /// Sleeps until somebody wakes the slot, or something comes from another host, so long at the most.
    async fn sleep(&self, timeout: Option<Duration>) -> Result<(), SlotFailure> {
        match self.links {
            None => self.parking.park(timeout).await,
            // The loop is the only task of its thread, so the thread may wait.
            Some(links) => {
                guarded(|| links.borrow_mut().wait(timeout))?;
            }
        }
        Ok(())
    }

    /// Tells about the store and the connections, if there may be something new and it was not done for
    /// the `interval`.
    fn report(&mut self, interval: Duration) {
        if self.has_news && self.clock.now() >= self.reported + interval {
            (self.has_news, self.reported) = (false, self.clock.now());
            self.report_now();
        }
    }

    fn report_now(&self) {
        if let Some(checkpoints) = self.checkpoints {
            self.metrics.set_store(checkpoints.store_figures());
        }
        if let Some(links) = self.links {
            self.metrics.set_links(self.links_before + links.borrow().stats());
        }
    }

    /// Lets the store tidy up; true if it has more to do. Looks at some of what may have expired.
    fn maintain(&self, budget: Duration) -> bool {
        self.states.iter().for_each(|state| state.sweep());
        self.checkpoints.is_some_and(|checkpoints| checkpoints.maintain(budget))
    }

    /// Does what the job's control wants; true if the loop is to end.
    fn read_mail(&mut self) -> Result<bool, SlotFailure> {
        for mail in self.mailbox.take() {
            match mail {
                Mail::Announce(checkpoint, kind) => {
                    self.each_subtask(|subtask| subtask.announce(checkpoint, kind))?;
                }
                Mail::Complete { checkpoint, oldest } => {
                    if let Some(checkpoints) = self.checkpoints {
                        checkpoints.on_complete(checkpoint, oldest);
                    }
                }
                Mail::Abort(checkpoint) => {
                    self.each_subtask(|subtask| subtask.abort(checkpoint))?;
                    if let Some(checkpoints) = self.checkpoints {
                        checkpoints.on_abort(checkpoint);
                    }
                }
                Mail::Exit => return Ok(true),
            }
        }
        Ok(false)
    }

    fn each_subtask(&mut self, mut f: impl FnMut(&mut dyn Subtask)) -> Result<(), SlotFailure> {
        for placed in &mut *self.subtasks {
            catch_unwind(AssertUnwindSafe(|| f(&mut *placed.chain)))
                .map_err(|p| SlotFailure::from_panic(p, placed.first, placed.subtask))?;
        }
        Ok(())
    }

    /// Polls each subtask that has not finished; `progress` is what came of it the last time.
    fn pass(&mut self, progress: &mut [Progress]) -> Result<Pass, SlotFailure> {
        let now = self.clock.now();
        let mut pass = Pass::AllFinished;
        for (placed, progress) in self.subtasks.iter_mut().zip(progress) {
            if *progress == Progress::Finished {
                continue;
            }
            let polled = catch_unwind(AssertUnwindSafe(|| placed.chain.poll(now)));
            *progress =
                polled.map_err(|p| SlotFailure::from_panic(p, placed.first, placed.subtask))?;
            pass = match *progress {
                Progress::Busy => Pass::Worked,
                Progress::Finished => continue,
                Progress::Idle | Progress::Blocked if pass == Pass::Worked => Pass::Worked,
                Progress::Idle | Progress::Blocked => Pass::Idle,
            };
        }
        Ok(pass)
    }

    async fn park(
        &mut self,
        progress: &mut [Progress],
        has_finished: bool,
    ) -> Result<(), SlotFailure> {
        self.doorbell.prepare_park();
        self.clock.update();
        let pass = self.pass(progress);
        let mut slept = Ok(());
        let idle = match pass {
            Ok(Pass::Idle) => true,
            Ok(Pass::AllFinished) => has_finished,
            Ok(Pass::Worked) | Err(_) => false,
        };
        let sleep = idle && !self.stop.load(Ordering::Relaxed) && !self.mailbox.is_full();
        if sleep {
            let deadline = self
                .subtasks
                .iter()
                .zip(&*progress)
                .map(|(placed, progress)| match progress {
                    Progress::Idle => placed.chain.next_deadline().min(placed.chain.overtake_at()),
                    Progress::Blocked => placed.chain.overtake_at(),
                    Progress::Busy | Progress::Finished => Timestamp::MAX,
                })
                .min()
                .unwrap_or(Timestamp::MAX);
            let timeout =
                (deadline < Timestamp::MAX).then(|| deadline.since(self.clock.source().now()));
            if timeout != Some(Duration::ZERO) {
                slept = self.sleep(timeout.map(|timeout| timeout.max(PARK_MIN))).await;
            }
        }
        self.doorbell.cancel_park();
        slept?;
        pass.map(|_| ())
    }
}
