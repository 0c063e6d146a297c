//! A task slot reduced to its sleep.

use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use millstream_network::{Doorbell, Wake};

/// A slot that sleeps longer has missed its wake-up.
const SLEEP_MAX: Duration = Duration::from_secs(60);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

/// The doorbell of a slot that runs on the thread `thread`.
pub fn doorbell_of(thread: Thread) -> Doorbell {
    Doorbell::new(Arc::new(Unpark(thread)))
}

/// Polls until something is found; in between, sleeps as a slot on the current thread does.
pub fn wait_for<T>(doorbell: &Doorbell, mut poll: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = poll() {
            return found;
        }
        doorbell.prepare_park();
        let found = poll();
        if found.is_none() {
            let asleep = Instant::now();
            thread::park_timeout(SLEEP_MAX);
            assert!(asleep.elapsed() < SLEEP_MAX, "a wake-up was lost");
        }
        doorbell.cancel_park();
        if let Some(found) = found {
            return found;
        }
    }
}
