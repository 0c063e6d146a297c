//! `millstream demo` where something is wrong: what it says, how it ends, what it leaves.

use crate::program::{Running, names_in, run, run_in};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

/// Events in `folder`, as the demo writes them.
fn write_events(folder: &Path, name: &str) {
    run_in(folder, &format!("demo --write-events {name} --rate 2k --duration 1s")).succeeded();
}

#[test]
fn usage_that_makes_no_sense_is_refused() {
    run("demo --duration 1s --slots 0").refused(2, &["--slots", "from 1 to"]);
    run("demo --duration 1s --frobnicate").refused(2, &["--frobnicate", "--help"]);
    run("demo --duration soon").refused(2, &["--duration", "10s"]);
    run("demo --rate 0 --duration 1s").refused(2, &["--rate"]);
    run("demo --duration 1s --config .").refused(2, &["cannot be read"]);
    run("demo --write-events e.jsonl").refused(2, &["--duration"]);
    let slots = 2 * std::thread::available_parallelism().unwrap().get() + 1;
    run(&format!("demo --duration 1s --idle spin --slots {slots}"))
        .refused(2, &["slots cannot spin", "\"park\""]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    run(&format!("demo --duration 1s --metrics {address}"))
        .refused(2, &["is in use", "choose another port"]);
}

#[test]
fn input_that_cannot_be_read_is_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("empty")).unwrap();
    std::os::unix::fs::symlink("circle", at.join("circle")).unwrap();
    for (input, words) in [
        ("none.jsonl", ["none.jsonl: no such file", "check the path"]),
        ("none-*.jsonl", ["none-*.jsonl: no file matches", "quote it in the shell"]),
        ("empty", ["empty: the directory holds no files", "empty/**/*"]),
        ("circle", ["circle: cannot open it", "Too many levels"]),
    ] {
        run_in(at, &format!("demo --input {input}")).refused(2, &words);
    }
}

#[test]
fn events_that_are_none_end_the_job_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, bad, line) in [
        ("e.jsonl", "{\"time\":\"soon\"}\n", 4),
        ("e.csv", "soon,play\n", 4),
        ("b.jsonl", "\u{0}", 4),
    ] {
        write_events(at, name);
        let text = fs::read_to_string(at.join(name)).unwrap();
        let mut lines: Vec<_> = text.split_inclusive('\n').collect();
        lines.insert(line - 1, bad);
        fs::write(at.join(name), lines.concat()).unwrap();
        run_in(at, &format!("demo --input {name}")).refused(1, &[&format!("{name}:{line}:")]);
    }
}

#[test]
fn damaged_files_end_the_job_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (name, words) in
        [("e.jsonl.gz", "the gzip data end early"), ("e.jsonl.zst", "the zstd data end early")]
    {
        write_events(at, name);
        let whole = fs::read(at.join(name)).unwrap();
        fs::write(at.join(name), &whole[..whole.len() / 2]).unwrap();
        run_in(at, &format!("demo --input {name}")).refused(1, &[name, words, "copy it again"]);
    }
}

#[test]
fn a_signal_ends_the_demo_without_half_of_a_file() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let writing = "demo --write-events e.jsonl --rate 1M --duration 24h";
        let running = Running::start(folder.path(), writing);
        while names_in(folder.path()).is_empty() {
            std::thread::yield_now();
        }
        running.signal(signal);
        running.ended().refused(130, &[]);
        assert_eq!(names_in(folder.path()), Vec::<String>::new(), "{signal}");

        let mut running = Running::start(folder.path(), "demo --rate 1k");
        assert!(!running.line().is_empty(), "it shows what it finds");
        running.signal(signal);
        running.ended().refused(130, &[]);
    }
}
