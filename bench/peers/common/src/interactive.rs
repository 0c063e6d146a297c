//! Runs on request: a comparator loads the input of several programs once, then has them take turns
//! (A B A B), so that drift of the machine hits all of them alike.
//!
//! # Protocol
//! With `INTERACTIVE=1` in the environment a program loads its input, then answers every line on its
//! standard input with one run and one JSON line on its standard output:
//!
//! ```text
//! {"seconds":0.104,"cpu_seconds":0.104,"events":10000000,"rows_out":9200000,"checksum":"0123456789abcdef"}
//! ```
//!
//! It ends, with exit code 0, when its standard input does. Between requests it sleeps.

use std::io::Write;
use std::time::Instant;

/// What a run cost. Results are counted by [`crate::Acc`].
pub struct Cost {
    seconds: f64,
    cpu_seconds: f64,
}

impl Cost {
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}

pub fn requested() -> bool {
    std::env::var("INTERACTIVE").is_ok_and(|value| value == "1")
}

pub fn timed(run: impl FnOnce()) -> Cost {
    let cpu = cpu_seconds();
    let start = Instant::now();
    run();
    let seconds = start.elapsed().as_secs_f64();
    Cost { seconds, cpu_seconds: cpu_seconds() - cpu }
}

/// Answers requests until there are no more. `events` counts the input of one run.
pub fn serve(events: usize, mut run: impl FnMut() -> Cost) {
    for line in std::io::stdin().lines() {
        line.expect("requests are lines of text");
        let Cost { seconds, cpu_seconds } = run();
        let (checksum, rows_out) = crate::take_sum();
        let mut out = std::io::stdout().lock();
        let answered = writeln!(
            out,
            "{{\"seconds\":{seconds:.9},\"cpu_seconds\":{cpu_seconds:.9},\"events\":{events},\
             \"rows_out\":{rows_out},\"checksum\":\"{checksum:016x}\"}}"
        )
        .and_then(|()| out.flush());
        if answered.is_err() {
            return; // the comparator is gone
        }
    }
}

/// CPU time of all threads of this process so far.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write a timespec to.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "Linux has a CPU clock for every process");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
