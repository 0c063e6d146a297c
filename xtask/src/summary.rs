//! Runs steps one after another, and says at the end how each went.

use crate::process::{Failed, TestOutput};
use crate::steps::Step;
use crate::workspace::Workspace;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// Tests that were run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Tally {
    pub(crate) fn count(self) -> u64 {
        self.passed + self.failed
    }

    /// Reads the closing line of a test runner: libtest's `test result: ...`, or nextest's
    /// `Summary [...] ...`, which counts tests that ran out of time apart.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ")?.1,
            None => line.strip_prefix("Summary [")?.split_once("] ")?.1.split_once(": ")?.1,
        };
        let mut tally = Self::default();
        for part in counts.split([',', ';']) {
            // As in `12 passed (1 slow)`.
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) =
                (words.next().map(str::parse::<u64>), words.next())
            else {
                continue;
            };
            match what {
                "passed" => tally.passed += number,
                "failed" | "timed" => tally.failed += number,
                _ => {}
            }
        }
        Some(tally)
    }
}

/// What a step came to.
pub(crate) enum Outcome {
    /// It passed.
    Passed(TestOutput),
    /// It could not run here, for this reason.
    Skipped(String),
}

/// A step that was run.
struct Report {
    name: &'static str,
    verdict: Verdict,
    output: TestOutput,
    duration: Duration,
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

impl Report {
    /// The step's tests; a step without tests counts as one, and so does a failure outside tests.
    fn tally(&self) -> Tally {
        let mut tally = self.output.tally;
        match self.verdict {
            Verdict::Passed if tally.count() == 0 => tally.passed = 1,
            Verdict::Failed(_) if tally.failed == 0 => tally.failed = 1,
            _ => {}
        }
        tally
    }
}

/// Runs all steps, also after a failed one, and prints the summary. True if none failed.
pub(crate) fn run_and_report(workspace: &Workspace, steps: Vec<Step>) -> bool {
    let reports: Vec<Report> = steps.into_iter().map(|step| run(workspace, step)).collect();
    println!("\n==== summary");
    for line in reports.iter().flat_map(|report| &report.output.closing_lines) {
        // Test programs without any test would bury the others.
        if !line.contains(". 0 passed; 0 failed;") {
            println!("{line}");
        }
    }
    let mut total = Tally::default();
    for report in &reports {
        let (word, why) = match &report.verdict {
            Verdict::Passed => ("ok", String::new()),
            Verdict::Skipped(why) => ("skipped", format!("  {why}")),
            Verdict::Failed(why) => ("FAILED", format!("  {why}")),
        };
        let seconds = report.duration.as_secs_f64();
        println!("{word:>8}  {:<12}{seconds:>8.1} s{why}", report.name);
        total += report.tally();
    }
    let failed = reports.iter().filter(|report| matches!(report.verdict, Verdict::Failed(_)));
    for line in failed.flat_map(|report| &report.output.failures) {
        println!("{line}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    total.failed == 0
}

fn run(workspace: &Workspace, step: Step) -> Report {
    println!("\n==== {}: {}", step.name, step.about);
    let started = Instant::now();
    let (verdict, output) = match (step.action)(workspace) {
        Ok(Outcome::Passed(output)) => (Verdict::Passed, output),
        Ok(Outcome::Skipped(why)) => {
            println!("skipped: {why}");
            (Verdict::Skipped(why), TestOutput::default())
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            let verdict = Verdict::Failed(format!("{error:#}"));
            let output = match error.downcast::<Failed>() {
                Ok(failed) => failed.output,
                Err(_) => TestOutput::default(),
            };
            (verdict, output)
        }
    };
    Report { name: step.name, verdict, output, duration: started.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn closing_lines_of_both_runners_are_read() {
        let table = [
            (
                "test result: ok. 34 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; \
                 finished in 0.06s",
                Some((34, 0)),
            ),
            ("test result: FAILED. 3 passed; 2 failed; 0 ignored", Some((3, 2))),
            ("Summary [   0.072s] 34 tests run: 34 passed, 0 skipped", Some((34, 0))),
            (
                "Summary [   9.5s] 34/50 tests run: 30 passed (1 slow), 3 failed, 1 timed out, 2 skipped",
                Some((30, 4)),
            ),
            ("Summary [   0.072s] 1 test run: 1 passed, 3 skipped", Some((1, 0))),
            ("test something ... ok", None),
            ("Summary of changes", None),
            ("test result: unknown", None),
        ];
        for (line, expected) in table {
            let read = Tally::parse(line).map(|tally| (tally.passed, tally.failed));
            assert_eq!(read, expected, "{line}");
        }
    }

    fn report(verdict: Verdict, passed: u64, failed: u64) -> Report {
        let output = TestOutput { tally: Tally { passed, failed }, ..TestOutput::default() };
        Report { name: "step", verdict, output, duration: Duration::ZERO }
    }

    #[test]
    fn steps_without_tests_count_as_one() {
        let table = [
            (report(Verdict::Passed, 0, 0), (1, 0)),
            (report(Verdict::Passed, 7, 0), (7, 0)),
            (report(Verdict::Skipped(String::new()), 0, 0), (0, 0)),
            (report(Verdict::Failed(String::new()), 0, 0), (0, 1)),
            (report(Verdict::Failed(String::new()), 7, 2), (7, 2)),
            // Every test passed and the step failed all the same: that must not read as success.
            (report(Verdict::Failed(String::new()), 7, 0), (7, 1)),
        ];
        for (report, expected) in table {
            let tally = report.tally();
            assert_eq!((tally.passed, tally.failed), expected);
        }
    }

    fn step(action: fn(&Workspace) -> anyhow::Result<Outcome>) -> Step {
        Step { name: "step", about: "for a test", action: Box::new(action) }
    }

    #[test]
    fn one_failed_step_fails_the_whole() {
        let workspace = Workspace::find().unwrap();
        let pass = || step(|_| Ok(Outcome::Passed(TestOutput::default())));
        let skip = || step(|_| Ok(Outcome::Skipped("not here".to_owned())));
        let fail = || step(|_| bail!("broken"));
        assert!(run_and_report(&workspace, vec![pass(), skip(), pass()]));
        assert!(!run_and_report(&workspace, vec![pass(), fail(), pass()]));
    }
}
