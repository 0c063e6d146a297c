//! One attempt at a region of a job: its slots in this process, from their start to their end.

use super::remains::Remains;
use super::{Job, JobMetrics};
use crate::checkpoint::{
    Beginning, Mailbox, Report, Restored, SlotCheckpoints, SubtaskCheckpoints,
};
use crate::clock::{PollClock, ProcessingClock};
use crate::config::{CheckpointConfig, ExecutionConfig, IdlePolicy};
use crate::error::JobError;
use crate::exchange::{SlotLinks, SlotStream};
use crate::executor::{ParkingLot, SlotThread, parking_lot};
use crate::graph::{Instance, OpenFeed, Wired, Wires};
use crate::hosts::Post;
use crate::metrics::{JobCounters, SlotMetrics, SubtaskMetrics};
use crate::slot::{Cause, Placed, SlotFailure, SlotLoop};
use crate::source::SlotWaker;
use crate::subtask::{SubtaskContext, assignment};
use millstream_network::{Doorbell, Wake};
use millstream_protocol::SubtaskId;
use millstream_state::{
    FileWatcher, MemberIndex, SharedStore, StateBackend, StoreScope, SubtaskState,
};
use millstream_tuning::BackgroundCores;
use millstream_types::{KeyGroupRange, OperatorId, SlotIndex, SubtaskIndex, Timestamp, VertexId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Slots of this process that run.
pub(crate) struct Attempt {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    threads: Vec<(SlotIndex, SlotThread)>,
}

/// What the slots and the supervisor share.
pub(crate) struct Shared {
    stop: AtomicBool,
    released: AtomicBool,
    is_over: AtomicBool,
    failure: Mutex<Option<SlotFailure>>,
    /// The other members of the job end with this one's slots, if this one controls them.
    elsewhere: Mutex<Post>,
    lots: Vec<Arc<ParkingLot>>,
}

impl Shared {
    pub(super) fn new(lots: Vec<Arc<ParkingLot>>) -> Self {
        Self {
            stop: AtomicBool::new(false),
            released: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
            elsewhere: Mutex::default(),
            lots,
        }
    }

    pub(crate) fn stop(&self) {
        if !self.stop.swap(true, Ordering::SeqCst) {
            self.elsewhere().stop();
        }
        self.wake_all();
    }

    pub(crate) fn release(&self) {
        self.elsewhere().release();
        self.released.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    /// From now on other members of the job are released and stopped with this one.
    pub(super) fn lead(&self, post: Post) {
        *self.elsewhere() = post;
        if self.stop.load(Ordering::SeqCst) {
            self.elsewhere().stop();
        }
    }

    fn elsewhere(&self) -> MutexGuard<'_, Post> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.lots.iter().for_each(|lot| lot.wake());
    }

    /// The job is at its end: whoever closes his connections now has failed nobody.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// The job is at its end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    pub(crate) fn fail(&self, failure: SlotFailure) {
        if failure.blamed.is_none() && self.is_over() {
            return self.stop();
        }
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // What an operator has done is the cause of what connections suffer.
        if first.as_ref().is_none_or(|first| first.blamed.is_none() && failure.blamed.is_some()) {
            *first = Some(failure);
        }
        drop(first);
        self.stop();
    }

    /// True if the slots have been told to end, and there may be another attempt.
    fn may_go_on(&self) -> bool {
        self.stop.load(Ordering::SeqCst) && !self.is_over()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn take_failure(&self) -> Option<SlotFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Attempt {
    /// Starts the threads of some `slots` of this process, between which and its others there are no channels; each
    /// builds its subtasks and reports that it is ready. `streams` are the connections of each slot to slots of other
    /// hosts.
    pub(crate) fn start(
        job: &Job,
        number: u64,
        slots: Range<u32>,
        restored: Option<&Restored>,
        streams: Vec<Vec<SlotStream>>,
        reporter: Sender<Report>,
    ) -> Result<Self, JobError> {
        let here = slots;
        let lots: Vec<_> = here.clone().map(|_| parking_lot()).collect();
        let doorbells: Vec<_> =
            lots.iter().map(|lot| Doorbell::new(Arc::clone(lot) as Arc<dyn Wake>)).collect();
        let mailboxes: Vec<_> = lots
            .iter()
            .map(|lot| Arc::new(Mailbox::new(Arc::clone(lot) as Arc<dyn Wake>)))
            .collect();
        let wires =
            Wires::new(here.clone(), &doorbells, &job.site.routes, job.config.exchange.credits);
        let Wired { instances, feeds } = job.graph.wire(&job.slots_of, wires);
        let shared = Arc::new(Shared::new(lots));
        let plans = plan(job, instances).into_iter().skip(here.start as usize);
        let mut attempt =
            Self { shared: Arc::clone(&shared), mailboxes: mailboxes.clone(), threads: Vec::new() };
        let uids = job.graph.uids();
        let beginning = Beginning {
            attempt: number,
            checkpoint: restored.map(Restored::checkpoint).unwrap_or_default(),
            rounds: restored.map_or(0, |restored| restored.rounds(&job.graph)),
        };
        let places = &job.site.places[(here.start - job.slots_here().start) as usize..];
        let mut streams = streams.into_iter();
        let mut feeds = feeds.into_iter();
        for (index, ((plan, doorbell), place)) in plans.zip(doorbells).zip(places).enumerate() {
            let slot = SlotIndex(here.start + index as u32);
            let run = SlotRun {
                slot,
                attempt: number,
                plan,
                doorbell,
                mailbox: Arc::clone(&mailboxes[index]),
                lot: Arc::clone(&shared.lots[index]),
                shared: Arc::clone(&shared),
                streams: streams.next().unwrap_or_default(),
                feeds: feeds.next().unwrap_or_default(),
                counters: Arc::clone(&job.metrics.counters),
                metrics: Arc::clone(&job.metrics.slots[slot.0 as usize]),
                backend: Arc::clone(&job.backend),
                config: job.config.clone(),
                idle: job.site.idle,
                background: place.background.clone(),
                processing: job.processing,
                uids: Arc::clone(&uids),
                restored: restored.cloned(),
                remains: Arc::clone(&job.remains),
                beginning,
                report: reporter.clone(),
                farewell: Farewell {
                    shared: Arc::clone(&shared),
                    report: reporter.clone(),
                    attempt: number,
                    has_ended: false,
                },
            };
            // On failure the attempt's drop stops and joins the slots that did start.
            attempt.threads.push((slot, SlotThread::spawn(slot, place.core, move || run.run())?));
        }
        Ok(attempt)
    }

    /// Waits for the ends of all threads.
    pub(crate) fn join(&mut self) -> Result<(), JobError> {
        let mut result = Ok(());
        for (slot, thread) in self.threads.drain(..) {
            let joined = thread.join(slot);
            result = result.and(joined);
        }
        result
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shared.stop();
            // Whoever drops an attempt has an error of its own.
            let _ = self.join();
        }
    }
}

/// A subtask to be built.
struct Plan {
    id: SubtaskId,
    parallelism: u32,
    operators: Vec<OperatorId>,
    anchor: OperatorId,
    metrics: Arc<SubtaskMetrics>,
    instance: Instance,
}

/// What each slot is to build.
fn plan(job: &Job, instances: Vec<Vec<Instance>>) -> Vec<Vec<Plan>> {
    let mut plans: Vec<_> = (0..job.config.slots).map(|_| Vec::new()).collect();
    let JobMetrics { vertices, .. } = &job.metrics;
    for (vertex, (instances, slots)) in instances.into_iter().zip(&job.slots_of).enumerate() {
        for (subtask, (instance, slot)) in instances.into_iter().zip(slots).enumerate() {
            let id = SubtaskId {
                vertex: VertexId(vertex as u32),
                subtask: SubtaskIndex(subtask as u32),
            };
            plans[slot.0 as usize].push(Plan {
                id,
                parallelism: slots.len() as u32,
                operators: job.graph.vertices[vertex].operators.clone(),
                anchor: job.graph.anchor(&job.graph.vertices[vertex]),
                metrics: vertices[vertex].subtasks[subtask].clone(),
                instance,
            });
        }
    }
    plans
}

/// What a subtask with these operators owns.
fn owned_by<'a>(
    operators: &'a [OperatorId],
    uids: &'a [String],
    groups: KeyGroupRange,
) -> impl Iterator<Item = (String, KeyGroupRange)> + 'a {
    operators.iter().map(move |operator| (uids[operator.0 as usize].clone(), groups.clone()))
}

