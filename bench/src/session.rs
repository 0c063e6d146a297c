//! What a benchmark runs its jobs in: a configuration, signals, metrics.

use crate::BenchError;
use millstream::{Config, Environment, JobResult, JobStatus};
use millstream_ops::{Interrupt, MetricsServer, Summary};

/// What a benchmark runs its jobs in.
#[derive(Debug)]
pub struct Session {
    /// How jobs are executed.
    pub config: Config,
    /// Where their counters are served, if anywhere.
    pub metrics: Option<MetricsServer>,
    /// Whether a signal came.
    pub interrupt: Interrupt,
}

impl Session {
    /// An environment for the next job.
    pub fn environment(&self) -> Environment {
        Environment::new(self.config.clone())
    }

    /// Runs a job to its end.
    ///
    /// # Errors
    /// If it fails or is cancelled.
    pub fn execute(&self, env: Environment, name: &str) -> Result<JobResult, BenchError> {
        self.check()?;
        let result = millstream_ops::execute(env, name, self.metrics.as_ref(), &self.interrupt)?;
        self.accept(name, result)
    }

    /// Takes in a job that was run elsewhere: its counters are served until the next one's.
    ///
    /// # Errors
    /// If it was cancelled.
    pub fn accept(&self, name: &str, result: JobResult) -> Result<JobResult, BenchError> {
        if let Some(server) = &self.metrics {
            server.watch(name, &result.metrics);
        }
        match result.status {
            JobStatus::Finished | JobStatus::Stopped => Ok(result),
            JobStatus::Canceled => {
                eprint!("{}", Summary::new(name, &result));
                Err(BenchError::Cancelled)
            }
        }
    }

    /// A directory of checkpoints is one run's.
    ///
    /// # Errors
    /// If there is one, and more runs.
    pub fn check_runs(&self, runs: u32) -> Result<(), BenchError> {
        if self.config.checkpoint_dir().is_none() || runs <= 1 {
            return Ok(());
        }
        Err(BenchError::Usage(
            "with --checkpoint-dir there is one run, which can be resumed; leave out --runs and \
             --warm-ups"
                .to_owned(),
        ))
    }

    /// # Errors
    /// If a signal came.
    pub fn check(&self) -> Result<(), BenchError> {
        if self.interrupt.is_raised() { Err(BenchError::Cancelled) } else { Ok(()) }
    }
}
