//! Ctrl-C and SIGTERM stop the job that runs, the second time cancel it.

use millstream_runtime::job::Canceller;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::thread::JoinHandle;

/// Ends the watch when it is dropped.
pub(crate) struct SignalGuard {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// Stops the job at the first SIGINT or SIGTERM, and cancels it at the second, until the guard is dropped. `None`, with a
/// warning, if the process does not let handlers be installed.
pub(crate) fn cancel_on_signal(canceller: Canceller) -> Option<SignalGuard> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .inspect_err(|error| tracing::warn!("Ctrl-C will not stop the job cleanly: {error}"))
        .ok()?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                canceller.interrupt();
            }
        })
        .inspect_err(|error| tracing::warn!("Ctrl-C will not stop the job cleanly: {error}"))
        .ok()?;
    Some(SignalGuard { handle, thread: Some(thread) })
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // The thread only ever calls `cancel`, which does not panic.
            let _ = thread.join();
        }
    }
}
