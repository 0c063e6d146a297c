//! Properties that are tried for a time, not for a number of cases.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::time::{Duration, Instant};

/// Cases between two looks at the clock.
const CASES: u32 = 16;

/// Tries a property with new random inputs for `MILLSTREAM_SOAK_SECONDS`, 3 unless set. A failure
/// is made as small as it gets and printed with its input.
pub fn soak<S: Strategy>(
    strategy: S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> Result<(), Box<dyn std::error::Error>> {
    let seconds = match std::env::var("MILLSTREAM_SOAK_SECONDS") {
        Ok(text) => text.parse().map_err(|_| format!("{text:?} is no whole number of seconds"))?,
        Err(_) => 3,
    };
    let started = Instant::now();
    let mut runs = 0u64;
    while runs == 0 || started.elapsed() < Duration::from_secs(seconds) {
        // Makes its seed anew.
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        TestRunner::new(config).run(&strategy, &property).map_err(|error| error.to_string())?;
        runs += 1;
    }
    println!("{} inputs", runs * u64::from(CASES));
    Ok(())
}
