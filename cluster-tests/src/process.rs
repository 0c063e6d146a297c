//! A process that is killed and reaped, whatever happens.

use crate::about::About;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long anything may take before it counts as hanging: far beyond what it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// From one look to the next.
const PAUSE: Duration = Duration::from_micros(200);

/// Looks until there is something.
///
/// # Errors
/// If there is nothing by the [`DEADLINE`], or a look fails.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    look_again(what, PAUSE, look)
}

/// As [`until`], without a pause: for what is over within a millisecond.
///
/// # Errors
/// As [`until`].
pub(crate) fn until_at_once<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    look_again(what, Duration::ZERO, look)
}

#[expect(clippy::disallowed_methods, reason = "between two looks, with a deadline")]
fn look_again<T>(
    what: &str,
    pause: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > DEADLINE {
            bail!("after {DEADLINE:?} still not: {what}");
        }
        std::thread::sleep(pause);
    }
}

/// A running process. It ends with this value at the latest.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("{command:?} cannot be started"))?;
        Ok(Self { child })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end by the [`DEADLINE`]: it is killed then.
    pub fn wait(mut self) -> Result<ExitStatus> {
        until("the end of a process", || self.ended())
    }

    /// What the system tells about it.
    pub fn about(&self) -> About {
        About(self.id())
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// Stops it in its tracks (SIGSTOP) until [`Process::go_on`]: to its peers it is silent, and its
    /// connections stay open. No thread of it runs any more when this returns.
    ///
    /// # Errors
    /// If it has ended, or does not stop by the [`DEADLINE`].
    pub fn pause(&mut self) -> Result<()> {
        self.signal_and_see(Signal::STOP, WaitIdOptions::STOPPED)
    }

    /// Lets it run again after [`Process::pause`] (SIGCONT).
    ///
    /// # Errors
    /// If it has ended, or was not paused.
    pub fn go_on(&mut self) -> Result<()> {
        self.signal_and_see(Signal::CONT, WaitIdOptions::CONTINUED)
    }

    /// Sends a signal and waits until the system reports what it does.
    fn signal_and_see(&mut self, signal: Signal, report: WaitIdOptions) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        let mut sent = false;
        until("the effect of a signal", || {
            if let Some(status) = self.ended()? {
                bail!("the process has ended with {status}");
            }
            // Not before: the number of one that has ended may be another's by now.
            if !std::mem::replace(&mut sent, true) {
                kill_process(pid, signal)?;
            }
            // The end of the process is not asked for here, so that it stays for `ended`.
            let seen = waitid(WaitId::Pid(pid), report | WaitIdOptions::NOHANG)?;
            Ok(seen.map(|_| ()))
        })
    }

    /// Sends SIGKILL and waits for nothing.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn begin_to_kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }

    /// Kills it (SIGKILL). How it ended tells whether it was still there.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or the test has failed and says something else.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{ChildStdin, Stdio};
    use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

    /// How long silence is listened to.
    const SILENCE: Duration = Duration::from_millis(200);

    /// A process that says each line again.
    fn echo() -> Result<(Process, ChildStdin, Receiver<String>)> {
        let mut command = Command::new("cat");
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = process.child.stdin.take().context("its input")?;
        let output = process.child.stdout.take().context("its output")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        Ok((process, input, receiver))
    }

    #[test]
    fn a_paused_process_is_silent_until_it_goes_on() -> Result<()> {
        let (mut process, mut input, output) = echo()?;
        for round in ["first", "second"] {
            writeln!(input, "{round}, running")?;
            assert_eq!(output.recv_timeout(DEADLINE)?, format!("{round}, running"));
            process.pause()?;
            writeln!(input, "{round}, paused")?;
            assert_eq!(output.recv_timeout(SILENCE), Err(RecvTimeoutError::Timeout));
            assert!(process.ended()?.is_none());
            process.go_on()?;
            assert_eq!(output.recv_timeout(DEADLINE)?, format!("{round}, paused"));
        }
        drop(input);
        assert!(process.wait()?.success());
        Ok(())
    }

    #[test]
    fn a_paused_process_can_be_killed() -> Result<()> {
        let (mut process, _input, _output) = echo()?;
        process.pause()?;
        assert_eq!(process.kill()?.signal(), Some(Signal::KILL.as_raw()));
        Ok(())
    }

    #[test]
    fn a_process_that_has_ended_is_not_paused() -> Result<()> {
        let mut process = Process::start(&mut Command::new("true"))?;
        until("its end", || process.ended())?;
        assert!(process.pause().is_err());
        Ok(())
    }
}
