//! Tests that look at the process they run in, or change it: each runs in a process of its own.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Names the one test that a child process is to run.
const VARIABLE: &str = "MILLSTREAM_TEST_ALONE";
/// Far more than anything here takes, also where many things run at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// True in the process that was made for this test.
pub fn is_child(test: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|name| name == test)
}

/// A command that runs the test of this name, as [`is_child`] tells it there.
pub fn command(test: &str) -> Command {
    let program = std::env::current_exe().expect("a process knows its program");
    let mut command = Command::new(program);
    command.args(arguments(test)).env(VARIABLE, test);
    command
}

/// What makes the harness run this test alone and leave its output as it is.
pub fn arguments(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// Runs the command of a test's child to its end, which must be a good one.
pub fn passes(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the child starts");
    let words = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{status}\n{words}");
    // Without this a name that was misspelt would pass: no test failed.
    assert!(words.contains("1 passed"), "the child ran no test\n{words}");
    words
}

/// Runs `body` in a process of its own; `test` is the name of the test that calls this.
pub fn alone(test: &str, body: impl FnOnce()) {
    if is_child(test) {
        body();
    } else {
        passes(command(test));
    }
}

/// Looks again and again until `holds`; a minute in vain is a failure.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// The names of this process's threads and what they do: `R` runs, `S` sleeps.
pub fn threads() -> Vec<(String, char)> {
    let tasks = fs::read_dir("/proc/self/task").expect("the process is listed");
    tasks
        // A thread may end while it is looked at.
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .map(|stat| {
            let (before, after) = stat.rsplit_once(") ").expect("a name in parentheses");
            let name = before.split_once('(').expect("a name in parentheses").1;
            (name.to_owned(), after.chars().next().expect("a state"))
        })
        .collect()
}

/// How many file descriptors this process has open, the one to count them with included.
pub fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("the process is listed").count()
}

/// Waits until all slots sleep. (An executor has a second thread, which bears its name.)
#[track_caller]
pub fn until_slots_sleep() {
    until("all slots sleep", || {
        threads()
            .iter()
            .filter(|(name, _)| name.starts_with("slot-"))
            .all(|(_, state)| *state == 'S')
    });
}

/// Memory of this process that is in use, in bytes.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the process is listed");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let kib = line.trim().strip_suffix(" kB").expect("a size in KiB");
    kib.parse::<u64>().expect("a number") * 1024
}
