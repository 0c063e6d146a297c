//! Threads for what may block, so that slots never do.
//!
//! # Invariants
//! - An [`IoThread`] outlives none of its owner: dropping it stops and joins the thread.
//! - What may wait without bound (a pipe, a terminal, a socket) is waited for together with the
//!   owner's stop signal, so that the join is short. Regular files are not: their reads and writes
//!   end by themselves.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that may be written to a pipe at once without blocking when it polls as writable
/// (`PIPE_BUF`, pipe(7)); whole lines up to this size are also atomic.
const PIPE_WRITE_BYTES: usize = 4096;

/// A thread that is stopped and joined on drop.
pub(crate) struct IoThread {
    stop: Option<PipeWriter>,
    handle: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Runs `body` on a thread of its own, on any of the process's cores: a thread inherits its
    /// creator's affinity, and the creator is a slot pinned to one core.
    pub(crate) fn spawn(
        name: &str,
        body: impl FnOnce(Stop) + Send + 'static,
    ) -> Result<Self, io::Error> {
        let (reader, writer) = io::pipe()?;
        let handle = Builder::new().name(name.to_owned()).spawn(move || {
            unpin();
            body(Stop(Arc::new(reader)));
        })?;
        Ok(Self { stop: Some(writer), handle: Some(handle) })
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(handle) = self.handle.take() {
            // A panic was printed by its hook, and the owner sees a closed channel.
            let _ = handle.join();
        }
    }
}

/// Gives this thread the affinity of the process's main thread. A failure leaves it on its
/// creator's core, which is slower and nothing else.
fn unpin() {
    if let Ok(cores) = rustix::thread::sched_getaffinity(Some(rustix::process::getpid())) {
        let _ = rustix::thread::sched_setaffinity(None, &cores);
    }
}

/// The thread's side of the stop signal: its descriptor hangs up when the owner is dropped.
#[derive(Clone)]
pub(crate) struct Stop(Arc<PipeReader>);

impl Stop {
    /// True if the owner is gone.
    pub(crate) fn is_set(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(1..))
    }

    /// Waits until `fd` is ready for `events`, has failed or was hung up, at most for `timeout`.
    /// With several at once, `fd` wins.
    pub(crate) fn wait(
        &self,
        fd: impl AsFd,
        events: PollFlags,
        timeout: Option<Duration>,
    ) -> io::Result<Wait> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
            });
            let fd = fd.as_fd();
            let mut fds = [PollFd::new(&fd, events), PollFd::new(&*self.0, PollFlags::IN)];
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(Wait::TimedOut),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Wait::Ready),
                Ok(_) => return Ok(Wait::Stopped),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The descriptor is ready.
    Ready,
    /// The owner is gone.
    Stopped,
    TimedOut,
}

/// Reads from what may wait without bound. Ends early, as at the end of the input, once the owner
/// is gone: nobody is left who could take it for the real end.
pub(crate) struct StoppableRead<R> {
    inner: R,
    stop: Stop,
}

impl<R: Read + AsFd> StoppableRead<R> {
    pub(crate) fn new(inner: R, stop: Stop) -> Self {
        Self { inner, stop }
    }
}

impl<R: Read + AsFd> Read for StoppableRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.stop.is_set()
            && self.stop.wait(&self.inner, PollFlags::IN, None)? == Wait::Ready
        {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
        Ok(0)
    }
}

/// Writes all of `bytes` to what may wait without bound; false if the owner went away while
/// nothing more could be written.
///
/// Every single write consists of whole lines if they are short enough, so that subtasks that
/// share a terminal or a pipe do not tear each other's lines.
pub(crate) fn write_stoppable<W: Write + AsFd>(
    output: &mut W,
    mut bytes: &[u8],
    stop: &Stop,
) -> io::Result<bool> {
    use io::ErrorKind::{Interrupted, WouldBlock};
    while !bytes.is_empty() {
        if stop.wait(&*output, PollFlags::OUT, None)? == Wait::Stopped {
            return Ok(false);
        }
        let most = &bytes[..bytes.len().min(PIPE_WRITE_BYTES)];
        let lines = memchr::memrchr(b'\n', most).map_or(most.len(), |newline| newline + 1);
        match output.write(&bytes[..lines]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if matches!(error.kind(), Interrupted | WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
