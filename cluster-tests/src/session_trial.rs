//! A job that a coordinator places, which loses processes, workers and hosts, and ends as others do.

use crate::jobs::Workload;
use crate::process::until;
use crate::session::Session;
use crate::site::{Lines, Program};
use crate::trials_on_hosts::TrialOnHosts;
use anyhow::{Context, Result, ensure};
use millstream_hosts::Fault;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
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
    /// Decides when, whether there is a worker to take over or others have more slots than they need, and
    /// whether checkpoints are on one disk or copied.
    pub seed: u64,
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

/// Waits until the job runs as a later generation, which this is.
fn without(session: &mut Session<'_>, generation: u64) -> Result<u64> {
    session.until_running("the job without what is lost", |now| {
        (now.generation > generation).then_some(now.generation)
    })
}

impl SessionTrial {
    /// Whether each worker has checkpoints of its own, and copies of another's.
    fn copies(&self) -> bool {
        self.seed % 3 > 0
    }

    fn run_in(&self, session: &mut Session<'_>, program: &Program, expected: &Lines) -> Result<()> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let interval = format!("{}ms", rng.gen_range(30..100));
        let rate = (self.workload.records() as f64 / RUN_SECONDS).to_string();
        let shared = session.site().checkpoints().display().to_string();
        let mut flags = vec!["--source-rate", &rate, "--checkpoint-interval", &interval];
        flags.extend(["--log-level", "debug", "--set", "restart=fixed 50 50ms"]);
        if self.copies() {
            flags.extend(["--set", "checkpoint_durability=replicated(1)"]);
        } else {
            flags.extend(["--checkpoint-dir", &shared]);
        }
        session.submit(program, self.workload, &flags)?;
        let mut generation = 0;
        for _ in 0..LOSSES {
            self.lose(session, &mut rng, &mut generation)?;
        }
        session.finish()?;
        session.site().check(expected)?;
        let said = session.said()?.concat();
        // A member that is not lost goes on with others, and does not begin anew.
        for generation in 2..=generation {
            let words = format!("the job goes on here as generation {generation}");
            ensure!(said.contains(&words), "nobody has said: {words}");
        }
        let times = |words: &str| said.matches(words).count();
        println!(
            "{}: {} processes went on, {} began anew; {} slots went back in place",
            self.name(),
            times("the job goes on here as generation"),
            times("the process begins anew"),
            times("goes back to the checkpoint in place"),
        );
        session.end()
    }

    /// Waits until the job has checkpoints of a generation after this one, has it lose something, and waits until it
    /// runs again.
    fn lose(
        &self,
        session: &mut Session<'_>,
        rng: &mut SmallRng,
        generation: &mut u64,
    ) -> Result<()> {
        let before = session.until_running("the job", |view| Some(view.progress.checkpoint))?;
        let checkpoint = before.unwrap_or(0) + 1;
        session.until_running("a checkpoint", |view| {
            (view.progress.checkpoint >= Some(checkpoint)).then_some(())
        })?;
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
        if self.copies() {
            *generation = without(session, view.generation)?;
            fault.heal()?;
        } else {
            // Who cannot be reached holds the directory of all.
            session.until("another deployment", |now| {
                (now.generation > view.generation).then_some(())
            })?;
            fault.heal()?;
            *generation = without(session, view.generation)?;
        }
        if self.loss == Loss::Worker {
            session.start(host)?;
        }
        Ok(())
    }
}
