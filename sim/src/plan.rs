//! What a seed means: the job, its settings, the faults, and the output that must come out.

use crate::random::{Random, mix};
use crate::record::Record;
use millstream_protocol::{CheckpointMode, CheckpointSettings};
use millstream_types::{KeyGroup, KeyGroupAssignment, VertexId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The number of key groups of every simulated job.
pub(crate) const MAX_PARALLELISM: u16 = 16;

/// A keyed operator: counts, and emits each `window`th count of a key, and what is left at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    pub(crate) window: u64,
    /// What the emitted records are keyed by: the key modulo this.
    pub(crate) keys_after: u64,
}

/// How often the world does harm, each once in so many ticks; 0 is never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// The process is killed.
    pub(crate) kill: u64,
    /// The power fails.
    pub(crate) power: u64,
    /// A user's function panics: the process lives on.
    pub(crate) panic: u64,
    /// The process is killed or the power fails just when a checkpoint has ended; once in so many.
    pub(crate) ambush: u64,
    /// A step of a restore is cut short by a kill.
    pub(crate) restore: u64,
    /// At a crash a file of the newest checkpoint rots, if there is one host.
    pub(crate) rot: u64,
    /// A host is lost with its disk, and an empty one takes its place.
    pub(crate) loss: u64,
    /// A host stands still for a while.
    pub(crate) freeze: u64,
    /// Nothing comes from one host to another for a while, or back.
    pub(crate) cut: u64,
}

/// A run, as its seed has decided it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How many records each split of the source has.
    pub(crate) splits: Vec<u64>,
    keys: u64,
    pub(crate) stages: Vec<Stage>,
    pub(crate) settings: CheckpointSettings,
    /// Subtasks that have come to their end go, and leave a final snapshot.
    pub(crate) finishes: bool,
    pub(crate) credits: usize,
    /// A source emits once in so many steps.
    pub(crate) pace: u64,
    /// A message to the coordinator arrives once in so many chances.
    pub(crate) message_delay: u64,
    pub(crate) faults: Faults,
    pub(crate) disk: crate::disk::DiskFaults,
    /// Faults stop at this tick.
    pub(crate) calm_at: u64,
    /// A savepoint is asked for once in so many ticks, and a stop.
    pub(crate) savepoint: u64,
    pub(crate) stop: u64,
    /// How many hosts the job has.
    pub(crate) hosts: usize,
    /// How many of them have copies of what one of them writes.
    pub(crate) copies: usize,
    /// How many racks they stand in, if anybody knows.
    pub(crate) racks: Option<usize>,
    /// How many signals may be in flight between two hosts; records as many as there are credits.
    pub(crate) control: u32,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let split = |random: &mut Random| {
            if random.one_in(4) { random.between(0, 30) } else { random.between(60, 300) }
        };
        let splits = (0..random.between(1, 4)).map(|_| split(random)).collect();
        let stages = (0..random.between(1, 2))
            .map(|_| Stage { window: random.between(1, 4), keys_after: random.between(1, 8) })
            .collect();
        let millis =
            |random: &mut Random, least, most| Duration::from_millis(random.between(least, most));
        let mode = match random.below(10) {
            0 => CheckpointMode::AtLeastOnce,
            1..4 => CheckpointMode::Unaligned,
            _ => CheckpointMode::ExactlyOnce,
        };
        let settings = CheckpointSettings {
            // Without a rhythm nothing comes to the help of what is stuck.
            interval: (!random.one_in(6)).then(|| millis(random, 10, 60)),
            mode,
            alignment_timeout: random.one_in(4).then(|| millis(random, 1, 15)),
            // Long enough for a disk that is well: who asks for less never has a checkpoint.
            timeout: millis(random, 200, 600),
            min_pause: millis(random, 0, 20),
            max_concurrent: if random.one_in(3) { random.between(2, 3) as u32 } else { 1 },
            tolerable_failures: random.below(4) as u32,
            retained: random.between(1, 3) as u32,
        };
        // Some seeds are mostly harmless, so that the ordinary way is seen too.
        let often = |random: &mut Random, n: u64| {
            if random.one_in(3) { 0 } else { random.between(n / 2, n * 2) }
        };
        let mut plan = Self {
            seed,
            splits,
            keys: random.between(1, 24),
            stages,
            settings,
            finishes: random.one_in(2),
            credits: random.between(1, 6) as usize,
            pace: random.between(2, 9),
            message_delay: random.between(1, 12),
            faults: Faults {
                kill: often(random, 250),
                power: often(random, 300),
                panic: often(random, 250),
                ambush: often(random, 16),
                restore: often(random, 40),
                rot: often(random, 3),
                loss: 0,
                freeze: 0,
                cut: 0,
            },
            disk: crate::disk::DiskFaults {
                io_error: often(random, 60),
                full: often(random, 10),
                slow: often(random, 8),
            },
            calm_at: random.between(600, 1500),
            savepoint: often(random, 400),
            stop: often(random, 800),
            hosts: 1,
            copies: 0,
            racks: None,
            control: random.between(1, 4) as u32,
        };
        if !random.one_in(4) {
            plan.spread(random);
        }
        plan
    }

    /// The job runs on several hosts.
    fn spread(&mut self, random: &mut Random) {
        self.hosts = random.between(2, 4) as usize;
        let copies_max = (self.hosts as u64 - 1).min(2);
        self.copies = if random.one_in(8) { 0 } else { random.between(1, copies_max) as usize };
        self.racks = random.one_in(3).then_some(2);
        let often = |random: &mut Random, n: u64| {
            if random.one_in(3) { 0 } else { random.between(n / 2, n * 2) }
        };
        // Each member's disk and each way between two of them takes its time.
        self.settings.timeout *= 4;
        self.faults.loss = often(random, 250);
        self.faults.freeze = often(random, 150);
        self.faults.cut = often(random, 150);
    }

    /// The vertex of the sink: the source is the first, the stages stand in between.
    pub(crate) fn sink(&self) -> VertexId {
        VertexId(self.stages.len() as u32 + 1)
    }

    /// The stage of a vertex, if it is a keyed operator.
    pub(crate) fn stage(&self, vertex: VertexId) -> Option<Stage> {
        self.stages.get((vertex.0 as usize).checked_sub(1)?).copied()
    }

    /// The record at an offset of a split, the same whenever it is read.
    pub(crate) fn record(&self, split: u32, offset: u64) -> Record {
        Record { key: mix(mix(self.seed ^ u64::from(split)) ^ offset) % self.keys, count: 0 }
    }

    /// What a stage emits when a key was counted so often.
    pub(crate) fn emitted(&self, vertex: VertexId, stage: Stage, key: u64, count: u64) -> Record {
        let last = vertex.0 as usize == self.stages.len();
        Record { key: if last { key } else { key % stage.keys_after }, count }
    }

    /// The output of a run in which nothing fails, ordered: it does not depend on the order in which
    /// records meet.
    pub(crate) fn oracle(&self) -> Vec<Record> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for (split, len) in self.splits.iter().enumerate() {
            for offset in 0..*len {
                *counts.entry(self.record(split as u32, offset).key).or_default() += 1;
            }
        }
        let mut emitted = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            let vertex = VertexId(index as u32 + 1);
            emitted.clear();
            for (key, total) in std::mem::take(&mut counts) {
                let fires = |count: &u64| count.is_multiple_of(stage.window) || *count == total;
                let fired = (1..=total).filter(fires);
                emitted.extend(fired.map(|count| self.emitted(vertex, *stage, key, count)));
            }
            for record in &emitted {
                *counts.entry(record.key).or_default() += 1;
            }
        }
        emitted.sort_unstable();
        emitted
    }
}

