//! Processes by handles: a number may be another's a moment later, a handle is not.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::time::{Duration, Instant};

/// A handle of the process that has this number now.
pub(crate) fn handle(number: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// Waits for the end of a process; false if it has not ended by then.
pub(crate) fn ended_by(process: BorrowedFd<'_>, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::from_borrowed_fd(process, PollFlags::IN)], Some(&time(left))) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// As the system calls take it.
pub(crate) fn time(duration: Duration) -> Timespec {
    // No wait here is longer than a few seconds.
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

/// When the process with this number was started, in ticks since the machine was; none if there is
/// none, or it has ended and only its parent has not looked yet.
pub(crate) fn started(number: u32) -> Option<u64> {
    parse_started(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)
}

fn parse_started(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    // proc(5) counts from 1: field 3 is the state, field 22 the time.
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_start_is_read_behind_any_name() {
        let stat = |state| {
            format!("7 (a ) b) {state} 1 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 4711 9 9 9")
        };
        assert_eq!(parse_started(&stat("S")), Some(4711));
        assert_eq!(parse_started(&stat("Z")), None);
        assert_eq!(parse_started("7 (cut off"), None);
    }

    #[test]
    fn a_process_that_has_ended_has_no_start() {
        assert!(started(std::process::id()).is_some());
        let mut child = Command::new("true").spawn().unwrap();
        let process = handle(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(ended_by(rustix::fd::AsFd::as_fd(&process), deadline).unwrap());
        assert_eq!(started(child.id()), None);
        child.wait().unwrap();
        assert_eq!(started(child.id()), None);
    }
}
