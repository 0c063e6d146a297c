//! `millstream bench` as others script against it.

use crate::program::{Ended, Running, keys, millstream, names_in, run, run_in};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden");

#[test]
fn nexmark_reports_an_object_per_run() {
    let ended = run("bench nexmark --query q1 --events 5000 --slots 2 --runs 3 --format json");
    let ended = ended.succeeded();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 3);
    let expected = "benchmark query events slots seconds events_per_second cpu_seconds rows_out \
                    peak_rss_bytes restored_checkpoint";
    assert_eq!(keys(lines[0]).join(" "), expected);
    for figures in ended.json() {
        assert_eq!(figures["benchmark"], "nexmark");
        assert_eq!(figures["query"], "q1");
        assert_eq!(figures["events"], 5_000);
        assert_eq!(figures["slots"], 2);
        assert_eq!(figures["rows_out"], 4_600);
        assert!(figures["seconds"].as_f64().unwrap() > 0.0);
    }
    assert!(ended.stderr.contains("q1: finished in"), "{}", ended.stderr);
    for word in ["records in", "records out", "late", "malformed", "CPU", "memory"] {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
}

#[test]
fn nexmark_rows_equal_the_golden_ones() {
    if !Path::new(GOLDEN).exists() {
        println!("passed over: {GOLDEN} is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for query in ["q2", "q4", "q5"] {
        let ended = run_in(
            folder.path(),
            &format!(
                "bench nexmark --query {query} --input {GOLDEN}/events-100k.jsonl.gz \
                 --events 100000 --slots 2 --output rows.txt --format json"
            ),
        )
        .succeeded();
        assert_eq!(ended.json().len(), 1);
        let rows = fs::read_to_string(folder.path().join("rows.txt")).unwrap();
        let golden = fs::read_to_string(format!("{GOLDEN}/{query}.txt")).unwrap();
        let sorted = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
        assert_eq!(sorted(&rows), sorted(&golden), "{query}");
        assert_eq!(rows.lines().count(), golden.lines().count(), "{query}");
    }
    assert_eq!(names_in(folder.path()), ["rows.txt"]);
}

#[test]
fn nexmark_reads_the_first_events_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run_in(at, "generate nexmark --events 1000 --out e.jsonl.zst").succeeded();
    let figures = |flags: &str| {
        let command = format!("bench nexmark --query q0 --input e.jsonl.zst --format json {flags}");
        let ended = run_in(at, &command).succeeded();
        (ended.json()[0]["events"].as_u64().unwrap(), ended.stderr)
    };
    assert_eq!(figures("--events 300").0, 300);
    assert_eq!(figures("").0, 1_000);
    let (events, warned) = figures("--events 2000");
    assert_eq!(events, 1_000);
    assert!(warned.contains("holds 1,000 events, not 2,000"), "{warned}");
}

#[test]
fn what_is_wrong_with_the_input_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run_in(at, "bench nexmark --query q0 --input none.jsonl")
        .refused(2, &["none.jsonl", "no such file", "check the path"]);
    fs::write(at.join("empty.jsonl"), "").unwrap();
    run_in(at, "bench nexmark --query q0 --input empty.jsonl").refused(2, &["holds no events"]);

    let mut lines = run("generate nexmark --events 2 --out -").succeeded().stdout;
    lines.push_str("{\"Bid\":{\"auction\":1,\"bidder\":\"x\"}}\n");
    fs::write(at.join("bad.jsonl"), lines).unwrap();
    run_in(at, "bench nexmark --query q0 --input bad.jsonl --output rows.txt")
        .refused(1, &["bad.jsonl:3:"]);
    assert!(!names_in(at).iter().any(|name| name.contains("rows.txt")), "no half of a result");
}

#[test]
fn what_is_wrong_with_the_output_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run_in(at, "bench nexmark --query q0 --events 100 --output no/such/rows")
        .refused(2, &["no/such/rows", "mkdir -p no/such"]);
    let script = format!(
        "trap '' XFSZ; ulimit -f 100; exec {} bench nexmark --query q0 --events 20000 --output rows",
        env!("CARGO_BIN_EXE_millstream")
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(at).output().unwrap();
    Ended::from(output).refused(1, &["rows", "cannot write it"]);
    assert_eq!(names_in(at), Vec::<String>::new());
}

