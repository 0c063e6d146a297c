//! Checkpoints that are asked for.

use millstream::prelude::*;
use millstream::{Generator, JobStatus};
use std::time::Instant;

/// Far longer than a checkpoint takes on any machine.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_checkpoint_is_taken_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default()
        .set("checkpoint_dir", folder.path().to_str().unwrap())
        .and_then(|config| config.set("checkpoint_interval", "off"))
        .unwrap();
    let env = Environment::new(config);
    env.generate("numbers", Generator::new(|n, _| n % 10).rate(1_000.0))
        .key_by(|n| *n)
        .count()
        .discard();
    let job = env.start("on demand").unwrap();
    let begun = Instant::now();
    for asked in 1..=2 {
        job.checkpoint();
        while job.metrics().counters.checkpoints_completed() < asked {
            assert!(begun.elapsed() < LONG && !job.has_ended(), "checkpoint {asked} is missing");
            std::thread::yield_now();
        }
        assert_eq!(job.metrics().counters.checkpoints_completed(), asked);
        let subtasks = job.metrics().vertices.iter().map(|vertex| vertex.subtasks.len() as u64);
        let snapshots = job.metrics().counters.snapshot_nanos();
        assert_eq!(snapshots.len(), asked * subtasks.sum::<u64>(), "each subtask took one");
        assert!(snapshots.max() > 0);
    }
    job.canceller().stop();
    while !job.has_ended() {
        assert!(begun.elapsed() < LONG, "the job does not stop");
        std::thread::yield_now();
    }
    assert_eq!(job.wait().unwrap().status, JobStatus::Stopped);
}
