//! The examples as programs, on small input of our own and on real input where there is some.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An example, which Cargo has built beside this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is not built: add --examples", path.display());
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn succeeds(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{status}: {}", text(&stderr));
    text(&stdout).to_owned()
}

/// What it says on standard error as it fails with this exit code, having written nothing else.
fn fails(command: &mut Command, code: i32) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert_eq!(status.code(), Some(code), "{}", text(&stderr));
    assert_eq!(text(&stdout), "");
    text(&stderr).to_owned()
}

/// Real input beside the workspace, if it is there.
fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if !path.exists() {
        println!("skipped: there is no shared/{name} beside the workspace");
        return None;
    }
    Some(path)
}

fn words(text: &str) -> BTreeMap<String, u64> {
    let mut words = BTreeMap::new();
    for word in text.split_whitespace() {
        *words.entry(word.to_lowercase()).or_default() += 1;
    }
    words
}

/// Lines `WORD,COUNT`, the word quoted if need be.
fn counts(csv: &str) -> BTreeMap<String, u64> {
    csv.lines()
        .map(|line| {
            let (word, count) = line.rsplit_once(',').unwrap();
            let word = match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
                Some(quoted) => quoted.replace("\"\"", "\""),
                None => word.to_owned(),
            };
            (word, count.parse().unwrap())
        })
        .collect()
}

#[test]
fn words_of_files_and_of_standard_input_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let lines = "to be, or not to be:\n\"that\" is the question\n\nTo sleep\n".repeat(1_000);
    fs::write(folder.path().join("a.txt"), &lines).unwrap();
    fs::write(folder.path().join("b.txt"), "sleep to dream").unwrap();
    let expected = words(&format!("{lines}\nsleep to dream"));
    for slots in ["1", "2", "3"] {
        let found = succeeds(example("word_count").arg(folder.path()).args(["--slots", slots]));
        assert_eq!(counts(&found), expected, "{slots} slots");
    }

    let mut child = example("word_count")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(counts(text(&output.stdout)), words(&lines));
    assert!(text(&output.stderr).starts_with("word count: finished"), "a summary follows");
}

#[test]
fn a_word_count_is_short() {
    let code = include_str!("../examples/word_count.rs").lines().map(str::trim).filter(|line| {
        !["", "//", "#!", "use "].iter().any(|start| match *start {
            "" => line.is_empty(),
            start => line.starts_with(start),
        })
    });
    let lines = code.count();
    assert!((5..=15).contains(&lines), "{lines} lines");
}

#[test]
fn words_of_a_real_log_are_counted() {
    let Some(log) = shared("data/openssh/OpenSSH_2k.log") else { return };
    let found = succeeds(example("word_count").arg(&log).args(["--slots", "2"]));
    assert_eq!(counts(&found), words(&fs::read_to_string(log).unwrap()));
}

