//! `millstream bench state`, `checkpoint` and `recovery`, small; and Nexmark runs that are killed.

use crate::program::{Running, keys, names_in, run, run_in};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_store_is_compared_with_a_hand_written_loop_and_fjall() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("data")).unwrap();
    for distribution in ["uniform", "zipf"] {
        let ended = run_in(
            at,
            &format!(
                "bench state --keys 3000 --distribution {distribution} --value-size 24 --ops 20k \
                 --runs 2 --data data --format json"
            ),
        )
        .succeeded();
        let expected = "benchmark keys distribution value_bytes ops memory_bytes ops_per_second \
                        handwritten_ops_per_second fjall_ops_per_second engine_ops_per_second \
                        handwritten_ratio median min max fjall_ratio median min max engine_ratio \
                        median min max major_faults handwritten_expected void host processor cores \
                        kernel millstream samples segments handwritten engine fjall";
        assert_eq!(keys(ended.stdout.trim()).join(" "), expected);
        let figures = &ended.json()[0];
        assert_eq!(figures["keys"], 3_000);
        assert_eq!(figures["distribution"], distribution);
        assert_eq!(figures["void"], false, "what to expect of 3,000 keys is not known");
        for (side, rate) in [
            ("segments", "ops_per_second"),
            ("handwritten", "handwritten_ops_per_second"),
            ("fjall", "fjall_ops_per_second"),
            ("engine", "engine_ops_per_second"),
        ] {
            let samples = figures["samples"][side].as_array().unwrap();
            let samples: Vec<f64> = samples.iter().map(|rate| rate.as_f64().unwrap()).collect();
            assert_eq!(samples.len(), 2);
            let median = figures[rate].as_f64().unwrap();
            assert!((median - (samples[0] + samples[1]) / 2.0).abs() < 1e-3 * median, "{figures}");
            assert!(median > 0.0);
        }
        assert_eq!(names_in(&at.join("data")), Vec::<String>::new(), "nothing is left behind");
    }
    let text = run_in(at, "bench state --keys 100 --ops 100 --runs 1 --data data").succeeded();
    for words in ["100 keys uniform", "written by hand", "fjall", "engine", "is not known"] {
        assert!(text.stdout.contains(words), "{words}: {}", text.stdout);
    }
}

#[test]
fn a_store_is_compared_with_fjall_under_a_limit_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run_in(
        folder.path(),
        "bench state --keys 60000 --distribution zipf --value-size 200 --ops 20k --runs 1 \
         --memory 96MiB --data . --format json",
    );
    if ended.stderr.contains("limit memory by it") {
        println!("skipped: no control group can be made here: {}", ended.stderr);
        return;
    }
    let figures = &ended.succeeded().json()[0];
    assert_eq!(figures["memory_bytes"], 96 << 20);
    assert!(figures["handwritten_ops_per_second"].is_null());
    assert!(figures["fjall_ratio"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!(figures["major_faults"].as_array().unwrap().len(), 1);
    assert_eq!(names_in(folder.path()), Vec::<String>::new(), "nothing is left behind");
}

#[test]
fn what_makes_no_sense_is_refused() {
    run("bench state --keys 0").refused(2, &["--keys", "from 1 to"]);
    run("bench state --value-size 4").refused(2, &["--value-size", "from 8 bytes"]);
    run("bench state --distribution normal").refused(2, &["uniform or zipf"]);
    run("bench state --keys 2 --distribution zipf").refused(2, &["3 keys at least"]);
    run("bench state --keys 10 --data /dev/null").refused(1, &["/dev/null", "make the folder"]);
    run("bench checkpoint --state-size 1MB --change-rate 0.1").refused(2, &["1.5GiB"]);
    run("bench checkpoint --state-size 1MiB --change-rate 0").refused(2, &["such as 0.1 or 10%"]);
    run("bench checkpoint --state-size 10 --change-rate 1")
        .refused(2, &["--state-size", "at least"]);
    run("bench checkpoint --state-size 4KiB --change-rate 0.01").refused(2, &["--change-rate"]);
    run("bench checkpoint --state-size 4KiB --change-rate 1 --phase 0s").refused(2, &["--phase"]);
    run("bench recovery --state-size 10").refused(2, &["--state-size", "at least"]);
    run("bench recovery").refused(2, &["--state-size"]);
    run("bench nexmark --query q0 --checkpoint-interval 1s").refused(2, &["--checkpoint-dir"]);
    run("bench nexmark --query q0 --checkpoint-dir d --runs 2").refused(2, &["leave out --runs"]);
    run("bench nexmark --query q0 --checkpoint-dir d --output -")
        .refused(2, &["must go to a file"]);
    run("bench throughput --workload count --checkpoint-dir d --runs 2")
        .refused(2, &["leave out --runs"]);
}

#[test]
fn a_throughput_with_checkpoints_is_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let durable = "bench throughput --workload count --events 20000 --data data --checkpoint-dir d \
                   --format json";
    let ended = run_in(folder.path(), durable).succeeded();
    assert_eq!(ended.stdout.lines().count(), 1);
    run_in(folder.path(), durable).refused(2, &["an earlier run", "--resume"]);
}