/// The key group of a key.
pub(crate) fn group_of(key: u64) -> KeyGroup {
    KeyGroup::of(mix(key), MAX_PARALLELISM)
}

/// The key groups of a vertex with so many subtasks.
///
/// # Panics
/// If there are none, or more than [`MAX_PARALLELISM`].
pub(crate) fn assignment(parallelism: u32) -> KeyGroupAssignment {
    let parallelism = u16::try_from(parallelism).unwrap_or(0);
    KeyGroupAssignment::new(parallelism, MAX_PARALLELISM).expect("a parallelism within its bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_lead_to_every_kind_of_job() {
        let plans: Vec<_> = (0..200).map(Plan::new).collect();
        let has = |what: &dyn Fn(&Plan) -> bool| plans.iter().filter(|plan| what(plan)).count() > 5;
        for mode in
            [CheckpointMode::ExactlyOnce, CheckpointMode::Unaligned, CheckpointMode::AtLeastOnce]
        {
            assert!(has(&|plan| plan.settings.mode == mode), "{mode:?}");
        }
        assert!(has(&|plan| plan.settings.max_concurrent > 1));
        assert!(has(&|plan| plan.splits.iter().any(|len| *len < 20)));
        assert!(has(&|plan| plan.hosts == 1) && has(&|plan| plan.hosts == 4));
        assert!(has(&|plan| plan.copies == 2) && has(&|plan| plan.hosts > 1 && plan.copies == 0));
        assert!(has(&|plan| plan.finishes) && has(&|plan| !plan.finishes));
        assert!(has(&|plan| plan.faults.kill == 0) && has(&|plan| plan.faults.kill > 0));
    }

    #[test]
    fn the_oracle_counts_every_record_of_a_single_stage() {
        let plan = Plan { stages: vec![Stage { window: 1, keys_after: 1 }], ..Plan::new(5) };
        assert_eq!(plan.oracle().len() as u64, plan.splits.iter().sum::<u64>());
    }
}
