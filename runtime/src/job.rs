//! Jobs: a graph is placed on slots, started, watched, and brought to its end.

use crate::clock::{PollClock, ProcessingClock};
use crate::config::{ExecutionConfig, IdlePolicy};
use crate::error::JobError;
use crate::executor::{ParkingLot, SlotThread, parking_lot};
use crate::graph::{Graph, Instance, Outcome};
use crate::metrics::{JobCounters, SubtaskMetrics};
use crate::slot::{Cause, Placed, SlotFailure, SlotLoop};
use crate::source::SlotWaker;
use crate::subtask::SubtaskContext;
use hdrhistogram::Histogram;
use millstream_network::{Doorbell, Wake};
use millstream_state::{MemberIndex, StateBackend, StoreScope, SubtaskState};
use millstream_tuning::{ChannelMemory, Requirements, Severity, Topology, check, raise_limits};
use millstream_types::{OperatorId, SlotIndex, SubtaskIndex, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The counters of a vertex.
#[derive(Clone, Debug)]
pub struct VertexMetrics {
    /// The names of its operators, joined.
    pub name: String,
    /// Whether it reads from outside.
    pub is_source: bool,
    /// Whether it writes to the outside.
    pub is_sink: bool,
    /// The counters of each subtask.
    pub subtasks: Vec<Arc<SubtaskMetrics>>,
}

impl VertexMetrics {
    /// Records that came in, over all subtasks.
    pub fn records_in(&self) -> u64 {
        self.subtasks.iter().map(|s| s.records_in()).sum()
    }

    /// Records that went out, over all subtasks.
    pub fn records_out(&self) -> u64 {
        self.subtasks.iter().map(|s| s.records_out()).sum()
    }

    /// The least watermark of the subtasks.
    pub fn watermark(&self) -> Timestamp {
        self.subtasks.iter().map(|s| s.watermark()).min().unwrap_or(Timestamp::MIN)
    }

    /// The greatest backpressure of the subtasks, from 0 to 1.
    pub fn backpressure(&self) -> f64 {
        self.subtasks.iter().map(|s| s.backpressure()).fold(0.0, f64::max)
    }
}

/// All counters of a job, live.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    /// By vertex.
    pub vertices: Vec<VertexMetrics>,
    /// Of the job as a whole.
    pub counters: Arc<JobCounters>,
}

impl JobMetrics {
    /// Records that the sources emitted.
    pub fn source_records(&self) -> u64 {
        self.vertices.iter().filter(|v| v.is_source).map(|v| v.records_in()).sum()
    }

    /// Records that reached sinks.
    pub fn sink_records(&self) -> u64 {
        self.vertices.iter().flat_map(|v| &v.subtasks).map(|s| s.records_written()).sum()
    }

    /// How long latency markers were on their way to the sinks, in nanoseconds.
    pub fn latency(&self) -> Histogram<u64> {
        let mut total = Histogram::new(3).expect("three digits are within the bounds");
        for subtask in self.vertices.iter().flat_map(|v| &v.subtasks) {
            subtask.add_latency_to(&mut total);
        }
        total
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// All sources ended and all was processed.
    Finished,
    /// It was cancelled.
    Cancelled,
}

/// What a job that did not fail came to.
#[derive(Clone, Debug)]
pub struct JobResult {
    /// How it ended.
    pub status: JobStatus,
    /// From the release of the sources to the last result.
    pub elapsed: Duration,
    /// Processor time of the whole process in that time.
    pub cpu: Duration,
    /// The counters as they were at the end.
    pub metrics: JobMetrics,
}

/// A job that runs.
///
/// Dropping the handle cancels the job and waits for its threads.
pub struct JobHandle {
    shared: Arc<Shared>,
    metrics: JobMetrics,
    names: Vec<String>,
    outcomes: Vec<(OperatorId, u32, Box<dyn Outcome>)>,
    threads: Vec<SlotThread>,
    reports: mpsc::Receiver<Report>,
    started: Instant,
    cpu_at_start: Duration,
}

/// What the slots and the handle share.
struct Shared {
    stop: AtomicBool,
    cancelled: AtomicBool,
    released: AtomicBool,
    failure: Mutex<Option<SlotFailure>>,
    lots: Vec<Arc<ParkingLot>>,
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.lots.iter().for_each(|lot| lot.wake());
    }

