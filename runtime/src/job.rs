//! Jobs: a graph is placed on slots, started, watched, started again if it fails, and brought to its
//! end.

mod attempt;
mod directory;
mod panel;
mod regions;
mod remains;
mod site;
mod supervisor;

use crate::checkpoint::JobIdentity;
use crate::clock::ProcessingClock;
use crate::config::ExecutionConfig;
use crate::error::JobError;
use crate::graph::Graph;
use crate::metrics::{JobCounters, SlotMetrics, SubtaskMetrics};
pub(crate) use attempt::{Attempt, Shared};
pub(crate) use directory::MemberDirectory;
use hdrhistogram::Histogram;
use millstream_protocol::OperatorEntry;
use millstream_state::StateBackend;
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use panel::{ControlPanel, Wanted};
use remains::Remains;
use rustix::time::{ClockId, clock_gettime};
use site::Site;
use std::cell::Cell;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use supervisor::Supervisor;

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
    /// By slot.
    pub slots: Vec<Arc<SlotMetrics>>,
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
    /// It was stopped, with a last checkpoint to go on from.
    Stopped,
    /// It was cancelled.
    Canceled,
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
    /// The checkpoint that the job began with, if it did.
    pub restored_checkpoint: Option<CheckpointId>,
    /// The counters as they were at the end.
    pub metrics: JobMetrics,
}

/// A job that runs.
///
/// Dropping the handle cancels the job and waits for its threads.
pub struct JobHandle {
    control: Arc<ControlPanel>,
    metrics: JobMetrics,
    started: Instant,
    supervisor: Option<JoinHandle<Result<JobResult, JobError>>>,
}

/// Cancels or stops a job, from any thread.
#[derive(Clone)]
pub struct Canceller(Arc<ControlPanel>);

impl Canceller {
    /// Asks the job to end at once. Its slots notice at their next pass.
    pub fn cancel(&self) {
        self.0.want(Wanted::Canceled);
    }

    /// What an interrupt from outside means: the first time to stop, the second time to cancel.
    pub fn interrupt(&self) {
        match self.0.wanted() {
            Wanted::Running => self.stop(),
            Wanted::Stopped | Wanted::Canceled => self.cancel(),
        }
    }

    /// Asks the job to end with a last checkpoint, which is kept: its sources emit nothing more,
    /// what they emitted is processed, and what sinks wrote is committed. Without checkpoints it is
    /// cancelled.
    pub fn stop(&self) {
        self.0.want(Wanted::Stopped);
    }
}

/// All that attempts at a job are made of.
pub(crate) struct Job {
    pub(crate) graph: Graph,
    pub(crate) identity: JobIdentity,
    pub(crate) config: ExecutionConfig,
    pub(crate) backend: Arc<dyn StateBackend>,
    /// The slot of each subtask of each vertex.
    pub(crate) slots_of: Vec<Vec<SlotIndex>>,
    site: Site,
    pub(crate) metrics: JobMetrics,
    pub(crate) processing: ProcessingClock,
    remains: Arc<Remains>,
}

impl Job {
    /// True if the job has several regions, each of them on one host.
    pub(crate) fn is_regional(&self) -> bool {
        self.site.regions.len() > 1
    }

    /// The slots of this process.
    pub(crate) fn slots_here(&self) -> Range<u32> {
        self.site.slots(&self.config)
    }
}

