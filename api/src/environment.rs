//! The environment: where a program describes its job and executes it.

use crate::config::StateKind;
use crate::connector::Source;
use crate::{Config, DataStream};
use millstream_runtime::chain::FromSource;
use millstream_runtime::error::JobError;
use millstream_runtime::graph::Graph;
use millstream_runtime::job::{self, Canceller, JobHandle, JobMetrics, JobResult};
use millstream_state::StateBackend;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Describes one job and executes it.
///
/// An environment belongs to one thread; the job runs on threads of its own.
pub struct Environment {
    config: Config,
    /// Instead of the one that the configuration names.
    backend: Option<Arc<dyn StateBackend>>,
    graph: Rc<RefCell<Graph>>,
}

impl Environment {
    /// An environment with this configuration.
    pub fn new(config: Config) -> Self {
        Self { config, backend: None, graph: Rc::default() }
    }

    /// Keeps keyed state in this backend, whatever the configuration says.
    pub fn with_backend(mut self, backend: impl StateBackend + 'static) -> Self {
        self.backend = Some(Arc::new(backend));
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
        if !source.restores_alone() {
            graph.mark_inseparable(operator);
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
        let Config { mut execution, state, mut durability, cluster } = self.config;
        execution.deployment = cluster.deployment(name).map_err(JobError::Invalid)?;
        if let Some(deployment) = &execution.deployment {
            execution.parallelism = deployment.parallelism.or(execution.parallelism);
            if let Some(directory) = &deployment.from_checkpoint {
                durability.go_on_in(directory);
            } else if let Some(place) = &deployment.data_directory {
                durability.place_in(place);
            }
        }
        execution.checkpoints = durability.checkpoints().map_err(JobError::Invalid)?;
        // What nothing is restored from need not be written, and a typed hash table is faster.
        let durable = execution.checkpoints.is_some();
        let state = state.unwrap_or(if durable { StateKind::Segments } else { StateKind::Heap });
        let backend = self.backend.unwrap_or_else(|| state.backend());
        let handle = job::start(graph, name, &execution, backend)?;
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

    /// Asks for a checkpoint at once, beside those at intervals, and returns without waiting for it:
    /// [`metrics`](Self::metrics) tell when it is complete. Does nothing if the job takes no checkpoints.
    pub fn checkpoint(&self) {
        self.handle.checkpoint();
    }

    /// True if it has ended, in whatever way: [`wait`](Self::wait) returns at once.
    pub fn has_ended(&self) -> bool {
        self.handle.has_ended()
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