    fn fail(&self, failure: SlotFailure) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(failure);
        drop(first);
        self.stop();
    }

    fn take_failure(&self) -> Option<SlotFailure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a slot tells the handle.
enum Report {
    Ready,
    Ended(Instant),
}

/// Cancels a job, from any thread.
#[derive(Clone)]
pub struct Canceller(Arc<Shared>);

impl Canceller {
    /// Asks the job to stop. Its slots notice at their next pass.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        self.0.stop();
    }
}

/// Places, builds and starts a job. When this returns, all slots run.
///
/// # Errors
/// If the graph is invalid, a source or sink cannot be prepared, or a slot cannot start.
pub fn start(
    mut graph: Graph,
    config: &ExecutionConfig,
    backend: Arc<dyn StateBackend>,
) -> Result<JobHandle, JobError> {
    if config.slots == 0 {
        return Err(JobError::Invalid(
            "a job needs at least one slot; set slots to 1 or more".into(),
        ));
    }
    let parallelism = config.parallelism.unwrap_or(config.slots);
    graph.validate(parallelism, config.max_parallelism)?;
    let slots_of: Vec<Vec<SlotIndex>> = graph
        .vertices
        .iter()
        .map(|vertex| {
            let parallelism = vertex.parallelism.unwrap_or(parallelism);
            (0..parallelism).map(|subtask| SlotIndex(subtask % config.slots)).collect()
        })
        .collect();
    let (idle, cores) = place_on_host(config, graph.channel_memory(&slots_of, config.exchange))?;
    let lots: Vec<_> = (0..config.slots).map(|_| parking_lot()).collect();
    let doorbells: Vec<_> =
        lots.iter().map(|lot| Doorbell::new(Arc::clone(lot) as Arc<dyn Wake>)).collect();
    let instances = graph.wire(&slots_of, &doorbells, config.exchange.credits);

    let counters = Arc::new(JobCounters::default());
    let metrics = job_metrics(&graph, &slots_of, &counters);
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        cancelled: AtomicBool::new(false),
        released: AtomicBool::new(false),
        failure: Mutex::new(None),
        lots,
    });

    let mut plans: Vec<_> = (0..config.slots).map(|_| Vec::new()).collect();
    for (vertex, (instances, slots)) in instances.into_iter().zip(&slots_of).enumerate() {
        for (subtask, (instance, slot)) in instances.into_iter().zip(slots).enumerate() {
            plans[slot.0 as usize].push(Plan {
                subtask: SubtaskIndex(subtask as u32),
                parallelism: slots.len() as u32,
                first: graph.vertices[vertex].operators[0],
                metrics: metrics.vertices[vertex].subtasks[subtask].clone(),
                instance,
            });
        }
    }

    let (report, reports) = mpsc::channel();
    let mut handle = JobHandle {
        shared: Arc::clone(&shared),
        metrics,
        names: graph.operators.iter().map(|o| o.name.clone()).collect(),
        outcomes: graph
            .outcomes
            .drain(..)
            .map(|(operator, vertex, outcome)| {
                (operator, slots_of[vertex.0 as usize].len() as u32, outcome)
            })
            .collect(),
        threads: Vec::new(),
        reports,
        started: Instant::now(),
        cpu_at_start: Duration::ZERO,
    };
    let processing = ProcessingClock::new();
    let uids = graph.uids();
    for (index, (plan, doorbell)) in plans.into_iter().zip(doorbells).enumerate() {
        let slot = SlotIndex(index as u32);
        let run = SlotRun {
            slot,
            plan,
            doorbell,
            shared: Arc::clone(&shared),
            counters: Arc::clone(&counters),
            backend: Arc::clone(&backend),
            config: config.clone(),
            idle,
            processing,
            uids: Arc::clone(&uids),
            report: report.clone(),
        };
        let core = cores.get(index).copied().flatten();
        // On failure the handle's drop stops and joins the slots that did start.
        handle.threads.push(SlotThread::spawn(slot, core, move || run.run())?);
    }
    drop(report);
    handle.release()?;
    Ok(handle)
}