impl Job {
    /// The subtasks of each slot of the job.
    pub(super) fn subtasks(&self) -> BTreeMap<SlotIndex, Vec<SubtaskId>> {
        let mut subtasks = BTreeMap::<_, Vec<_>>::new();
        for (vertex, slots) in (0..).map(VertexId).zip(&self.slots_of) {
            for (subtask, slot) in (0..).map(SubtaskIndex).zip(slots) {
                subtasks.entry(*slot).or_default().push(SubtaskId { vertex, subtask });
            }
        }
        subtasks
    }

    /// What the slots of this process own.
    pub(super) fn owned_here(&self) -> Vec<(String, KeyGroupRange)> {
        let (here, uids) = (self.slots_here(), self.graph.uids());
        let mut owned = Vec::new();
        for (vertex, slots) in self.graph.vertices.iter().zip(&self.slots_of) {
            let groups = assignment(slots.len() as u32, self.config.max_parallelism);
            for (subtask, _) in (0..).zip(slots).filter(|(_, slot)| here.contains(&slot.0)) {
                let groups = groups.range(SubtaskIndex(subtask));
                owned.extend(owned_by(&vertex.operators, &uids, groups));
            }
        }
        owned
    }
}

/// All that a slot's thread begins with.
struct SlotRun {
    slot: SlotIndex,
    attempt: u64,
    plan: Vec<Plan>,
    doorbell: Doorbell,
    mailbox: Arc<Mailbox>,
    lot: Arc<ParkingLot>,
    shared: Arc<Shared>,
    streams: Vec<SlotStream>,
    feeds: Vec<OpenFeed>,
    counters: Arc<JobCounters>,
    metrics: Arc<SlotMetrics>,
    backend: Arc<dyn StateBackend>,
    config: ExecutionConfig,
    idle: IdlePolicy,
    background: BackgroundCores,
    processing: ProcessingClock,
    uids: Arc<[String]>,
    restored: Option<Restored>,
    remains: Arc<Remains>,
    beginning: Beginning,
    report: Sender<Report>,
    farewell: Farewell,
}

