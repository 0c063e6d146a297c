//! What the command line has besides benchmarks: help, completions, `generate`, `new`.

use crate::program::{Ended, Running, millstream, names_in, run, run_in};
use flate2::read::GzDecoder;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn help_teaches_with_examples() {
    for command in [
        "",
        "generate nexmark",
        "new",
        "completions",
        "bench nexmark",
        "bench throughput",
        "bench latency",
        "bench compare",
        "checkpoints list",
        "checkpoints verify",
        "checkpoints delete",
        "coordinator",
        "worker",
        "submit",
        "list",
        "status",
        "cancel",
        "stop",
        "workers",
        "token",
    ] {
        let help = run(&format!("{command} --help")).succeeded().stdout;
        assert!(help.contains("millstream "), "{command}: {help}");
        assert!(help.contains("Examples:") || help.contains("Begin with:"), "{command}: {help}");
        assert!(help.contains("--log-level"), "{command}: {help}");
    }
    run("").refused(2, &["Usage: millstream"]);
    run("brew coffee").refused(2, &["unrecognized subcommand"]);
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&format!("completions {shell}")).succeeded().stdout;
        assert!(script.contains("throughput"), "{shell}");
    }
}

#[test]
fn generated_events_equal_the_golden_ones() {
    let golden =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden/events-100k.jsonl.gz"));
    if !golden.exists() {
        println!("passed over: {} is not there", golden.display());
        return;
    }
    let mut expected = Vec::new();
    let file = fs::File::open(golden).unwrap();
    GzDecoder::new(file).read_to_end(&mut expected).unwrap();
    let folder = tempfile::tempdir().unwrap();
    run_in(
        folder.path(),
        "generate nexmark --events 100000 --rate 1000 --base-time 1436918400000 --out e.jsonl",
    )
    .succeeded();
    assert!(fs::read(folder.path().join("e.jsonl")).unwrap() == expected, "the files differ");
}

#[test]
fn events_can_be_compressed_or_piped() {
    let folder = tempfile::tempdir().unwrap();
    let piped = run("generate nexmark --events 1000 --out -").succeeded().stdout;
    assert_eq!(piped.lines().count(), 1_000);
    run_in(folder.path(), "generate nexmark --events 1000 --out e.jsonl.gz").succeeded();
    let mut unzipped = String::new();
    let file = fs::File::open(folder.path().join("e.jsonl.gz")).unwrap();
    GzDecoder::new(file).read_to_string(&mut unzipped).unwrap();
    assert_eq!(unzipped, piped);
    assert_eq!(names_in(folder.path()), ["e.jsonl.gz"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = millstream(["generate", "nexmark", "--events", "10000000", "--out", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    // The pipe is closed here.
    let ended = Ended::from(child.wait_with_output().unwrap());
    ended.refused(141, &[]);
}

#[test]
fn what_cannot_be_written_is_said_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    run_in(at, "generate nexmark --events 1000 --out no/such/e.jsonl")
        .refused(1, &["no/such/e.jsonl", "does its directory exist?"]);
    run_in(at, "generate nexmark --events 1000 --out /dev/full")
        .refused(1, &["/dev/full", "free some space"]);
    run_in(at, "generate nexmark --events 1000 --out .").refused(2, &["is a directory"]);
    run_in(at, "generate nexmark --events 1000 --rate 0 --out e").refused(2, &["--rate"]);
    run_in(at, "generate nexmark --events many --out e").refused(2, &["--events"]);
    // A limit on the size of files stands in for a full disk.
    let script = format!(
        "trap '' XFSZ; ulimit -f 100; exec {} generate nexmark --events 100000 --out e.jsonl",
        env!("CARGO_BIN_EXE_millstream")
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(at).output().unwrap();
    Ended::from(output).refused(1, &["e.jsonl", "cannot write it", "ulimit -f"]);
    assert_eq!(names_in(at), Vec::<String>::new());
}

#[test]
fn a_signal_ends_generating_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let running =
        Running::start(folder.path(), "generate nexmark --events 1000000000 --out e.jsonl");
    while names_in(folder.path()).is_empty() {
        std::thread::yield_now();
    }
    running.signal("TERM");
    running.ended().refused(130, &["cancelled"]);
    assert_eq!(names_in(folder.path()), Vec::<String>::new());
}

#[test]
fn a_new_project_is_whole_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let made = run_in(at, "new word-count").succeeded();
    assert!(made.stdout.contains("cargo run"), "{}", made.stdout);
    let mut names = names_in(&at.join("word-count"));
    names.sort();
    assert_eq!(names, [".gitignore", "Cargo.toml", "README.md", "src"]);
    let manifest = fs::read_to_string(at.join("word-count/Cargo.toml")).unwrap();
    assert!(manifest.contains("name = \"word-count\"") && manifest.contains("millstream = { path"));
    assert!(!manifest.contains("{name}"), "{manifest}");

    fs::write(at.join("word-count/mine"), "precious").unwrap();
    run_in(at, "new word-count").refused(2, &["exists already"]);
    assert!(at.join("word-count/mine").exists());

    run_in(at, "new 1st").refused(2, &["cannot be the name"]);
    run_in(at, "new other --millstream-path no/such").refused(2, &["no copy of Millstream"]);
    run_in(at, "new no/such/place").refused(1, &["cannot be made"]);
    assert_eq!(names_in(at), ["word-count"]);

    run_in(at, "new from-git --millstream-git https://example.org/m.git").succeeded();
    let manifest = fs::read_to_string(at.join("from-git/Cargo.toml")).unwrap();
    assert!(manifest.contains("{ git = \"https://example.org/m.git\" }"), "{manifest}");
}
