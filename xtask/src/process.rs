//! Runs other programs: what they print is shown as it comes, and read for test results.

use crate::summary::Tally;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// How long one program may run in continuous integration, in seconds: a hang is a failure.
const RUN_SECONDS_MAX: &str = "2400";

/// What a program that ran to its end printed about tests.
#[derive(Debug, Default)]
pub(crate) struct TestOutput {
    /// The tests counted.
    pub(crate) tally: Tally,
    /// The test runner's own closing lines.
    pub(crate) closing_lines: Vec<String>,
    /// What it said of tests that failed: their names, and where they panicked with what.
    pub(crate) failures: Vec<String>,
}

/// So many lines about failures are repeated at the end: more would bury the names.
const FAILURE_LINES_MAX: usize = 40;

impl TestOutput {
    pub(crate) fn append(&mut self, other: TestOutput) {
        self.tally += other.tally;
        self.closing_lines.extend(other.closing_lines);
        self.failures.extend(other.failures);
    }

    /// `line` as it was printed.
    fn note(&mut self, line: &str, after_panic: bool) {
        // Of a test that failed, nextest shows indented what libtest said, and counts it itself.
        let is_repeated = line.trim_start().starts_with("test result: ") && line.starts_with(' ');
        let line = line.trim();
        if is_repeated {
            return;
        }
        if let Some(tally) = Tally::parse(line) {
            self.tally += tally;
            self.closing_lines.push(line.to_owned());
        } else if (after_panic || tells_of_failure(line))
            && self.failures.len() < FAILURE_LINES_MAX
            && !self.failures.iter().any(|earlier| earlier == line)
        {
            self.failures.push(line.to_owned());
        }
    }
}

/// A program that failed, and what it had printed about tests.
#[derive(Debug, thiserror::Error)]
#[error("{command} ended with {status}")]
pub(crate) struct Failed {
    command: String,
    status: std::process::ExitStatus,
    pub(crate) output: TestOutput,
}

/// A program to be run in the given folder; under a time limit in continuous integration.
pub(crate) fn program(name: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = if in_ci() {
        let mut limited = Command::new("timeout");
        limited.args(["--kill-after=10", RUN_SECONDS_MAX]).arg(name);
        limited
    } else {
        Command::new(name)
    };
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Cargo with arguments split at white space.
pub(crate) fn cargo(arguments: &str, folder: &Path) -> Command {
    let mut command = program("cargo", folder);
    command.args(arguments.split_whitespace());
    command
}

/// True where nobody watches: then tools must be there, and hangs are ended.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value != "false" && !value.is_empty())
}

/// True if cargo knows the subcommand.
pub(crate) fn has_cargo_subcommand(name: &str) -> bool {
    Command::new("cargo")
        .args([name, "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Runs a program, passing on what it prints.
///
/// # Errors
/// [`Failed`] if its exit status is not zero.
pub(crate) fn run(mut command: Command) -> Result<TestOutput> {
    let shown = show(&command);
    println!("$ {shown}");
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    // The command holds the pipe's writing ends: as long as it lives, reading does not end.
    drop(command);
    let output = pass_on(BufReader::new(reader))?;
    let status = child.wait()?;
    if status.success() { Ok(output) } else { bail!(Failed { command: shown, status, output }) }
}

fn pass_on(mut reader: impl BufRead) -> Result<TestOutput> {
    let mut output = TestOutput::default();
    let mut line = Vec::new();
    // What a panic says stands on the line behind the one that says where.
    let mut after_panic = false;
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        output.note(&text, after_panic);
        after_panic = is_panic(text.trim());
        line.clear();
    }
    Ok(output)
}

fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains(" panicked at ")
}

/// Whether a line names a test that failed, as nextest or libtest does, or where it panicked. A
/// runner shows a test's panics only if it failed.
fn tells_of_failure(line: &str) -> bool {
    let by_nextest =
        ["FAIL [", "TIMEOUT [", "LEAK-FAIL [", "SIG"].iter().any(|word| line.starts_with(word))
            && line.contains("] ");
    let by_libtest = line.starts_with("test ") && line.ends_with("... FAILED");
    by_nextest || by_libtest || is_panic(line) || line.starts_with("error: ")
}

/// The command as one would type it.
fn show(command: &Command) -> String {
    let words = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={:?}", name.display(), value?)))
        .chain(std::iter::once(command.get_program().display().to_string()))
        .chain(command.get_args().map(|argument| {
            let text = argument.to_string_lossy();
            if text.is_empty() || text.contains(char::is_whitespace) {
                format!("{text:?}")
            } else {
                text.into_owned()
            }
        }));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_both_streams_is_counted() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test result: ok. 2 passed; 0 failed; 0 ignored' >&2; echo other; \
             echo 'test result: FAILED. 1 passed; 3 failed; 0 ignored'",
        ]);
        let output = run(command).unwrap();
        assert_eq!(output.tally, Tally { passed: 3, failed: 3 });
        assert_eq!(output.closing_lines.len(), 2);
        assert!(output.failures.is_empty(), "{:?}", output.failures);
    }

    #[test]
    fn what_failed_is_kept_once_and_the_rest_is_not() {
        let printed = "\
            PASS [   0.011s] ( 1/9) types tests::first\n\
            FAIL [   0.012s] ( 2/9) types tests::second\n\
            thread 'tests::second' (71) panicked at types/src/lib.rs:3:9:\n\
            assertion failed: left == right\n\
            note: run with `RUST_BACKTRACE=1`\n\
            \x20   test result: FAILED. 0 passed; 1 failed; 0 ignored\n\
            TIMEOUT [ 600.012s] ( 3/9) types tests::third\n\
            test tests::fourth ... FAILED\n\
            test tests::fifth ... ok\n\
            FAIL [   0.012s] ( 2/9) types tests::second\n";
        let output = pass_on(printed.as_bytes()).unwrap();
        assert_eq!(output.tally.count(), 0, "nextest's summary is yet to come");
        let expected: Vec<&str> = [1, 2, 3, 6, 7]
            .iter()
            .map(|&index: &usize| printed.lines().nth(index).unwrap().trim())
            .collect();
        assert_eq!(output.failures, expected);
    }

    #[test]
    fn a_failure_names_the_command_and_keeps_its_tally() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: FAILED. 4 passed; 1 failed;'; exit 3"]);
        command.env("VARIABLE", "value");
        let error = run(command).unwrap_err();
        let failed = error.downcast_ref::<Failed>().unwrap();
        assert_eq!(failed.output.tally, Tally { passed: 4, failed: 1 });
        let text = error.to_string();
        assert!(text.starts_with("VARIABLE=\"value\" sh -c"), "{text}");
        assert!(text.ends_with("exit status: 3"), "{text}");
    }

    #[test]
    fn programs_that_do_not_exist_are_an_error() {
        let error = run(Command::new("no-such-program-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
    }
}