/// Reports when it is dropped that a slot has ended: at its end, or when its thread has died or could not be
/// started. Then the others end too, and why shows when the threads are joined.
struct Farewell {
    shared: Arc<Shared>,
    report: Sender<Report>,
    attempt: u64,
    has_ended: bool,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.stop();
        }
        // As above: the supervisor may be gone.
        let _ = self.report.send(Report::Ended { attempt: self.attempt });
    }
}

/// What a slot has built.
#[derive(Default)]
struct BuiltSlot {
    subtasks: Vec<Placed>,
    checkpoints: Option<Rc<SlotCheckpoints>>,
    parts: Vec<Rc<SubtaskCheckpoints>>,
    states: Vec<Rc<SubtaskState>>,
    links: Option<Rc<RefCell<SlotLinks>>>,
    store: Option<SharedStore>,
}

impl SlotRun {
    async fn run(mut self) {
        let clock = Rc::new(PollClock::new(self.processing));
        // Whoever hears that all are ready also sees a failure.
        let built = self.build(&clock).unwrap_or_else(|failure| {
            self.shared.fail(failure);
            BuiltSlot::default()
        });
        let BuiltSlot { mut subtasks, checkpoints, parts, states, links, store } = built;
        // The supervisor may be gone only if the job was given up: then nobody needs the report.
        let with_state = parts.iter().flat_map(|part| part.operators_with_state()).collect();
        let attempt = self.attempt;
        let _ = self.report.send(Report::Ready { attempt, with_state });
        let parking = Arc::clone(&self.lot);
        while !self.shared.released.load(Ordering::SeqCst)
            && !self.shared.stop.load(Ordering::SeqCst)
        {
            parking.park(None).await;
        }
        let report = self.report.clone();
        let finished = move || {
            let transactions = parts.iter().flat_map(|part| part.transactions()).collect();
            // As above.
            let _ = report.send(Report::Finished { attempt, at: Instant::now(), transactions });
        };
        let slot_loop = SlotLoop {
            subtasks: &mut subtasks,
            idle: self.idle,
            doorbell: &self.doorbell,
            parking: &parking,
            links: links.as_deref(),
            mailbox: &self.mailbox,
            checkpoints: checkpoints.as_deref(),
            metrics: &self.metrics,
            links_before: self.metrics.links(),
            states: &states,
            // With checkpoints, a slot is asked for its last snapshot when all slots have finished. And
            // others may not have received yet all that it has sent.
            stay: self.config.checkpoints.is_some() || links.is_some(),
            stop: &self.shared.stop,
            reported: clock.now(),
            has_news: false,
            clock,
        };
        let result = slot_loop.run(finished).await;
        let is_whole = result.as_ref().err().is_none_or(SlotFailure::leaves_state_whole);
        if let Err(failure) = result {
            self.shared.fail(failure);
        }
        let leaves_store = is_whole && self.config.checkpoints.is_some() && self.shared.may_go_on();
        self.farewell.has_ended = true;
        drop(self.farewell);
        // State is dropped after the report, as the end of the job is its last result.
        drop((subtasks, states, checkpoints));
        if let Some(store) = store.filter(|_| leaves_store).and_then(Rc::into_inner) {
            self.remains.keep(self.slot, store.into_inner());
        }
    }

