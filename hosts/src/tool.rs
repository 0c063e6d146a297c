//! Runs the system's own programs, each for a limited time.

use crate::error::HostsError;
use crate::process;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take: far beyond what any of them takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Runs a program that reads what to do from its standard input.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<(), HostsError> {
    run_within(LIMIT, command, input)
}

fn run_within(limit: Duration, command: &mut Command, input: &str) -> Result<(), HostsError> {
    let program = words(command);
    let start = |source| HostsError::Start { program: program.clone(), source };
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    if !ends(&child, limit).unwrap_or(false) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(HostsError::Hangs { program, limit });
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(HostsError::Failed { program, status: output.status, said, input: input.to_owned() })
}

/// True if the child has ended within this time.
fn ends(child: &Child, limit: Duration) -> std::io::Result<bool> {
    let process = process::handle(child.id())?;
    Ok(process::ended_by(process.as_fd(), Instant::now() + limit)?)
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_given_its_input_and_its_failure_is_told() {
        run(&mut Command::new("cat"), "words\n").unwrap();
        let error = run(Command::new("sh").args(["-s"]), "echo no such thing >&2; exit 3\n");
        let words = error.unwrap_err().to_string();
        assert!(words.contains("exit status: 3: no such thing"), "{words}");
        assert!(words.starts_with("sh -s: "), "{words}");
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let begun = Instant::now();
        let error = run_within(Duration::from_millis(20), Command::new("sleep").arg("600"), "")
            .unwrap_err();
        assert!(matches!(error, HostsError::Hangs { .. }), "{error}");
        assert!(begun.elapsed() < LIMIT);
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&mut Command::new("no-such-program"), "").unwrap_err();
        assert!(matches!(error, HostsError::Start { .. }), "{error}");
        assert!(error.to_string().contains("no-such-program"));
    }
}
