//! The benchmarks that make hosts of their own, as others script against them.

use crate::program::{Running, run};
use serde_json::Value;
use std::path::Path;

/// The figures of a run; `None`, with the reason on standard output, where there can be no hosts.
fn figures(arguments: &str) -> Option<Value> {
    let ended = run(&format!("bench {arguments} --format json"));
    if ended.code == Some(2) && ended.stderr.contains("no hosts can be made here") {
        println!("skipped: {}", ended.stderr);
        return None;
    }
    let mut lines = ended.succeeded().json();
    assert_eq!(lines.len(), 1);
    lines.pop()
}

#[track_caller]
fn positive(figures: &Value, names: &[&str]) {
    for name in names {
        assert!(figures[name].as_f64().is_some_and(|value| value > 0.0), "{name} of {figures}");
    }
}

#[test]
fn a_turn_has_a_length_in_which_something_can_be_counted() {
    for mistake in ["shuffle --mode rows --duration 0s", "zero-copy --duration 5ms"] {
        run(&format!("bench {mistake}")).refused(2, &["--duration", "100ms"]);
    }
}

#[test]
fn shuffle_reports_both_sides() {
    for mode in ["batches", "rows"] {
        let arguments = format!("shuffle --hosts 2 --mode {mode} --pairs 2 --duration 200ms");
        let Some(figures) = figures(&arguments) else { return };
        positive(&figures, &["bytes_per_second", "plain_socket_bytes_per_second", "ratio"]);
        let samples = figures["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 2);
        positive(&samples[0], &["bytes_per_second", "plain_socket_bytes_per_second"]);
        let links = &figures["links"];
        positive(links, &["bytes_in_place", "notifications"]);
        // Between namespaces the kernel copies, whatever it is asked for, and few asks show it.
        assert_eq!(links["notifications"], links["copied"]);
        assert!(links["notifications"].as_u64().unwrap() < 100, "{links}");
    }
}

#[test]
fn round_trip_reports_both_sides() {
    let Some(figures) = figures("round-trip --pairs 1 --duration 200ms") else { return };
    positive(&figures, &["p50_us", "p99_us", "socket_p50_us", "socket_p99_us", "ratio"]);
    positive(&figures["samples"][0]["socket"], &["p50_us", "p99_us", "p999_us"]);
}

#[test]
fn zero_copy_is_real_where_it_can_be() {
    let Some(figures) = figures("zero-copy --pairs 1 --duration 500ms") else { return };
    positive(&figures, &["bytes_per_second", "plain_bytes_per_second", "ratio"]);
    assert!(figures["notifications"].as_u64().unwrap() > 100, "{figures}");
    assert_eq!(figures["copied"], 0);
}

#[test]
fn replication_reports_both_sides() {
    let arguments = "replication --state-size 4MiB --pairs 1 --duration 1500ms";
    let Some(figures) = figures(arguments) else { return };
    positive(&figures, &["events_per_slot_cpu_second", "local_events_per_slot_cpu_second"]);
    positive(&figures, &["ratio", "elapsed_ratio"]);
    let sample = &figures["samples"][0];
    for side in ["replicated", "local"] {
        positive(&sample[side], &["checkpoints", "disk_bytes", "events_per_second"]);
    }
}

#[test]
fn failover_goes_on_with_the_right_counts() {
    for silence in ["", "--silence"] {
        let arguments = format!("failover --state-size 4MiB --runs 1 {silence}");
        let Some(figures) = figures(&arguments) else { return };
        positive(&figures, &["detected_ms", "first_result_ms", "start_ms", "state_bytes"]);
        let fault = if silence.is_empty() { "kill" } else { "silence" };
        assert_eq!(figures["fault"], fault);
        let number = |name: &str| figures[name].as_f64().unwrap();
        assert!(number("detected_ms") < number("first_result_ms"), "{figures}");
    }
}

/// Also when it is interrupted.
#[test]
fn hosts_are_gone_afterwards() {
    let mut bench = Running::start(Path::new("."), "bench shuffle --mode batches --pairs 1000");
    let mut line = bench.message();
    if line.contains("other programs are running") {
        line = bench.message();
    }
    if line.contains("no hosts can be made here") {
        return println!("skipped: {line}");
    }
    assert!(line.starts_with("pair 1:"), "{line}");
    let own = format!("ms-{}-", bench.child.id());
    let left = || {
        let entries = std::fs::read_dir("/run/netns").unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&own)).count()
    };
    assert!(left() > 0, "no namespace begins with {own}");
    bench.signal("INT");
    assert_eq!(bench.ended().code, Some(130));
    assert_eq!(left(), 0);
}

#[test]
fn what_cannot_be_measured_is_said() {
    run("bench shuffle --mode words").refused(2, &["--mode", "batches or rows"]);
    run("bench shuffle --mode rows --hosts 3").refused(2, &["--hosts"]);
    run("bench failover --state-size 10").refused(2, &["--state-size", "at least"]);
}