#[test]
fn checkpoints_are_weighed_against_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (state, shuffle) in [("segments", "--shuffle"), ("heap", "")] {
        let ended = run_in(
            at,
            &format!(
                "bench checkpoint --state-size 1MiB --change-rate 25% --rate 2k --pairs 2 \
                 --phase 100ms --interval 50ms --slots 2 {shuffle} --state {state} \
                 --checkpoint-dir {state} \
                 --format json"
            ),
        )
        .succeeded();
        let figures = &ended.json()[0];
        assert_eq!(figures["benchmark"], "checkpoint");
        assert_eq!(figures["state_bytes"], 1 << 20);
        assert_eq!(figures["durability"], "local");
        assert_eq!(figures["checkpoints_failed"], 0);
        // Two in each of the six phases that have any, and one at the end.
        assert_eq!(figures["checkpoints_completed"], 13);
        let number =
            |key: &str| figures[key].as_f64().unwrap_or_else(|| panic!("{key}: {figures}"));
        let (ratio, interval) = (number("throughput_ratio"), &figures["throughput_ratio_interval"]);
        assert!(interval[0].as_f64() <= Some(ratio) && Some(ratio) <= interval[1].as_f64());
        assert!(number("p999_ratio") > 0.0);
        assert!(number("disk_bytes_max") >= (1 << 20) as f64 && number("live_bytes") > 0.0);
        let pauses = ["p50", "p99", "max"].map(|at| number(&format!("sync_pause_us_{at}")));
        assert!(pauses.is_sorted() && pauses[0] > 0.0, "{pauses:?}");
        // At full speed each phase changes its quarter of 8,192 keys of at least 128 bytes.
        assert!(number("bytes_changed") >= 6.0 * 2_048.0 * 128.0, "{figures}");
        for list in ["events_per_cpu_second_on", "p999_us_off"] {
            let samples = figures["samples"][list].as_array().unwrap();
            assert_eq!(samples.len(), 2);
            assert!(samples.iter().all(|sample| sample.as_f64() > Some(0.0)), "{list}: {figures}");
        }
        let listed = run_in(at, &format!("checkpoints list {state} --json")).succeeded().json();
        assert!(!listed.is_empty() && listed.iter().all(|info| info["complete"] == true));
    }
    run_in(at, "bench checkpoint --state-size 1MiB --change-rate 25% --checkpoint-dir heap")
        .refused(2, &["holds checkpoint", "--resume"]);
}