/// Places, builds and starts a job. When this returns, all slots of this process run or, where the job
/// runs on several hosts and another process controls it, do what that says.
///
/// # Errors
/// If the graph is invalid, a source or sink cannot be prepared, a checkpoint cannot be restored, or
/// a slot cannot start.
pub fn start(
    mut graph: Graph,
    name: &str,
    config: &ExecutionConfig,
    backend: Arc<dyn StateBackend>,
) -> Result<JobHandle, JobError> {
    let mut config = config.clone();
    if let Some(deployment) = &config.deployment {
        config.slots = deployment.slots();
    }
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
    let site = match config.deployment.take() {
        None => Site::of_one_host(&graph, &slots_of, &config)?,
        Some(deployment) => Site::of_member(deployment, &graph, &slots_of, &config)?,
    };
    let counters = Arc::new(JobCounters::default());
    let metrics = job_metrics(&graph, &slots_of, config.slots, &counters);
    let identity = identity(&graph, name, &config, &*backend, &slots_of);
    if config.checkpoints.is_some() {
        for name in graph.unreplayable_sources() {
            tracing::warn!(
                "source \"{name}\" cannot be read again: what it emits after the last checkpoint is lost if the job fails"
            );
        }
    }
    let (between, wake) = mpsc::channel();
    let control = Arc::new(ControlPanel::new(between));
    if let Some(host) = &site.host {
        let panel = Arc::clone(&control);
        host.attach_agent(&metrics, Box::new(move |order| panel.obey(order)))?;
        // Without checkpoints nothing in memory is of use to the next attempt.
        let follows = host.has_agent() && config.checkpoints.is_some();
        control.with(|panel| panel.host = Some(Arc::clone(host)).filter(|_| follows));
    }
    let job = Job {
        graph,
        identity,
        config,
        backend,
        slots_of,
        site,
        metrics: metrics.clone(),
        processing: ProcessingClock::new(),
        remains: Arc::default(),
    };
    let supervisor = Supervisor {
        job,
        control: Arc::clone(&control),
        started: Cell::default(),
        began_with: Cell::default(),
        attempts: Cell::default(),
        rounds: Cell::default(),
    };
    let (told, running) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("job".into())
        .spawn(move || {
            let control = Arc::clone(&supervisor.control);
            let result = supervisor.run(&told, &wake);
            // Whoever can still cancel the job keeps no port of it.
            control.with(|panel| panel.host = None);
            result
        })
        .map_err(|error| JobError::Invalid(format!("no thread can be started: {error}")))?;
    let mut handle =
        JobHandle { control, metrics, started: Instant::now(), supervisor: Some(thread) };
    match running.recv() {
        Ok(started) => {
            handle.started = started;
            Ok(handle)
        }
        // It has ended before it ran: with the reason.
        Err(_) => Err(handle.wait().err().unwrap_or(JobError::Canceled)),
    }
}

fn identity(
    graph: &Graph,
    name: &str,
    config: &ExecutionConfig,
    backend: &dyn StateBackend,
    slots_of: &[Vec<SlotIndex>],
) -> JobIdentity {
    let uids = graph.uids();
    let operators = graph.vertices.iter().zip(slots_of).flat_map(|(vertex, slots)| {
        vertex.operators.iter().map(|operator| OperatorEntry {
            uid: uids[operator.0 as usize].clone(),
            name: graph.operators[operator.0 as usize].name.clone(),
            parallelism: slots.len() as u32,
        })
    });
    JobIdentity {
        name: name.to_owned(),
        backend: backend.name().to_owned(),
        max_parallelism: config.max_parallelism,
        operators: operators.collect(),
    }
}

fn job_metrics(
    graph: &Graph,
    slots_of: &[Vec<SlotIndex>],
    slots: u32,
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
    let slots = (0..slots).map(|_| Arc::default()).collect();
    JobMetrics { vertices, slots, counters: Arc::clone(counters) }
}

impl JobHandle {
    /// The job's counters, live.
    pub fn metrics(&self) -> &JobMetrics {
        &self.metrics
    }

    /// Something to cancel the job with.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.control))
    }

    /// Asks for a checkpoint at once, beside those at intervals, and returns without waiting for it. Does
    /// nothing if the job takes no checkpoints or is being started again.
    pub fn checkpoint(&self) {
        self.control.ask_for_checkpoint();
    }

    /// True if the job has ended, in whatever way: [`wait`](Self::wait) returns at once.
    pub fn has_ended(&self) -> bool {
        self.supervisor.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for the job's end.
    ///
    /// # Errors
    /// If user code, a source or a sink failed, and it is not to be started again. What sinks wrote
    /// since the last checkpoint is not committed then.
    pub fn wait(mut self) -> Result<JobResult, JobError> {
        self.join()
    }

    fn join(&mut self) -> Result<JobResult, JobError> {
        let Some(thread) = self.supervisor.take() else { return Err(JobError::Canceled) };
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            self.control.want(Wanted::Canceled);
            // Nobody is left to be told of an error.
            let _ = self.join();
        }
    }
}

/// Processor time of this process so far, user and system.
pub fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
