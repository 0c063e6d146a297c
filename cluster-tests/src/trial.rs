//! A job that is killed again and again, until it ends.

use crate::jobs::Workload;
use crate::moment::{End, Moment};
use crate::process::Process;
use crate::site::{Lines, Program, Site};
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;
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

/// A workload that is killed so many times.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Which.
    pub workload: Workload,
    /// Where it keeps its state.
    pub state: State,
    /// The number of slots of each run, in turn.
    pub slots: &'static [u32],
    /// Decides when it is killed. When exactly that is, is decided by the machine.
    pub seed: u64,
    /// How many times it is killed. A job that has ended before is begun anew.
    pub kills: u32,
}

impl Trial {
    /// Runs it; adds to the tally.
    ///
    /// # Errors
    /// If a run fails, or the results differ from those of the undisturbed run.
    pub fn run(&self, program: &Program, expected: &Lines, tally: &Mutex<Tally>) -> Result<()> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut own = Tally::default();
        while own.kills < self.kills {
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
        for run in 0.. {
            let slots = self.slots[run % self.slots.len()];
            let mut command = site.command(program, self.workload);
            let rate = self.workload.records() as f64 / RUN_SECONDS;
            command.args(["--checkpoint-interval", "30ms"]).args(self.state.flags());
            command.args(["--source-rate", &rate.to_string(), "--slots", &slots.to_string()]);
            if run > 0 {
                command.arg("--resume");
            }
            let is_first = site.newest()?.is_none();
            let process = Process::start(&mut command)?;
            let moment = (tally.kills < self.kills).then(|| Moment::random(rng, is_first));
            story.push(format!("{slots} slots until {moment:?}"));
            let end = match moment {
                Some(moment) => moment.kill(process, &site)?,
                None => End::ByItself(process.wait()?),
            };
            match end {
                End::Killed => {
                    let at_restore = !is_first && matches!(moment, Some(Moment::AfterStart(_)));
                    tally.note(&site, at_restore)?;
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
/// `MILLSTREAM_KILL_SEED` is the seed of all trials, `MILLSTREAM_KILLS` the number of kills of each,
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
        trial.seed = seed.unwrap_or(trial.seed.wrapping_add(index));
        trial.kills = kills.map_or(trial.kills, |kills| kills as u32);
        if !expected.contains_key(&trial.workload) {
            expected.insert(trial.workload, program.undisturbed(trial.workload)?);
        }
    }
    let queue = Mutex::new(trials.iter());
    let (tally, failures) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(trial) = next() {
                    let Err(error) = trial.run(program, &expected[&trial.workload], &tally) else {
                        continue;
                    };
                    let words = format!("{trial:?}: {error:#}\nagain: {}", trial.again(test));
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(words);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} trials failed\n{}", failures.len(), failures.join("\n\n"));
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    if only.is_none() {
        tally.check()?;
    }
    Ok(tally)
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable}={text} is no number"))
}
