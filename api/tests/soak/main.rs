//! Random dataflow programs against a naive interpreter.
//!
//! From a seed a program is made: a few sources, a few operators of all kinds between them, a sink
//! at every open end, on a random number of slots with random (often tiny) batches and credits. As
//! it is put together, a naive interpreter computes what each stream must carry, with plain vectors.
//! Then the job runs, and every sink must have got exactly those records, with their timestamps
//! wherever these do not depend on the order in which subtasks meet.
//!
//! - `MILLSTREAM_SOAK_SECONDS`: how long new seeds are tried, 5 unless set;
//! - `MILLSTREAM_SOAK_SEED`: this one program only, as a failure names it.

mod functions;
mod model;
mod operators;
mod program;
mod random;
mod watchdog;

use program::Program;
use random::Random;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

#[test]
fn soak_random_dataflows_against_a_naive_interpreter() {
    if let Some(seed) = variable("MILLSTREAM_SOAK_SEED") {
        return Program::from_seed(seed).check();
    }
    let duration = Duration::from_secs(variable("MILLSTREAM_SOAK_SECONDS").unwrap_or(5));
    // Other programs every time: what this run does not find, another one may.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let mut seeds = Random::new(now.as_nanos() as u64);
    let started = Instant::now();
    let mut programs = 0;
    while programs == 0 || started.elapsed() < duration {
        Program::from_seed(seeds.next() % 1_000_000_000).check();
        programs += 1;
    }
    println!("{programs} programs ran as the interpreter did");
}