/// Checks the host against what the job wants of it, and chooses a core for each slot.
fn place_on_host(
    config: &ExecutionConfig,
    channels: ChannelMemory,
) -> Result<(IdlePolicy, Vec<Option<usize>>), JobError> {
    if let Err(error) = raise_limits() {
        tracing::debug!("the limits on open files and locked memory stay as they are: {error}");
    }
    let topology = Topology::detect();
    let host = millstream_tuning::HostReport::probe(&topology);
    let wanted = Requirements { channels, ..Requirements::for_slots(config.slots as usize) };
    for finding in check(&host, &wanted) {
        match finding.severity {
            Severity::Refusal => return Err(JobError::Invalid(finding.to_string())),
            Severity::Warning => tracing::warn!("{finding}"),
            Severity::Note => tracing::debug!("{finding}"),
        }
    }
    let placements = topology.assign(config.slots as usize);
    let oversubscribed = config.slots as usize > topology.slots_max();
    let idle = match config.idle {
        IdlePolicy::Spin if oversubscribed => {
            return Err(JobError::Invalid(format!(
                "{} slots cannot spin on {} cores: a slot that spins takes a core from one that works; use at most {} slots, or the idle policy \"park\"",
                config.slots,
                topology.slots_max(),
                topology.slots_max(),
            )));
        }
        // That they share cores has been warned of, as a finding.
        IdlePolicy::SpinThenPark(_) if oversubscribed => IdlePolicy::Park,
        idle => idle,
    };
    let pin = config.pin && !oversubscribed;
    let cores = placements.iter().map(|p| pin.then_some(p.core.0)).collect();
    Ok((idle, cores))
}

fn job_metrics(
    graph: &Graph,
    slots_of: &[Vec<SlotIndex>],
    counters: &Arc<JobCounters>,
) -> JobMetrics {
    let vertices = graph
        .vertices
        .iter()
        .zip(slots_of)
        .map(|(vertex, slots)| VertexMetrics {
            name: graph.vertex_name(vertex),
            is_source: vertex.is_source,
            is_sink: vertex.is_sink,
            subtasks: slots.iter().map(|_| Arc::default()).collect(),
        })
        .collect();
    JobMetrics { vertices, counters: Arc::clone(counters) }
}

/// A subtask to be built.
struct Plan {
    subtask: SubtaskIndex,
    parallelism: u32,
    first: OperatorId,
    metrics: Arc<SubtaskMetrics>,
    instance: Instance,
}

/// All that a slot's thread begins with.
struct SlotRun {
    slot: SlotIndex,
    plan: Vec<Plan>,
    doorbell: Doorbell,
    shared: Arc<Shared>,
    counters: Arc<JobCounters>,
    backend: Arc<dyn StateBackend>,
    config: ExecutionConfig,
    idle: IdlePolicy,
    processing: ProcessingClock,
    uids: Arc<[String]>,
    report: mpsc::Sender<Report>,
}

impl SlotRun {
    async fn run(mut self) {
        let clock = Rc::new(PollClock::new(self.processing));
        let built = self.build(&clock);
        // The handle may be gone only if the job was given up: then nobody needs the report.
        let _ = self.report.send(Report::Ready);
        let mut subtasks = match built {
            Ok(subtasks) => subtasks,
            Err(failure) => {
                self.shared.fail(failure);
                Vec::new()
            }
        };
        let parking = Arc::clone(&self.shared.lots[self.slot.0 as usize]);
        while !self.shared.released.load(Ordering::SeqCst)
            && !self.shared.stop.load(Ordering::SeqCst)
        {
            parking.park(None).await;
        }
        let slot_loop = SlotLoop {
            subtasks: &mut subtasks,
            idle: self.idle,
            doorbell: &self.doorbell,
            parking: &parking,
            stop: &self.shared.stop,
            clock,
        };
        if let Err(failure) = slot_loop.run().await {
            self.shared.fail(failure);
        }
        let _ = self.report.send(Report::Ended(Instant::now()));
        // State is dropped after the report, as the end of the job is its last result.
        drop(subtasks);
    }

