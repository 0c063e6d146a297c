//! What continuous integration runs: 200 seeds without a mistake, and every mistake found, most within 200.

use millstream_sim::{Bug, Report, Setup, Watch, run, run_traced};
use std::ops::Range;

const SEEDS: Range<u64> = 0..200;

#[test]
fn every_promise_is_kept_and_everything_that_can_go_wrong_does() {
    let run = |seed| run(seed, Setup::default()).unwrap_or_else(|failure| panic!("{failure}"));
    let reports: Vec<_> = SEEDS.map(run).collect();
    let at_least = |name: &str, least: u64, count: fn(&Report) -> u64| {
        let count: u64 = reports.iter().map(count).sum();
        assert!(count >= least, "{name}: {count}, too few to mean anything");
    };
    at_least("checkpoints", 1_000, |report| report.checkpoints);
    at_least("starts", 1_000, |report| report.starts);
    at_least("crashes", 500, |report| report.crashes);
    at_least("restarts within a process", 200, |report| report.failovers);
    at_least("stops", 10, |report| report.stops);
    at_least("restores from an older checkpoint", 10, |report| report.fallbacks);
    at_least("aborted checkpoints", 200, |report| report.aborted);
    at_least("retired checkpoints", 600, |report| report.retired);
    at_least("compactions", 200, |report| report.compactions);
    at_least("checkpoints with records in flight", 200, |report| report.overtaken);
    at_least("failed scripts", 200, |report| report.disk_errors);
    at_least("attempts on several hosts", 700, |report| report.spread);
    at_least("lost hosts", 50, |report| report.lost_hosts);
    at_least("zombies", 30, |report| report.zombies);
    at_least("hosts that were not heard of", 150, |report| report.silences);
    at_least("hosts that stood still", 200, |report| report.freezes);
    at_least("cuts", 200, |report| report.cuts);
    at_least("messages of earlier attempts", 500, |report| report.fenced);
    at_least("copies", 3_000, |report| report.copies);
    at_least("copies of which something was there", 100, |report| report.resumed_copies);
    at_least("files fetched from another host", 20, |report| report.fetched);
    at_least("elements between hosts", 20_000, |report| report.frames);
    at_least("grants", 10_000, |report| report.grants);
}

/// More of them for bugs that only coincidences bring to light.
fn seeds_to_find(bug: Bug, rare: &[Bug]) -> Range<u64> {
    if rare.contains(&bug) { 0..2_000 } else { SEEDS }
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let setup = Setup { bug: Some(bug), watch: Watch::EveryTick };
        // It shows in the order of the output alone.
        let mut seeds = seeds_to_find(bug, &[Bug::UnalignedRecovery]);
        let found = seeds.find_map(|seed| run(seed, setup).err());
        assert!(found.is_some(), "{} is not found", bug.name());
    }
}

#[test]
fn every_planted_bug_does_harm_that_a_user_would_see() {
    for bug in Bug::ALL {
        let setup = Setup { bug: Some(bug), watch: Watch::Outcome };
        // A replica's power has to fail just when a host is lost, or a zombie to meet what nothing else
        // keeps it from, or a key to move while its rows are in flight.
        let rare = [Bug::UnsyncedCopy, Bug::NoFencing, Bug::UnalignedRecovery, Bug::LoneManifest];
        let found = seeds_to_find(bug, &rare).find_map(|seed| run(seed, setup).err());
        assert!(found.is_some(), "{} does no harm", bug.name());
    }
}

#[test]
fn a_failing_seed_is_replayed_by_the_command_that_it_prints() {
    let setup = Setup { bug: Some(Bug::SkippedAlignment), watch: Watch::EveryTick };
    let failure = SEEDS.into_iter().find_map(|seed| run(seed, setup).err()).unwrap();
    let (again, trace) = run_traced(failure.seed, setup);
    assert_eq!(again, Err(failure.clone()));
    assert!(trace.last().unwrap().contains(&failure.violation.to_string()));
    let command = format!(
        "replay: millstream-sim --seeds 1 --from {} --trace --bug skipped-alignment",
        failure.seed
    );
    assert_eq!(failure.to_string().lines().last(), Some(&*command));
}

#[test]
fn a_seed_means_the_same_run_each_time() {
    for seed in 0..5 {
        let first = run_traced(seed, Setup::default());
        assert!(first.1.len() > 10, "a trace tells what happens");
        assert_eq!(first, run_traced(seed, Setup::default()));
    }
    assert_ne!(run_traced(0, Setup::default()), run_traced(1, Setup::default()));
}

#[test]
fn bugs_are_called_by_their_names() {
    for bug in Bug::ALL {
        assert_eq!(Bug::named(bug.name()), Some(bug));
    }
    assert_eq!(Bug::named("none such"), None);
}
