//! Jobs: a graph is placed on slots, started, watched, started again if it fails, and brought to its
//! end.

mod attempt;
mod directory;
mod remains;
mod supervisor;

use crate::checkpoint::{JobIdentity, Report};
use crate::clock::ProcessingClock;
use crate::config::{ExecutionConfig, IdlePolicy};
use crate::error::JobError;
use crate::exchange::Routes;
use crate::graph::Graph;
use crate::hosts::Host;
use crate::metrics::{JobCounters, SlotMetrics, SubtaskMetrics};
pub(crate) use attempt::{Attempt, Shared};
pub(crate) use directory::MemberDirectory;
use hdrhistogram::Histogram;
use millstream_network::transport::TransportSettings;
use millstream_protocol::{DEPLOYMENT_VARIABLE, Deployment, OperatorEntry, Order};
use millstream_state::StateBackend;
use millstream_tuning::{
    BackgroundCores, ChannelMemory, Placement, Requirements, Severity, Topology, check,
    raise_limits,
};
use millstream_types::{CheckpointId, SlotIndex, Timestamp, hash_key};
use remains::Remains;
use rustix::time::{ClockId, clock_gettime};
use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
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

/// What is wanted of a job, by whoever has its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Running,
    /// To take a last checkpoint and end.
    Stopped,
    /// To end at once.
    Canceled,
}

/// Ends the process, and nothing else: another has its place, or will have it. To cancel the job, here, would
/// take away what that goes on with.
#[expect(
    clippy::disallowed_methods,
    reason = "threads are to be cut off, and what they write to stay"
)]
fn end_as_killed() {
    std::process::exit(1)
}

/// Becomes a process of another deployment: begins anew as the same program, with its number. Whatever it
/// has begun to write is as if it had been killed.
fn redeploy(deployment: &Deployment) -> io::Result<Infallible> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let path = std::env::var_os(DEPLOYMENT_VARIABLE).ok_or_else(missing)?;
    let new = Path::new(&path).with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&new)?.write_all(&serde_json::to_vec(deployment)?)?;
    std::fs::rename(&new, &path)?;
    // Not by its path: an agent may have deleted the executable since.
    let mut args = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    again.arg0(args.next().unwrap_or_default());
    Err(again.args(args).exec())
}

/// Where handles and cancellers reach the thread that controls a job.
struct ControlPanel {
    state: Mutex<PanelState>,
}

struct PanelState {
    wanted: Wanted,
    /// The attempt that runs, to be stopped and told.
    attempt: Option<(Arc<attempt::Shared>, mpsc::Sender<Report>)>,
    /// Wakes a supervisor that waits between two attempts.
    between: mpsc::Sender<()>,
}

impl ControlPanel {
    fn new(between: mpsc::Sender<()>) -> Self {
        let state = PanelState { wanted: Wanted::Running, attempt: None, between };
        Self { state: Mutex::new(state) }
    }

