//! Ctrl-C and SIGTERM.

use millstream::Canceller;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether the process was asked to stop.
///
/// The first SIGINT or SIGTERM stops the job that runs (cancels it if it takes no checkpoints) and raises a flag, for what a program does
/// between jobs. The second ends the process at once, with code 130.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    raised: AtomicBool,
    job: Mutex<Option<Canceller>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("raised", &self.raised).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Listens to signals for the rest of the process. Without, with a warning, where the process
    /// does not let handlers be installed.
    pub fn install() -> Self {
        let interrupt = Self::default();
        let shared = Arc::clone(&interrupt.shared);
        let listening = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
            std::thread::Builder::new()
                .name("signals".into())
                .spawn(move || signals.forever().for_each(|_| shared.raise()))
        });
        if let Err(error) = listening {
            tracing::warn!("Ctrl-C will not stop the program cleanly: {error}");
        }
        interrupt
    }

    /// Whether a signal has come.
    pub fn is_raised(&self) -> bool {
        self.shared.raised.load(Ordering::SeqCst)
    }

    /// Stops this job, instead of any before it, when a signal comes; at once if one has come.
    pub fn cancel(&self, job: Canceller) {
        let mut current = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_raised() {
            job.interrupt();
        }
        *current = Some(job);
    }
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "asked twice to stop, it must, whatever is left")]
    fn raise(&self) {
        // Under the lock, so that a job which is being registered is not missed.
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if self.raised.swap(true, Ordering::SeqCst) {
            std::process::exit(crate::Exit::Cancelled.code().into());
        }
        if let Some(job) = &*job {
            job.interrupt();
        }
    }
}