    fn build(&mut self, clock: &Rc<PollClock>) -> Result<Vec<Placed>, SlotFailure> {
        let plan = std::mem::take(&mut self.plan);
        let Some(any) = plan.first().map(|p| (p.first, p.subtask)) else { return Ok(Vec::new()) };
        let store = self.backend.open(StoreScope::new(self.slot)).map_err(|error| SlotFailure {
            operator: any.0,
            subtask: any.1,
            cause: Cause::Error(error.into()),
        })?;
        let store = Rc::new(RefCell::new(store));
        let doorbell = self.doorbell.clone();
        let waker = SlotWaker::new(move || doorbell.ring_if_parked());
        plan.into_iter()
            .enumerate()
            .map(|(member, plan)| {
                let Plan { subtask, parallelism, first, metrics, instance } = plan;
                let mut context = SubtaskContext {
                    subtask,
                    parallelism,
                    max_parallelism: self.config.max_parallelism,
                    exchange: self.config.exchange,
                    metrics,
                    counters: Arc::clone(&self.counters),
                    clock: Rc::clone(clock),
                    waker: waker.clone(),
                    state: Rc::new(SubtaskState::new(
                        Rc::clone(&store),
                        MemberIndex(member as u32),
                        subtask,
                        None,
                    )),
                    uids: Arc::clone(&self.uids),
                    latency_interval: self.config.latency_interval,
                };
                let chain = catch_unwind(AssertUnwindSafe(|| instance(&mut context)))
                    .map_err(|payload| SlotFailure::from_panic(payload, first, subtask))?
                    .map_err(|error| SlotFailure {
                        operator: error.operator,
                        subtask,
                        cause: Cause::Error(error.error),
                    })?;
                Ok(Placed { subtask, first, chain })
            })
            .collect()
    }
}

impl JobHandle {
    /// Waits until all slots have built their subtasks, then lets them run.
    fn release(&mut self) -> Result<(), JobError> {
        for _ in 0..self.threads.len() {
            // A thread that died before it reported shows as a closed channel.
            if self.reports.recv().is_err() {
                break;
            }
        }
        if let Some(failure) = self.shared.take_failure() {
            let _ = self.join();
            self.abort();
            return Err(self.named(failure));
        }
        self.started = Instant::now();
        self.cpu_at_start = process_cpu_time();
        self.shared.released.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        Ok(())
    }

    /// The job's counters, live.
    pub fn metrics(&self) -> &JobMetrics {
        &self.metrics
    }

    /// Something to cancel the job with.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.shared))
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for the job's end, and commits what its sinks wrote.
    ///
    /// # Errors
    /// If user code, a source or a sink failed. Nothing that a sink wrote is committed then.
    pub fn wait(mut self) -> Result<JobResult, JobError> {
        let mut last = self.started;
        for _ in 0..self.threads.len() {
            match self.reports.recv() {
                Ok(Report::Ended(at)) => last = last.max(at),
                Ok(Report::Ready) => unreachable!("every slot was ready before the release"),
                Err(_) => break,
            }
        }
        let elapsed = last - self.started;
        let cpu = process_cpu_time().saturating_sub(self.cpu_at_start);
        let joined = self.join();
        if let Some(failure) = self.shared.take_failure() {
            self.abort();
            return Err(self.named(failure));
        }
        if let Err(error) = joined {
            self.abort();
            return Err(error);
        }
        let status = if self.shared.cancelled.load(Ordering::SeqCst) {
            self.abort();
            JobStatus::Cancelled
        } else {
            self.commit()?;
            JobStatus::Finished
        };
        Ok(JobResult { status, elapsed, cpu, metrics: self.metrics.clone() })
    }

    fn named(&self, failure: SlotFailure) -> JobError {
        let name = self.names[failure.operator.0 as usize].clone();
        failure.into_error(name)
    }

    fn join(&mut self) -> Result<(), JobError> {
        let mut result = Ok(());
        for (slot, thread) in self.threads.drain(..).enumerate() {
            let joined = thread.join(SlotIndex(slot as u32));
            result = result.and(joined);
        }
        result
    }

    fn commit(&mut self) -> Result<(), JobError> {
        for (operator, _, outcome) in std::mem::take(&mut self.outcomes) {
            outcome.commit(&[]).map_err(|error| JobError::Failed {
                operator: self.names[operator.0 as usize].clone(),
                subtask: 0,
                error,
            })?;
        }
        Ok(())
    }

    fn abort(&mut self) {
        for (_, parallelism, outcome) in std::mem::take(&mut self.outcomes) {
            outcome.abort(parallelism);
        }
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shared.stop();
            // Nobody is left to be told of an error.
            let _ = self.join();
        }
        self.abort();
    }
}

/// Processor time of this process so far, user and system.
pub fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