#[test]
fn what_cannot_be_read_is_told() {
    let error = fails(example("word_count").arg("no-such-file"), 2);
    assert!(error.contains("no-such-file: no such file or directory"), "{error}");
    let error = fails(example("telemetry_anomalies").args(["x", "--sigmas", "0"]), 2);
    assert!(error.contains("above zero"), "{error}");
    let error = fails(&mut example("telemetry_anomalies"), 2);
    assert!(error.contains("<PATH>"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.csv");
    for (row, reason) in [
        ("2015-02-26 21:42:53,much", "bad.csv:3:21: column value: "),
        ("2015-02-30 21:42:53,1", "bad.csv:3:1: "),
        ("2015-02-26 21:42:53,inf", "not a finite number"),
        ("2015-02-26 21:42:53", "bad.csv:3:1: 1 fields, but the header has 2"),
    ] {
        fs::write(&path, format!("timestamp,value\n2015-02-26 21:37:53,1.5\n{row}\n")).unwrap();
        let error = fails(example("telemetry_anomalies").arg(&path), 1);
        assert!(error.contains(reason), "{row}: {error}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_program_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words");
    let many: String = (0..200_000).map(|n| format!("word{n}\n")).collect();
    fs::write(&path, many).unwrap();
    let mut child = example("word_count")
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

/// A series of a value every five minutes, as CSV.
fn series(values: impl IntoIterator<Item = f64>) -> String {
    let mut csv = "timestamp,value\n".to_owned();
    for (index, value) in values.into_iter().enumerate() {
        let (day, minute) = (index / 288 + 1, index % 288 * 5);
        let time = format!("2026-01-{day:02} {:02}:{:02}:00", minute / 60, minute % 60);
        csv += &format!("{time},{value}\n");
    }
    csv
}

fn anomalies(input: &Path, flags: &[&str]) -> Vec<Value> {
    let mut command = example("telemetry_anomalies");
    let lines = succeeds(command.arg(input).args(["--format", "json"]).args(flags));
    let mut found: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    found.sort_by_key(|anomaly| (anomaly["series"].to_string(), anomaly["time"].to_string()));
    found
}

#[test]
fn the_odd_ones_out_are_found_per_series() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below [1]");
    fs::create_dir(&below).unwrap();
    let wave = |base: f64| (0..600).map(move |n| base + f64::from(n % 7));
    let spike = |at: usize, values: Vec<f64>| {
        let mut values = values;
        values[at] += 500.0;
        values
    };
    fs::write(folder.path().join("low.csv"), series(spike(400, wave(0.0).collect()))).unwrap();
    fs::write(below.join("high.csv"), series(spike(10, wave(500.0).collect()))).unwrap();
    fs::write(below.join("calm.csv"), series(wave(1e9))).unwrap();
    fs::write(folder.path().join("notes.txt"), "not a series").unwrap();
    for slots in ["1", "2"] {
        let found = anomalies(folder.path(), &["--slots", slots]);
        let told: Vec<_> =
            found.iter().map(|a| (a["series"].as_str(), a["time"].as_str())).collect();
        // The spike of the other series comes before there is anything to compare it with.
        assert_eq!(told, [(Some("low"), Some("2026-01-02 09:20:00.000"))]);
        let mean = found[0]["mean"].as_f64().unwrap();
        assert!((2.9..3.1).contains(&mean), "{mean}");
        assert!(found[0]["sigmas"].as_f64().unwrap() > 200.0);
    }
    let table = succeeds(example("telemetry_anomalies").arg(folder.path()));
    assert!(table.starts_with("series  time"), "{table}");
}

/// As the example says, over the text of a file alone: of each series, which values are how odd.
fn naive(csv: &str, window: usize, limit: f64) -> Vec<String> {
    let mut newest: Vec<(String, f64)> = Vec::new();
    let mut odd = Vec::new();
    for line in csv.lines().skip(1) {
        let (time, value) = line.split_once(',').unwrap();
        let value: f64 = value.parse().unwrap();
        if newest.len() >= window / 4 {
            let n = newest.len() as f64;
            let mean = newest.iter().map(|(_, value)| value).sum::<f64>() / n;
            let variance = newest.iter().map(|(_, v)| (v - mean) * (v - mean)).sum::<f64>() / n;
            let deviation = variance.sqrt().max(mean.abs() / 1_000.0).max(1e-9);
            if (value - mean).abs() / deviation > limit {
                odd.push(format!("{time}.000"));
            }
        }
        newest.push((time.to_owned(), value));
        newest.sort_by(|a, b| a.0.cmp(&b.0));
        if newest.len() > window {
            newest.remove(0);
        }
    }
    odd
}

#[test]
fn the_anomalies_of_real_metrics_are_what_a_naive_computation_finds() {
    let Some(folder) = shared("data/nab") else { return };
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap().filter_map(|entry| entry.ok()) {
        for file in entry.path().read_dir().into_iter().flatten().filter_map(|file| file.ok()) {
            let csv = fs::read_to_string(file.path()).unwrap();
            let mut odd = naive(&csv, 288, 6.0);
            odd.sort();
            let name = file.path().file_stem().unwrap().to_string_lossy().into_owned();
            if !odd.is_empty() {
                expected.insert(name, odd);
            }
        }
    }
    assert!(expected.len() > 10, "some metrics are odd");
    for slots in ["1", "2", "3"] {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for anomaly in anomalies(&folder, &["--slots", slots]) {
            let text = |field: &str| anomaly[field].as_str().unwrap().to_owned();
            found.entry(text("series")).or_default().push(text("time"));
        }
        assert_eq!(found, expected, "{slots} slots");
    }
}
