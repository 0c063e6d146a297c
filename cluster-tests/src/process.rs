//! A process that is killed and reaped, whatever happens.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
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

    /// Asks it to stop (SIGTERM).
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
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