    fn build(&mut self, clock: &Rc<PollClock>) -> Result<BuiltSlot, SlotFailure> {
        let plan = std::mem::take(&mut self.plan);
        let links = self.open_links()?;
        let store = self.open_store(&plan, clock.now())?;
        let settings = self.config.checkpoints.as_ref().map(|c| c.settings).unwrap_or_default();
        let checkpoints = Rc::new(SlotCheckpoints::new(
            self.slot,
            Rc::clone(&store),
            settings,
            self.beginning,
            plan.len() as u32,
            self.report.clone(),
            Arc::clone(&self.counters),
        ));
        let doorbell = self.doorbell.clone();
        let waker = SlotWaker::new(move || doorbell.ring_if_parked());
        let (mut parts, mut states, mut subtasks) = (Vec::new(), Vec::new(), Vec::new());
        for (member, plan) in plan.into_iter().enumerate() {
            if self.shared.stop.load(Ordering::SeqCst) {
                return Err(SlotFailure::of_host("the attempt is over".to_owned()));
            }
            let Plan { id, parallelism, operators, anchor, metrics, instance } = plan;
            let (subtask, first) = (id.subtask, operators[0]);
            let state = SubtaskState::new(
                Rc::clone(&store),
                MemberIndex(member as u32),
                subtask,
                self.restored.as_ref().map(|restored| Arc::clone(&restored.state)),
            );
            let state = Rc::new(state.with_clock(clock.of_state()));
            states.push(Rc::clone(&state));
            let part = Rc::new(SubtaskCheckpoints::new(
                Rc::clone(&checkpoints),
                id,
                Rc::clone(&state),
                Arc::clone(&self.uids),
            ));
            let mut context = SubtaskContext {
                subtask,
                parallelism,
                anchor,
                operators,
                max_parallelism: self.config.max_parallelism,
                exchange: self.config.exchange,
                metrics,
                counters: Arc::clone(&self.counters),
                clock: Rc::clone(clock),
                waker: waker.clone(),
                state,
                checkpoints: Rc::clone(&part),
                uids: Arc::clone(&self.uids),
                links: links.clone(),
                latency_interval: self.config.latency_interval,
                source_rate: self.config.source_rate,
            };
            let chain = catch_unwind(AssertUnwindSafe(|| {
                let mut chain = instance(&mut context)?;
                chain.resume();
                Ok(chain)
            }))
            .map_err(|payload| SlotFailure::from_panic(payload, first, subtask))?
            .map_err(|error: crate::chain::OpenError| {
                SlotFailure::of_operator(error.operator, subtask, Cause::Error(error.error))
            })?;
            parts.push(part);
            subtasks.push(Placed { subtask, first, chain });
        }
        Ok(BuiltSlot {
            subtasks,
            checkpoints: Some(checkpoints),
            parts,
            states,
            links,
            store: Some(store),
        })
    }

