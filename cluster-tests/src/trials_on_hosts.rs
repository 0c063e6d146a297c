//! Trials on hosts of their own, a few of which run side by side.

use crate::jobs::Workload;
use crate::side_by_side::{self, number};
use crate::site::{Lines, Program};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

/// Most of the time they wait.
const SIDE_BY_SIDE: usize = 2;

/// A workload on several hosts, to which something happens.
pub trait TrialOnHosts: Sync + Sized {
    /// Which.
    fn workload(&self) -> Workload;

    /// Decides what exactly happens.
    fn seed(&self) -> u64;

    /// Another one of the kind.
    fn with_seed(&self, seed: u64) -> Self;

    /// What it is called, such as `q5/kill-first`.
    fn name(&self) -> String;

    /// Runs it.
    ///
    /// # Errors
    /// If the job fails, its results differ from those of the undisturbed run, or nothing has happened to it.
    fn run(&self, program: &Program, expected: &Lines) -> Result<()>;
}

/// Runs all trials of a test in this file, a few side by side. Says how long each has taken.
///
/// `MILLSTREAM_FAULT_SEED` is the seed of the first trial, `MILLSTREAM_FAULTS` how often all of them are
/// run, `MILLSTREAM_FAULT_ONLY` the one trial to run, such as `q5/kill-first`.
///
/// # Errors
/// What is wrong with each trial that fails, and how to run it again.
pub fn run_on_hosts<T: TrialOnHosts>(
    file: &str,
    test: &str,
    program: &Program,
    trials: &[T],
) -> Result<()> {
    let only = std::env::var("MILLSTREAM_FAULT_ONLY").ok();
    let seed = number("MILLSTREAM_FAULT_SEED")?;
    let rounds = number("MILLSTREAM_FAULTS")?.unwrap_or(1);
    let mut chosen = Vec::new();
    let mut expected = BTreeMap::new();
    for round in 0..rounds {
        for trial in trials {
            if only.as_ref().is_some_and(|only| *only != trial.name()) {
                continue;
            }
            let seed = match (seed, &only) {
                (Some(seed), _) => seed + chosen.len() as u64,
                (None, _) => trial.seed() + 1_000_000 * round,
            };
            chosen.push(trial.with_seed(seed));
            if let Entry::Vacant(entry) = expected.entry(trial.workload()) {
                entry.insert(program.undisturbed(trial.workload())?);
            }
        }
    }
    ensure!(!chosen.is_empty(), "no trial is called {only:?}");
    side_by_side::run(SIDE_BY_SIDE, &chosen, |trial| {
        let begun = Instant::now();
        let result = trial.run(program, &expected[&trial.workload()]);
        println!("{test}: {} took {:.1?}", trial.name(), begun.elapsed());
        result.with_context(|| {
            format!(
                "again: MILLSTREAM_FAULT_SEED={} MILLSTREAM_FAULT_ONLY={} cargo test \
                 -p millstream-cluster-tests --test {file} {test}",
                trial.seed(),
                trial.name()
            )
        })
    })
}
