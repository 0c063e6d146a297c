//! A job that is killed again and again, until it ends.

use crate::jobs::Workload;
use crate::moment::{End, Moment};
use crate::process::Process;
use crate::side_by_side::{self, number};
use crate::site::{Lines, Program, Site};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};

/// How long an undisturbed run takes at the least, because its source is paced.
const RUN_SECONDS: f64 = 1.2;
/// So many trials run side by side: most of the time they wait.
const SIDE_BY_SIDE: usize = 3;

/// Where a job keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In segments of the usual size, of which a short job fills none.
    Segments,
    /// In segments so small that they are sealed, mapped, compacted and deleted all the time.
    SmallSegments,
    /// In hash tables.
    Heap,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::SmallSegments => "small-segments",
            Self::Heap => "heap",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Segments => &["--state", "segments"],
            Self::SmallSegments => &["--state", "segments", "--segment-bytes", "32768"],
            Self::Heap => &["--state", "heap"],
        }
    }
}

/// When a job is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kills {
    /// So many times, at any moment of its life.
    Anytime(u32),
    /// As often as it takes to hit the commit of its outputs so many times. The source is not paced,
    /// and there is no checkpoint but the last.
    InCommit(u32),
}

impl Kills {
    fn are_left(self, tally: &Tally) -> bool {
        match self {
            Self::Anytime(kills) => tally.kills < kills,
            Self::InCommit(kills) => tally.in_commit < kills,
        }
    }

    /// Far more jobs than it takes.
    fn rounds_max(self) -> u32 {
        let (Self::Anytime(kills) | Self::InCommit(kills)) = self;
        kills.saturating_mul(50)
    }

    fn choose(self, rng: &mut SmallRng, is_first: bool, hit: &Tally) -> Moment {
        match self {
            Self::Anytime(_) => Moment::random(rng, is_first, hit),
            Self::InCommit(_) => Moment::in_next_commit(rng),
        }
    }
}

/// A workload that is killed.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Which.
    pub workload: Workload,
    /// Where it keeps its state.
    pub state: State,
    /// Barriers overtake what is in flight.
    pub unaligned: bool,
    /// The number of slots of each run, in turn.
    pub slots: &'static [u32],
    /// Decides when it is killed. When exactly that is, is decided by the machine.
    pub seed: u64,
    /// When and how often it is killed. A job that has ended before is begun anew.
    pub kills: Kills,
}

impl Trial {
    /// Runs it; adds to the tally.
    ///
    /// # Errors
    /// If a run fails, or the results differ from those of the undisturbed run.
    pub fn run(&self, program: &Program, expected: &Lines, tally: &Mutex<Tally>) -> Result<()> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut own = Tally::default();
        let mut rounds = 0;
        while self.kills.are_left(&own) {
            rounds += 1;
            ensure!(
                rounds <= self.kills.rounds_max(),
                "the job is faster than who is to kill it: {own}"
            );
            self.run_to_the_end(program, expected, &mut rng, &mut own)?;
        }
        tally.lock().unwrap_or_else(PoisonError::into_inner).add(own);
        Ok(())
    }

    fn run_to_the_end(
        &self,
        program: &Program,
        expected: &Lines,
        rng: &mut SmallRng,
        tally: &mut Tally,
    ) -> Result<()> {
        let site = Site::new()?;
        let mut story = Vec::new();
        // Once its outputs are complete there is nothing left to hit, however often it is resumed.
        let mut is_over = false;
        for run in 0.. {
            let slots = self.slots[run % self.slots.len()];
            let mut command = site.command(program, self.workload);
            command.args(self.state.flags()).args(["--slots", &slots.to_string()]);
            if self.unaligned {
                command.env("MILLSTREAM_CHECKPOINT_MODE", "unaligned");
            }
            match self.kills {
                Kills::Anytime(_) => {
                    let rate = self.workload.records() as f64 / RUN_SECONDS;
                    command.args(["--checkpoint-interval", "30ms"]);
                    command.args(["--source-rate", &rate.to_string()]);
                }
                Kills::InCommit(_) => {
                    command.args(["--checkpoint-interval", "1h"]);
                }
            }
            if run > 0 {
                command.arg("--resume");
            }
            let is_first = site.newest()?.is_none();
            let process = Process::start(&mut command)?;
            let is_to_be_killed = !is_over && self.kills.are_left(tally);
            let moment = is_to_be_killed.then(|| self.kills.choose(rng, is_first, tally));
            story.push(format!("{slots} slots until {moment:?}"));
            let end = match moment {
                Some(moment) => moment.kill(process, &site)?,
                None => End::ByItself(process.wait()?),
            };
            match end {
                End::Killed => {
                    let at_restore = !is_first && matches!(moment, Some(Moment::AfterStart(_)));
                    is_over = tally.note(&site, at_restore)?;
                }
                End::ByItself(status) => {
                    let told = || format!("runs: {story:#?}\nlog:\n{}", site.log());
                    ensure!(status.success(), "a run ended with {status}; {}", told());
                    return site.check(expected).with_context(told);
                }
            }
        }
        Ok(())
    }

    /// How to run this one again.
    fn again(&self, test: &str) -> String {
        format!(
            "MILLSTREAM_KILL_SEED={} MILLSTREAM_KILL_ONLY={} cargo test \
             -p millstream-cluster-tests --test kill {test}",
            self.seed,
            self.name()
        )
    }

    fn name(&self) -> String {
        format!("{}/{}", self.workload, self.state.name())
    }
}

/// Runs all trials of a test, a few side by side, and checks what the kills have hit.
///
/// `MILLSTREAM_KILL_SEED` is the seed of the first trial, `MILLSTREAM_KILLS` the number of kills of each,
/// `MILLSTREAM_KILL_ONLY` the one trial to run, such as `q8/heap`.
///
/// # Errors
/// What is wrong with each trial that fails, and how to run it again.
pub fn run_all(test: &str, program: &Program, mut trials: Vec<Trial>) -> Result<Tally> {
    let only = std::env::var("MILLSTREAM_KILL_ONLY").ok();
    trials.retain(|trial| only.as_ref().is_none_or(|only| *only == trial.name()));
    ensure!(!trials.is_empty(), "no trial is called {only:?}");
    let seed = number("MILLSTREAM_KILL_SEED")?;
    let kills = number("MILLSTREAM_KILLS")?;
    let mut expected = BTreeMap::new();
    for (index, trial) in (0..).zip(&mut trials) {
        trial.seed = seed.unwrap_or(trial.seed).wrapping_add(index);
        if let (Some(kills), Kills::Anytime(own) | Kills::InCommit(own)) = (kills, &mut trial.kills)
        {
            *own = u32::try_from(kills)?;
        }
        if let Entry::Vacant(entry) = expected.entry(trial.workload) {
            entry.insert(program.undisturbed(trial.workload)?);
        }
    }
    let tally = Mutex::new(Tally::default());
    side_by_side::run(SIDE_BY_SIDE, &trials, |trial| {
        let result = trial.run(program, &expected[&trial.workload], &tally);
        result.with_context(|| format!("{trial:?}\nagain: {}", trial.again(test)))
    })?;
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    if only.is_none() && trials.iter().all(|trial| matches!(trial.kills, Kills::Anytime(_))) {
        tally.check()?;
    }
    Ok(tally)
}