    fn with<R>(&self, f: impl FnOnce(&mut PanelState) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn want(&self, wanted: Wanted) {
        self.with(|state| {
            state.wanted = state.wanted.max(wanted);
            if let Some((shared, reports)) = &state.attempt {
                if wanted == Wanted::Canceled {
                    // Slots end one after another, and the connections of those that are first with them.
                    shared.end();
                    shared.stop();
                }
                // An error means that the attempt is at its end.
                let _ = reports.send(Report::Woken);
            }
            let _ = state.between.send(());
        });
    }

    /// Does what the agent says that has started this process.
    fn obey(&self, order: Order) {
        match order {
            Order::Stop => self.want(Wanted::Stopped),
            Order::Cancel => self.want(Wanted::Canceled),
            Order::Exit => end_as_killed(),
            Order::Checkpoint => self.ask_for_checkpoint(),
            Order::Deploy(deployment) => {
                let Err(error) = redeploy(&deployment);
                tracing::error!("another deployment cannot be followed: {error}");
                end_as_killed();
            }
        }
    }

    fn ask_for_checkpoint(&self) {
        self.with(|state| {
            if let Some((_, reports)) = &state.attempt {
                // An error means that the attempt is at its end.
                let _ = reports.send(Report::Asked);
            }
        });
    }

    fn wanted(&self) -> Wanted {
        self.with(|state| state.wanted)
    }
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
    /// How slots of several hosts reach each other.
    routes: Routes,
    pub(crate) idle: IdlePolicy,
    /// By slot of this process.
    places: Vec<Place>,
    /// Where the control of the job runs.
    background: BackgroundCores,
    pub(crate) metrics: JobMetrics,
    pub(crate) processing: ProcessingClock,
    remains: Arc<Remains>,
    /// This process among those of the job, if there are several.
    pub(crate) host: Option<Arc<Host>>,
}

impl Job {
    /// The slots of this process.
    pub(crate) fn slots_here(&self) -> Range<u32> {
        self.host.as_ref().map_or(0..self.config.slots, |host| host.slots())
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
    let (host, routes) = match &config.deployment {
        None => (None, Routes::of_one_host(config.slots)),
        Some(deployment) => {
            let exchange = config.exchange;
            let settings = (exchange.credits, exchange.fan_in_above, config.max_parallelism);
            let fingerprint = hash_key(&(graph.fingerprint(&slots_of), settings));
            let routes = Routes::of_hosts(deployment, exchange.fan_in_above);
            let host = Host::open(deployment.clone(), routes.clone(), fingerprint)?;
            (Some(Arc::new(host)), routes)
        }
    };
    let here = host.as_ref().map_or(0..config.slots, |host| host.slots());
    let leased = host.as_ref().and_then(|host| host.cores());
    if leased.is_some_and(|cores| cores.len() < here.len()) {
        // Others have slots on the cores of this host.
        config.pin = false;
        config.idle = IdlePolicy::Park;
    }
    let channels = graph.channel_memory(&slots_of, &here, config.exchange);
    let links = host.as_ref().map_or(0, |host| link_memory(&host.connections_of_slots()));
    let channels = ChannelMemory {
        bytes_at_start: channels.bytes_at_start.saturating_add(links),
        bytes_max: channels.bytes_max.saturating_add(links),
        ..channels
    };
    let (idle, mut places, background) = place_on_host(&config, here.len(), channels)?;
    if let Some(cores) = leased {
        let pinned = places.iter_mut().filter(|place| place.core.is_some());
        pinned.zip(cores).for_each(|(place, core)| place.core = Some(*core));
    }
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
    if let Some(host) = &host {
        let panel = Arc::clone(&control);
        host.attach_agent(&metrics, Box::new(move |order| panel.obey(order)))?;
    }
    let job = Job {
        graph,
        identity,
        config,
        backend,
        slots_of,
        routes,
        idle,
        places,
        background,
        metrics: metrics.clone(),
        processing: ProcessingClock::new(),
        remains: Arc::default(),
        host,
    };
    let supervisor = Supervisor { job, control: Arc::clone(&control) };
    let (told, running) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("job".into())
        .spawn(move || supervisor.run(&told, &wake))
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

/// Where a slot runs.
#[derive(Clone, Default)]
struct Place {
    /// The core that it is pinned to.
    core: Option<usize>,
    /// Where threads run that work for it.
    background: BackgroundCores,
}

/// What slots take that have so many connections each to slots of other hosts.
fn link_memory(connections_of_slots: &[usize]) -> u64 {
    let connected = connections_of_slots.iter().filter(|connections| **connections > 0);
    let bytes = connected.map(|connections| {
        TransportSettings::for_connections(*connections).buffer_bytes(*connections) as u64
    });
    bytes.sum()
}

/// Checks the host against what the job wants of it, and chooses a place for each slot, and cores for
/// the job's control.
fn place_on_host(
    config: &ExecutionConfig,
    slots: usize,
    channels: ChannelMemory,
) -> Result<(IdlePolicy, Vec<Place>, BackgroundCores), JobError> {
    if let Err(error) = raise_limits() {
        tracing::debug!("the limits on open files and locked memory stay as they are: {error}");
    }
    let topology = Topology::detect();
    let host = millstream_tuning::HostReport::probe(&topology);
    let wanted = Requirements { channels, ..Requirements::for_slots(slots) };
    for finding in check(&host, &wanted) {
        match finding.severity {
            Severity::Refusal => return Err(JobError::Invalid(finding.to_string())),
            Severity::Warning => tracing::warn!("{finding}"),
            Severity::Note => tracing::debug!("{finding}"),
        }
    }
    let placements = topology.assign(slots);
    let oversubscribed = slots > topology.slots_max();
    let idle = match config.idle {
        IdlePolicy::Spin if oversubscribed => {
            return Err(JobError::Invalid(format!(
                "{slots} slots cannot spin on {} cores: a slot that spins takes a core from one that works; use at most {} slots, or the idle policy \"park\"",
                topology.slots_max(),
                topology.slots_max(),
            )));
        }
        // That they share cores has been warned of, as a finding.
        IdlePolicy::SpinThenPark(_) if oversubscribed => IdlePolicy::Park,
        idle => idle,
    };
    let pin = config.pin && !oversubscribed;
    if !pin {
        return Ok((idle, vec![Place::default(); placements.len()], BackgroundCores::default()));
    }
    let place = |placement: &Placement| Place {
        core: Some(placement.core.0),
        background: topology.background(&placements, placement.numa_node),
    };
    let places = placements.iter().map(place).collect();
    Ok((idle, places, topology.background(&placements, None)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::SlotFailure;

    fn panel() -> (ControlPanel, Arc<attempt::Shared>) {
        let shared = Arc::new(attempt::Shared::new(Vec::new()));
        let panel = ControlPanel::new(mpsc::channel().0);
        panel.with(|state| state.attempt = Some((Arc::clone(&shared), mpsc::channel().0)));
        (panel, shared)
    }

    #[test]
    fn a_connection_that_ends_as_the_job_is_cancelled_has_failed_nothing() {
        let (panel, shared) = panel();
        panel.want(Wanted::Canceled);
        shared.fail(SlotFailure::of_host("the connection to slot 3 is lost".into()));
        assert!(!shared.has_failed());
    }

    #[test]
    fn a_connection_that_ends_before_the_job_is_cancelled_has_failed_it() {
        let (panel, shared) = panel();
        panel.want(Wanted::Stopped);
        shared.fail(SlotFailure::of_host("the connection to slot 3 is lost".into()));
        panel.want(Wanted::Canceled);
        assert!(shared.has_failed());
    }
}
