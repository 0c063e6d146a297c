//! Trials that run side by side.

use anyhow::{Context, Result, ensure};
use std::sync::{Mutex, PoisonError};

/// Runs each of them, so many at a time.
///
/// # Errors
/// What is wrong with each that fails.
pub(crate) fn run<T: Sync>(
    at_a_time: usize,
    trials: &[T],
    run: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let (queue, failures) = (Mutex::new(trials.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(trial) = next() {
                    let Err(error) = run(trial) else { continue };
                    let words = format!("{error:#}");
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(words);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} trials failed\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

/// The number that a variable of the environment holds, if it is set.
///
/// # Errors
/// If it holds something else.
pub fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable}={text} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_run_and_all_that_fail_are_named() {
        let seen = Mutex::new(Vec::new());
        let error = run(2, &[1, 2, 3, 4], |n| {
            seen.lock().unwrap().push(*n);
            ensure!(n % 2 == 0, "{n} is odd");
            Ok(())
        });
        let words = error.unwrap_err().to_string();
        assert!(words.starts_with("2 trials failed"), "{words}");
        assert!(words.contains("1 is odd") && words.contains("3 is odd"), "{words}");
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 4]);
    }
}
