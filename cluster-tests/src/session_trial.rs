//! A job that a coordinator places, which loses processes, workers and hosts, and ends as others do.

use crate::jobs::Workload;
use crate::process::until;
use crate::session::Session;
use crate::site::{Lines, Program};
use crate::trials_on_hosts::TrialOnHosts;
use anyhow::{Context, Result};
use millstream_hosts::Fault;
use millstream_protocol::cluster::JobView;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a job takes at the least to which nothing happens.
const RUN_SECONDS: f64 = 3.0;
/// How often something is lost.
const LOSSES: usize = 2;

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A process of the job: it is killed.
    Process,
    /// A worker with its process: both are killed. The worker comes back when the job runs without it.
    Worker,
    /// A host: nobody reaches it, until the job runs without it.
    Host,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Worker => "worker",
            Self::Host => "host",
        }
    }
}

/// Where the checkpoints of a job are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// There are none: the job begins anew.
    Nowhere,
    /// In a directory that all workers have.
    Shared,
    /// On each worker its own, and copies of another's.
    Copied,
}

/// What trials have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Processes that went on with others when some were lost.
    pub went_on: AtomicUsize,
    /// Processes that began anew.
    pub began_anew: AtomicUsize,
    /// Slots that went back to a checkpoint in place.
    pub in_place: AtomicUsize,
}

/// A workload in a cluster that loses something, twice.
#[derive(Clone, Debug)]
pub struct SessionTrial {
    /// The binary of coordinators and workers.
    pub station: PathBuf,
    /// Which.
    pub workload: Workload,
    /// What is lost.
    pub loss: Loss,
    /// Of the member that controls the job; of another one else.
    pub first: bool,
    /// Where checkpoints are.
    pub durability: Durability,
    /// Decides when, and whether there is a worker to take over or others have more slots than they need.
    pub seed: u64,
    /// What this one has seen is added.
    pub seen: Arc<Seen>,
}

impl TrialOnHosts for SessionTrial {
    fn workload(&self) -> Workload {
        self.workload
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn with_seed(&self, seed: u64) -> Self {
        Self { seed, ..self.clone() }
    }

    fn name(&self) -> String {
        let whose = if self.first { "first" } else { "other" };
        format!("{}/{}-{whose}", self.workload, self.loss.name())
    }

    fn run(&self, program: &Program, expected: &Lines) -> Result<()> {
        let (workers, slots) = if self.seed & 2 == 0 { (4, 2) } else { (3, 4) };
        let mut session = Session::new(&self.station, workers, slots)?;
        let result = self.run_in(&mut session, program, expected);
        result.with_context(|| format!("{self:?}\n{}", session.logs()))
    }
}

impl SessionTrial {
    fn run_in(&self, session: &mut Session<'_>, program: &Program, expected: &Lines) -> Result<()> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let interval = format!("{}ms", rng.gen_range(30..100));
        let takes_checkpoints = ["--checkpoint-interval", &interval];
        let rate = (self.workload.records() as f64 / RUN_SECONDS).to_string();
        let shared = session.site().checkpoints().display().to_string();
        let mut flags = vec!["--source-rate", &rate, "--log-level", "debug"];
        flags.extend(["--set", "restart=fixed 50 50ms"]);
        match self.durability {
            Durability::Nowhere => {}
            Durability::Shared => {
                flags.extend(takes_checkpoints);
                flags.extend(["--checkpoint-dir", &shared]);
            }
            Durability::Copied => {
                flags.extend(takes_checkpoints);
                flags.extend(["--set", "checkpoint_durability=replicated(1)"]);
            }
        }
        session.submit(program, self.workload, &flags)?;
        for _ in 0..LOSSES {
            self.lose(session, &mut rng)?;
        }
        session.finish()?;
        session.site().check(expected)?;
        let said = session.said()?.concat();
        let add = |to: &AtomicUsize, words: &str| {
            to.fetch_add(said.matches(words).count(), Ordering::Relaxed)
        };
        add(&self.seen.went_on, "the job goes on here as generation");
        add(&self.seen.began_anew, "the process begins anew");
        add(&self.seen.in_place, "goes back to the checkpoint in place");
        session.end()
    }

    /// Waits until the job has done something, has it lose something, and waits until it runs again.
    fn lose(&self, session: &mut Session<'_>, rng: &mut SmallRng) -> Result<()> {
        let done = |view: &JobView| match self.durability {
            Durability::Nowhere => view.progress.records_in,
            _ => view.progress.checkpoint.unwrap_or(0),
        };
        let before = session.until_running("the job", |view| Some(done(view)))?;
        session.until_running("progress", |view| (done(view) > before).then_some(()))?;
        let (begun, delay) = (Instant::now(), Duration::from_micros(rng.gen_range(0..200_000)));
        until("the moment", || Ok((begun.elapsed() >= delay).then_some(())))?;
        let view = session.view()?;
        let member = if self.first { 0 } else { rng.gen_range(1..view.members.len()) };
        let member = view.members[member].clone();
        let host = session.host_of(&member)?;
        let fault = match self.loss {
            Loss::Process => {
                session.kill_process(&member)?;
                Fault::default()
            }
            Loss::Worker => {
                session.kill_worker(host)?;
                session.kill_process(&member)?;
                Fault::default()
            }
            Loss::Host => session.hosts().isolate(host)?,
        };
        let replaced = |now: &JobView| (now.generation > view.generation).then_some(());
        if self.durability == Durability::Shared {
            session.until("another deployment", replaced)?;
            if self.first && self.loss == Loss::Host {
                // Who cannot be reached holds the directory of all.
                session.until("what the job waits for", |now| {
                    now.error.as_ref().filter(|error| error.contains("in use by")).map(drop)
                })?;
            }
            fault.heal()?;
            session.until_running("the job without what is lost", replaced)?;
        } else {
            session.until_running("the job without what is lost", replaced)?;
            fault.heal()?;
        }
        if self.loss == Loss::Worker {
            session.start(host)?;
        }
        Ok(())
    }
}
