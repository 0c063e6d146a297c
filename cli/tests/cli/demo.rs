//! The demo as people and scripts see it.

use crate::program::{Running, millstream, run, run_in};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The seconds that lines begin with, as in `   2 s  2026-01-01 …`.
fn seconds(lines: &str) -> Vec<u64> {
    let second = |line: &str| line.split_once(" s  ")?.0.trim().parse().ok();
    lines.lines().filter_map(second).collect()
}

#[test]
fn there_is_a_line_for_every_second_where_standard_output_is_no_terminal() {
    let ended = run("demo --duration 4s --rate 20k").succeeded();
    let told = seconds(&ended.stdout);
    // One at the start, one a second; a busy machine may miss one.
    assert!(told.first() == Some(&0) && told.len() >= 4 && told.is_sorted(), "{ended:#?}");
    for line in ["/s  watermark -", "alarms", "pop  "] {
        assert!(ended.stdout.contains(line), "{line:?} is missing: {ended:#?}");
    }
    assert!(!ended.stdout.contains('\x1b'), "no terminal, no colours: {ended:#?}");
    assert!(ended.stderr.starts_with("music service: finished"), "{ended:#?}");
}

#[test]
fn signals_end_it_with_a_code_and_a_summary() {
    for signal in ["INT", "TERM"] {
        let mut running = Running::start(Path::new("."), "demo --rate 20k");
        let begun = Instant::now();
        while !running.line().contains("/s  watermark") {}
        running.signal(signal);
        let ended = running.ended();
        assert_eq!(ended.code, Some(130), "{signal}: {ended:#?}");
        assert!(ended.stderr.starts_with("music service: cancelled"), "{signal}: {ended:#?}");
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[test]
fn written_events_are_read_again_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let mut lists = Vec::new();
    for file in ["events.jsonl", "events.csv.gz"] {
        let write = format!("demo --duration 2s --rate 5k --write-events {file}");
        run_in(folder.path(), &write).succeeded();
        let ended = run_in(folder.path(), &format!("demo --slots 2 --input {file}")).succeeded();
        let found = ended.stdout.lines().filter(|line| !line.contains(" s  "));
        lists.push(found.map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(lists[0].iter().any(|line| line.starts_with("pop ")), "{lists:#?}");
    assert_eq!(lists[0], lists[1]);
}

#[test]
fn input_that_cannot_be_used_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = |flags: &str| run_in(folder.path(), &format!("demo {flags}"));
    run("--input none.csv").refused(2, &["none.csv: no such file", "check the path"]);
    run("--input none/*.csv").refused(2, &["none/*.csv: no file matches this pattern"]);
    run("--duration 5").refused(2, &["write a time such as 10s"]);
    run("--skip-malformed").refused(2, &["--input <PATH>"]);

    let good = r#"{"time":1,"event":"play","user":1,"song":2}"#;
    let bad = r#"{"time":2,"event":"play","song":2}"#;
    fs::write(folder.path().join("bad.jsonl"), format!("{good}\n{bad}\n{good}\n")).unwrap();
    fs::write(folder.path().join("bad.csv"), "time,event,user,song\n1,play,1,2\n1,play,one,2\n")
        .unwrap();
    let advice = "--skip-malformed";
    run("--input bad.jsonl").refused(1, &["bad.jsonl:2:1: a play needs", "\"user\"", advice]);
    run("--input bad.csv").refused(1, &["bad.csv:3:8: column user", advice]);
    let skipped = run("--input bad.jsonl --skip-malformed").succeeded();
    let malformed = skipped.stderr.lines().find(|line| line.contains("malformed"));
    assert!(malformed.is_some_and(|line| line.ends_with(" 1")), "{skipped:#?}");
}

/// In a pseudo terminal of `script`: what is drawn, and whether the terminal is as it was.
#[test]
fn the_live_view_gives_the_terminal_back() {
    let usable = Command::new("script").args(["-qec", "stty -a", "/dev/null"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no script (of util-linux) to make a terminal with");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = millstream::<&str>([]).get_program().to_string_lossy().into_owned();
    let seen = |demo: &str| {
        let commands = format!("stty cols 90 rows 30; stty -a > before; {demo}; stty -a > after");
        let output = Command::new("script")
            .args(["-qec", &commands, "/dev/null"])
            .env("TERM", "xterm")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let settings = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(settings("before").contains("icanon"));
        assert_eq!(settings("before"), settings("after"), "{demo}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (enter, leave) = ("\x1b[?1049h", "\x1b[?1049l");
    for (flags, code) in [("timeout --foreground --preserve-status 2", "code 130"), ("", "code 0")]
    {
        let duration = if flags.is_empty() { "--duration 2s" } else { "" };
        let text = seen(&format!("{flags} {program} demo --rate 20k {duration}; echo code $?"));
        let (_, drawn) = text.split_once(enter).unwrap_or_else(|| panic!("{text}"));
        let (drawn, after) = drawn.split_once(leave).unwrap_or_else(|| panic!("{text}"));
        for part in ["events per second", "watermark behind", "genres and who likes them"] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        assert!(after.contains("\x1b[?25h"), "the cursor is back: {after}");
        assert!(after.contains("music service: ") && after.contains(code), "{after}");
    }
}
