//! The environment: where a program describes its job and executes it.

use crate::connector::Source;
use crate::{Config, DataStream};
use millstream_runtime::chain::FromSource;
use millstream_runtime::error::JobError;
use millstream_runtime::graph::Graph;
use millstream_runtime::job::{self, Canceller, JobHandle, JobMetrics, JobResult};
use millstream_state::{HeapBackend, StateBackend};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Describes one job and executes it.
///
/// An environment belongs to one thread; the job runs on threads of its own.
pub struct Environment {
    config: Config,
    backend: Arc<dyn StateBackend>,
    graph: Rc<RefCell<Graph>>,
}

impl Environment {
    /// An environment with this configuration, which keeps state on the heap.
    pub fn new(config: Config) -> Self {
        Self { config, backend: Arc::new(HeapBackend), graph: Rc::default() }
    }

    /// Chooses where keyed state is kept.
    pub fn with_backend(mut self, backend: impl StateBackend + 'static) -> Self {
        self.backend = Arc::new(backend);
        self
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sets the number of key groups, the most subtasks that keyed state can be split over: 128
    /// unless set, at most 32,768. It is part of the state's format and cannot be changed later.
    pub fn max_parallelism(mut self, key_groups: u16) -> Self {
        self.config.execution.max_parallelism = key_groups;
        self
    }

    /// A stream that begins at a source.
    pub fn from_source<S: Source>(&self, name: &str, source: S) -> DataStream<FromSource<S>> {
        let mut graph = self.graph.borrow_mut();
        let (vertex, operator) = graph.add_vertex(name);
        graph.mark_source(vertex);
        if let Some(parallelism) = source.parallelism() {
            graph.set_parallelism(vertex, parallelism);
        }
        if !source.is_replayable() {
            graph.mark_unreplayable(operator);
        }
        let checked = source.clone();
        graph.add_validation(operator, Box::new(move || checked.validate()));
        drop(graph);
        DataStream::new(Rc::clone(&self.graph), vertex, operator, FromSource { operator, source })
    }

    /// Starts the job and returns at once.
    ///
    /// # Errors
    /// If the job is invalid, a source or sink cannot be prepared, or a slot cannot start.
    pub fn start(self, name: &str) -> Result<RunningJob, JobError> {
        let graph = std::mem::take(&mut *self.graph.borrow_mut());
        tracing::debug!(job = name, slots = self.config.slots(), "starting");
        let mut execution = self.config.execution;
        execution.checkpoints = self.config.durability.checkpoints().map_err(JobError::Invalid)?;
        let handle = job::start(graph, name, &execution, self.backend)?;
        Ok(RunningJob { name: name.to_owned(), handle })
    }

    /// Runs the job to its end. Ctrl-C and SIGTERM cancel it.
    ///
    /// # Errors
    /// As [`Environment::start`]; and if user code, a source or a sink fails.
    pub fn execute(self, name: &str) -> Result<JobResult, JobError> {
        let job = self.start(name)?;
        let _guard = crate::signals::cancel_on_signal(job.canceller());
        job.wait()
    }
}

/// A job that runs. Dropping it cancels the job.
pub struct RunningJob {
    name: String,
    handle: JobHandle,
}

impl RunningJob {
    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its counters, live.
    pub fn metrics(&self) -> &JobMetrics {
        self.handle.metrics()
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.handle.elapsed()
    }

    /// Something to cancel it with, from any thread.
    pub fn canceller(&self) -> Canceller {
        self.handle.canceller()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If user code, a source or a sink failed.
    pub fn wait(self) -> Result<JobResult, JobError> {
        self.handle.wait()
    }
}