#[test]
fn usage_that_makes_no_sense_is_refused() {
    run("bench nexmark --query q6").refused(2, &["no query \"q6\"", "q11_gap1s"]);
    run("bench nexmark --query q0 --state disk").refused(2, &["--state", "segments or heap"]);
    run("bench nexmark --query q0 --slots 0").refused(2, &["--slots", "from 1 to"]);
    run("bench nexmark --query q0 --events 0").refused(2, &["--events"]);
    run("bench nexmark --query q0 --idle doze").refused(2, &["--idle", "no idle policy"]);
    run("bench nexmark --query q0 --set slot=2").refused(2, &["no setting \"slot\""]);
    run("bench nexmark --query q0 --config none.toml").refused(2, &["none.toml"]);
    run("bench throughput --workload q9").refused(2, &["no workload \"q9\"", "countp"]);
    run("bench latency --workload q5 --rate 0").refused(2, &["--rate"]);
    run("bench latency --workload q5 --rate 1k --duration 1s").refused(2, &["not recorded"]);
    run("bench compare --peers no/such").refused(2, &["cargo build --release"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    run(&format!("bench nexmark --query q0 --metrics {address}"))
        .refused(2, &["is in use", "choose another port"]);
}

#[test]
fn settings_come_from_files_variables_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    fs::write(&file, "slots = 3\n").unwrap();
    let slots = |variable: Option<&str>, flags: &str| {
        let arguments = format!("bench nexmark --query q0 --events 100 --format json {flags}");
        let mut command = millstream(arguments.split_whitespace());
        command.env("MILLSTREAM_CONFIG", &file);
        if let Some(value) = variable {
            command.env("MILLSTREAM_SLOTS", value);
        }
        Ended::from(command.output().unwrap()).succeeded().json()[0]["slots"].as_u64().unwrap()
    };
    assert_eq!(slots(None, ""), 3);
    assert_eq!(slots(Some("2"), ""), 2);
    assert_eq!(slots(Some("2"), "--slots 1"), 1);
}

#[test]
fn a_signal_ends_runs_without_half_of_a_result() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Running::start(
            folder.path(),
            "bench nexmark --query q5 --events 100000 --runs 1000000 --output rows --format json",
        );
        assert!(running.line().starts_with('{'), "it runs");
        running.signal(signal);
        running.ended().refused(130, &["cancelled"]);
        assert_eq!(names_in(folder.path()), Vec::<String>::new(), "{signal}");
    }
}

#[test]
fn a_signal_ends_the_writing_of_the_input_without_a_trace() {
    for (signal, workload, file) in [("INT", "q0 --events 100000000", "ev"), ("TERM", "wc", "text")]
    {
        let folder = tempfile::tempdir().unwrap();
        let arguments = format!("bench throughput --workload {workload} --data data");
        let running = Running::start(folder.path(), &arguments);
        let data = folder.path().join("data");
        while !data.is_dir() || names_in(&data).is_empty() {
            std::thread::yield_now();
        }
        assert!(names_in(&data)[0].starts_with(&format!("{file}.partial-")), "{signal}");
        running.signal(signal);
        running.ended().refused(130, &["cancelled"]);
        assert_eq!(names_in(&data), Vec::<String>::new(), "{signal}");
    }
}

#[test]
fn throughput_reports_what_the_peers_report() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut checksums = BTreeSet::new();
    for slots in 1..=2 {
        let ended = run_in(
            at,
            &format!(
                "bench throughput --workload count --events 20000 --slots {slots} --data data \
                 --format json"
            ),
        )
        .succeeded();
        let expected = "benchmark workload events slots seconds events_per_second cpu_seconds \
                        rows_out checksum peak_rss_bytes";
        assert_eq!(keys(ended.stdout.trim()).join(" "), expected);
        let figures = &ended.json()[0];
        assert_eq!(figures["benchmark"], "throughput");
        assert_eq!(figures["events"], 20_000);
        assert_eq!(figures["rows_out"], 18_400);
        let checksum = figures["checksum"].as_str().unwrap().to_owned();
        assert_eq!(checksum.len(), 16);
        checksums.insert(checksum);
    }
    assert_eq!(checksums.len(), 1, "the number of slots makes no difference");
    assert_eq!(fs::metadata(at.join("data/ev.bin")).unwrap().len(), 20_000 * 40);
    assert_eq!(names_in(&at.join("data")), ["ev.bin"]);
}