    /// Opens the connections to slots of other hosts, by which the slot is woken from then on. What comes by
    /// them may be for other slots of this host.
    fn open_links(&mut self) -> Result<Option<Rc<RefCell<SlotLinks>>>, SlotFailure> {
        if self.streams.is_empty() {
            return Ok(None);
        }
        let streams = std::mem::take(&mut self.streams);
        let opened = SlotLinks::open(streams, self.attempt, self.config.exchange.credits)
            .and_then(|mut links| {
                self.lot.ring(links.alarm()?);
                self.feeds.drain(..).for_each(|open| open(&mut links));
                Ok(links)
            })
            .map_err(|error| {
                SlotFailure::of_host(format!(
                    "slot {} cannot open its io_uring for other hosts ({error}); containers forbid it unless their seccomp profile allows io_uring_setup",
                    self.slot
                ))
            })?;
        Ok(Some(Rc::new(RefCell::new(opened))))
    }

    fn open_store(&self, plan: &[Plan], now: Timestamp) -> Result<SharedStore, SlotFailure> {
        let mut scope = StoreScope::new(self.slot);
        scope.now = now;
        scope.background = self.background.clone();
        scope.memory_bytes = self.config.state_memory_bytes;
        let checkpoints = self.config.checkpoints.as_ref();
        scope.directory = checkpoints.map(CheckpointConfig::stores);
        scope.owned = plan
            .iter()
            .flat_map(|plan| {
                let groups = assignment(plan.parallelism, self.config.max_parallelism)
                    .range(plan.id.subtask);
                owned_by(&plan.operators, &self.uids, groups)
            })
            .collect();
        scope.restored = self.restored.as_ref().map(|restored| restored.files.clone());
        if checkpoints.is_some_and(|checkpoints| checkpoints.copies > 0) {
            let report = self.report.clone();
            scope.watcher = Some(FileWatcher::new(move |change| {
                // An error means that the job is at its end.
                let _ = report.send(Report::FileChanged(change));
            }));
        }
        if let Some(store) = self.remains.roll_back(&*self.backend, &scope) {
            self.counters.add_rollback();
            return Ok(Rc::new(RefCell::new(store)));
        }
        let blamed = plan.first().map(|plan| (plan.operators[0], plan.id.subtask));
        let store = self
            .backend
            .open(scope)
            .map_err(|error| SlotFailure { blamed, cause: Cause::Error(error.into()) })?;
        Ok(Rc::new(RefCell::new(store)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_slot_whose_thread_dies_has_ended_and_ends_the_others() {
        let (report, reports) = channel();
        let shared = Arc::new(Shared::new(Vec::new()));
        let (of, reporter) = (Arc::clone(&shared), report.clone());
        let farewell = |has_ended| {
            let (shared, report) = (Arc::clone(&of), reporter.clone());
            Farewell { shared, report, attempt: 7, has_ended }
        };
        drop(farewell(true));
        assert!(matches!(reports.try_recv(), Ok(Report::Ended { attempt: 7 })));
        assert!(!shared.stop.load(Ordering::SeqCst));
        drop(farewell(false));
        assert!(matches!(reports.try_recv(), Ok(Report::Ended { attempt: 7 })));
        assert!(shared.stop.load(Ordering::SeqCst));
    }
}
