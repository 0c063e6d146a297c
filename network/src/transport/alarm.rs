//! What wakes a slot that waits in its ring.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Ends a [wait](super::Transport::wait) from any thread, the one after if there is none now.
#[derive(Clone, Debug)]
pub struct Alarm(Arc<OwnedFd>);

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    /// Rings. Complexity: one system call.
    pub fn ring(&self) {
        // It fails only where the counter is full, so that it rings all the same.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }

    pub(super) fn silence(&self) {
        // An error means that it is silent.
        let _ = read(&self.0, &mut [0; 8]);
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