#[test]
fn a_killed_job_goes_on_with_its_counts() {
    let folder = tempfile::tempdir().unwrap();
    for flags in ["", "--slots 2 --state heap", "--slots 2 --checkpoint-dir ck"] {
        let ended = run_in(
            folder.path(),
            &format!("bench recovery --state-size 1MiB --watch 400ms --format json {flags}"),
        )
        .succeeded();
        let figures = &ended.json()[0];
        assert_eq!(figures["benchmark"], "recovery");
        assert_eq!(figures["state_bytes"], 1 << 20);
        assert_eq!(figures["cold"], false);
        assert!(figures["file_bytes"].as_u64() >= Some(1 << 20), "{figures}");
        let (first, full) = (&figures["first_result_ms"], &figures["full_rate_ms"]);
        assert!(first.as_f64() > Some(0.0) && full.as_f64() >= first.as_f64(), "{figures}");
        assert!(figures["samples"].as_array().unwrap().len() > 3, "{figures}");
        assert!(ended.stderr.contains("read into the page cache"), "{}", ended.stderr);
    }
    assert_eq!(names_in(folder.path()), ["ck"], "folders of its own are removed");
}

#[test]
fn a_job_that_fails_goes_on_with_its_counts() {
    let folder = tempfile::tempdir().unwrap();
    // So few keys that each is updated again and again until the failure comes.
    let ended = run_in(
        folder.path(),
        "bench rollback --state-size 2KiB --run-on 100ms --pairs 2 --slots 2 --format json",
    )
    .succeeded();
    let figures = &ended.json()[0];
    assert_eq!((&figures["benchmark"], &figures["keys"]), (&"rollback".into(), &16.into()));
    for of in ["in_place_ms", "from_files_ms"] {
        assert!(figures[of].as_f64() > Some(0.0), "{figures}");
    }
    assert_eq!(figures["samples"].as_array().unwrap().len(), 2);
}

/// Waits for a checkpoint of a job that runs.
fn wait_for_checkpoint(directory: &Path) {
    let begun = Instant::now();
    let is_complete = |name: &String| directory.join(name).join("MANIFEST").exists();
    while !directory.is_dir() || !names_in(directory).iter().any(is_complete) {
        assert!(begun.elapsed() < LONG, "there is no checkpoint");
        std::thread::yield_now();
    }
}

fn sorted(path: &Path) -> Vec<String> {
    let mut lines: Vec<_> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_killed_query_ends_with_the_same_rows() {
    for (query, state) in [("q1", "segments"), ("q4", "segments"), ("q5", "heap")] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let bench = format!("bench nexmark --query {query} --events 20000 --slots 2 --format json");
        let whole = run_in(at, &format!("{bench} --output whole.txt")).succeeded();
        assert_eq!(whole.json()[0]["restored_checkpoint"], serde_json::Value::Null);

        let durable = format!(
            "{bench} --output rows.txt --state {state} --checkpoint-dir ck \
             --checkpoint-interval 20ms --resume"
        );
        let paced = format!("{durable} --source-rate 10000");
        let running = Running::start(at, &paced);
        wait_for_checkpoint(&at.join("ck"));
        running.signal("KILL");
        assert_eq!(running.ended().code, None, "{query}: it was killed before its end");
        assert!(!at.join("rows.txt").exists(), "{query}: no half of a result");

        let resumed = run_in(at, &durable).succeeded();
        assert!(resumed.json()[0]["restored_checkpoint"].as_u64() >= Some(1), "{query}");
        assert_eq!(sorted(&at.join("rows.txt")), sorted(&at.join("whole.txt")), "{query}");

        // It has finished, and finishes again at once.
        let again = run_in(at, &durable).succeeded();
        assert_eq!(again.json()[0]["events"], 0, "{query}");
        assert_eq!(sorted(&at.join("rows.txt")), sorted(&at.join("whole.txt")), "{query}");
        let mut names = names_in(at);
        names.sort();
        assert_eq!(names, ["ck", "rows.txt", "whole.txt"], "{query}: no pieces are left");
    }
}
