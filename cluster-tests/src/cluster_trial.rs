//! A job on several hosts that has trouble, and ends as others do.

use crate::cluster::{Cluster, Pace};
use crate::jobs::Workload;
use crate::moment::Moment;
use crate::site::{Lines, Program};
use crate::trials_on_hosts::TrialOnHosts;
use crate::trouble::Trouble;
use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// How long a job takes at the least to which nothing happens.
const RUN_SECONDS: f64 = 2.0;
/// About how long a job takes to run again.
const RESTART_MICROS: u64 = 400_000;

/// A workload on several hosts that has trouble.
#[derive(Clone, Debug)]
pub struct ClusterTrial {
    /// Which.
    pub workload: Workload,
    /// What goes wrong.
    pub trouble: Trouble,
    /// Each host has checkpoints of its own, and a copy of another one's.
    pub copies: bool,
    /// Decides when and to whom, and whether slots share connections. When exactly it is, is decided by the
    /// machine.
    pub seed: u64,
}

impl TrialOnHosts for ClusterTrial {
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
        format!("{}/{}", self.workload, self.trouble)
    }

    fn run(&self, program: &Program, expected: &Lines) -> Result<()> {
        let mut cluster = Cluster::new(program, self.workload, Pace::Seconds(RUN_SECONDS))?;
        if self.copies {
            cluster.part_checkpoints()?;
            cluster.add_flags(&["--set", "checkpoint_durability=replicated(1)"]);
        }
        let result = self.run_on(&mut cluster, expected);
        result.with_context(|| format!("{self:?}\n{}", cluster.logs()))
    }
}

impl ClusterTrial {
    fn run_on(&self, cluster: &mut Cluster<'_>, expected: &Lines) -> Result<()> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let interval = format!("{}ms", rng.gen_range(30..100));
        cluster.add_flags(&["--checkpoint-interval", &interval, "--log-level", "debug"]);
        cluster.add_flags(&["--set", "restart=fixed 50 50ms"]);
        if self.fan_in() {
            cluster.add_flags(&["--set", "fan_in_above=0"]);
        }
        let steady = self.trouble.begin(cluster, &mut rng)?;
        cluster.start_all()?;
        let mut telling = 0;
        for strike in 0..self.trouble.strikes() {
            // Now and then one that is about to go on is hit again, maybe before it could say so.
            let again = strike > 0 && rng.gen_range(0..3) == 0;
            if again {
                cluster.wait_for(Moment::AfterStart(random(&mut rng, RESTART_MICROS)))?;
            } else {
                // So that there is one to go on from.
                cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
                cluster.wait_for(moment(&mut rng))?;
            }
            let begins_anew = self.trouble.strike(&steady, cluster, &mut rng)?;
            telling += usize::from(begins_anew && !again);
        }
        if self.trouble.is_steady() {
            cluster.wait_for(Moment::AfterCheckpoint(Duration::ZERO))?;
            steady.check_while_it_runs(cluster)?;
        }
        cluster.wait()?;
        steady.end(cluster)?;
        cluster.site().check(expected)?;
        let recoveries = cluster.recoveries();
        if self.trouble.is_borne() {
            ensure!(recoveries == 0, "the job has begun anew {recoveries} times");
        } else {
            ensure!(recoveries >= telling, "{recoveries} recoveries from {telling} faults");
        }
        Ok(())
    }

    /// Whether slots share connections.
    fn fan_in(&self) -> bool {
        self.seed % 2 == 1
    }
}

/// After one of the next checkpoints, or while it is being written.
pub(crate) fn moment(rng: &mut SmallRng) -> Moment {
    match rng.gen_range(0..3) {
        0 => Moment::InCheckpoint(random(rng, 3_000)),
        _ => Moment::AfterCheckpoint(random(rng, 400_000)),
    }
}

fn random(rng: &mut SmallRng, micros: u64) -> Duration {
    Duration::from_micros(rng.gen_range(0..micros))
}