#[test]
fn throughput_runs_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = "bench throughput --interactive --workload q7 --events 5000 --data .";
    let mut child = millstream(arguments.split_whitespace())
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut requests = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        requests.write_all(b"\n").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert_eq!(keys(&answer).join(" "), "seconds cpu_seconds events rows_out checksum");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["events"], 5_000);
        seen.insert(answer["checksum"].to_string());
    }
    assert_eq!(seen.len(), 1);
    drop(requests);
    assert!(child.wait().unwrap().success(), "it ends with its input");
}

#[test]
fn latency_reports_percentiles_and_writes_its_distribution() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run_in(
        folder.path(),
        "bench latency --workload keyed-count --rate 1k --duration 2500ms --slots 2 --out plots \
         --format json",
    )
    .succeeded();
    let figures = &ended.json()[0];
    assert_eq!(figures["benchmark"], "latency");
    assert_eq!(figures["rate"], 1_000);
    // Half a second behind the warm-up at 1,000/s; where the warm-up ends is a matter of the clock.
    let samples = figures["samples"].as_u64().unwrap_or_default();
    assert!((450..=600).contains(&samples), "{samples} samples");
    assert!(figures["sustained"].is_boolean());
    let percentiles = ["p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us"];
    let values: Vec<f64> = percentiles.map(|key| figures[key].as_f64().unwrap()).to_vec();
    assert!(values.is_sorted() && values[0] > 0.0, "{values:?}");
    let mut names = names_in(&folder.path().join("plots"));
    names.sort();
    assert_eq!(
        names,
        ["latency-keyed-count-1000-2slots.hgrm", "latency-keyed-count-1000-2slots.svg"]
    );
}

#[test]
fn metrics_are_served_while_a_job_runs() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(
        folder.path(),
        "bench latency --workload keyed-count --rate 1k --duration 600s --metrics 127.0.0.1:0",
    );
    let message = running.message();
    let address = message.trim().strip_prefix("metrics at http://").unwrap();
    let address = address.strip_suffix("/metrics").unwrap().to_owned();
    // Before the job has begun there are the metrics of the process alone.
    let text = loop {
        let mut connection = TcpStream::connect(&address).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        if text.contains("millstream_records_in_total{job=\"keyed-count\"") {
            break text;
        }
        std::thread::yield_now();
    };
    assert!(text.contains("process_resident_memory_bytes"), "{text}");
    running.signal("INT");
    running.ended().refused(130, &["keyed-count: cancelled after"]);
}

/// A program that stands in for a peer: this one, or this one with results of its own.
fn peer(folder: &Path, name: &str, spoil: bool) {
    let ours = format!(
        "{} bench throughput --interactive --workload $1 --slots $2 --events $N --data $PEERS_DATA",
        env!("CARGO_BIN_EXE_millstream")
    );
    let spoiled = r#"sed -u 's/"checksum":"./"checksum":"x/'"#;
    let script = match spoil {
        false => format!("#!/bin/sh\nexec {ours}\n"),
        true => format!("#!/bin/sh\n{ours} | {spoiled}\n"),
    };
    let path = folder.join(name);
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_comparison_pairs_runs_and_checks_results() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let compare = "bench compare --peers . --workloads q1 --workers 1 --pairs 1 --events 200000 \
                   --data data --format json";
    peer(at, "roofline", false);
    let ended = run_in(at, &compare.replace("--pairs 1", "--pairs 2")).succeeded();
    let report = &ended.json()[0];
    assert_eq!(report["benchmark"], "compare");
    let result = &report["results"][0];
    assert_eq!(result["peer"], "hand-written");
    assert_eq!(result["checksum"], result["peer_checksum"]);
    let samples = result["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 2);
    let ratio = |key: &str| result["ratio"][key].as_f64().unwrap();
    assert!(ratio("min") <= ratio("median") && ratio("median") <= ratio("max"), "{result}");

    peer(at, "timely_b", true);
    let ended = run_in(at, compare).refused(1, &["results differ", "timely"]);
    assert_eq!(
        ended.json()[0]["results"].as_array().unwrap().len(),
        2,
        "it is reported all the same"
    );

    fs::write(at.join("timely_b"), "#!/bin/sh\nexit 3\n").unwrap();
    run_in(at, compare).refused(1, &["timely: ended instead of running"]);
}
