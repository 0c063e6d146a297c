//! Checkpoints that are asked for.

use millstream::prelude::*;
use millstream::{Generator, JobStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Far longer than a checkpoint takes on any machine.
const LONG: Duration = Duration::from_secs(60);

/// No checkpoint is taken there but on demand.
fn environment(folder: &tempfile::TempDir) -> Environment {
    let config = Config::default()
        .set("checkpoint_dir", folder.path().to_str().unwrap())
        .and_then(|config| config.set("checkpoint_interval", "off"))
        .unwrap();
    Environment::new(config)
}

#[test]
fn a_checkpoint_is_taken_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let env = environment(&folder);
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

/// However slow the code behind a source is: a barrier waits for one record, not for a thousand that
/// the source has ready.
#[test]
fn a_checkpoint_does_not_wait_for_all_that_a_source_has() {
    const COST: Duration = Duration::from_millis(5);
    let folder = tempfile::tempdir().unwrap();
    let env = environment(&folder);
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    env.generate("numbers", Generator::new(|n, _| n))
        .map(move |n| {
            let begun = Instant::now();
            while begun.elapsed() < COST {
                std::hint::spin_loop();
            }
            count.fetch_add(1, Ordering::Relaxed);
            n
        })
        .discard();
    let job = env.start("slow").unwrap();
    let begun = Instant::now();
    let wait_for = |what: &str, is_there: &dyn Fn() -> bool| {
        while !is_there() {
            assert!(begun.elapsed() < LONG && !job.has_ended(), "no {what}");
            std::thread::yield_now();
        }
    };
    wait_for("records", &|| seen.load(Ordering::Relaxed) > 0);
    let asked_at = seen.load(Ordering::Relaxed);
    job.checkpoint();
    wait_for("checkpoint", &|| job.metrics().counters.checkpoints_completed() > 0);
    let passed = seen.load(Ordering::Relaxed) - asked_at;
    assert!(passed < 3_000, "{passed} records passed before the checkpoint was complete");
    job.canceller().cancel();
    assert_eq!(job.wait().unwrap().status, JobStatus::Canceled);
}
