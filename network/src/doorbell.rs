//! How a task slot that sleeps is woken.
//!
//! A slot may sleep only when none of its inputs holds anything. Those who feed it do not know
//! whether it sleeps, and a system call per element to wake a slot that is awake would cost more
//! than the element. So the slot says in a shared flag when it is about to sleep:
//!
//! | the slot, about to park | who feeds it |
//! |---|---|
//! | 1. set `parked` | 1. change the input: push, give back a credit, disconnect |
//! | 2. sequentially consistent fence | 2. sequentially consistent fence |
//! | 3. look at every input once more | 3. read `parked`; if set, clear it and wake the slot |
//! | 4. sleep, unless 3 found something | |
//!
//! # Invariant: no wake-up is lost
//! The fences are in one total order. If the feeder's comes first, step 3 of the slot sees the
//! input. If the slot's comes first, step 3 of the feeder sees the flag. Whoever clears the flag
//! wakes the slot, and the wake-up is remembered until the slot sleeps (see [`Wake`]). Hence a slot
//! never sleeps for good with something to do. It may wake with nothing to do: a feeder that saw the
//! flag may come late, when the slot has found the input by itself.
//!
//! A burst of elements needs one fence, and a sleep needs one system call, however many feed it.

use std::fmt;
use std::sync::Arc;

use crate::sync::{AtomicBool, CachePadded, Ordering, fence};

/// Ends the sleep of a task slot: a write to the eventfd on which its executor waits, for example.
pub trait Wake: Send + Sync {
    /// Lets the slot's sleep, or if it does not sleep its next one, return at once. Called by any
    /// thread; may be called without need.
    ///
    /// What happened before this call must be visible after the sleep, as it is with every system
    /// call and every lock.
    fn wake(&self);
}

/// The doorbell of one task slot. A clone is another handle of the same one.
#[derive(Clone)]
pub struct Doorbell {
    bell: Arc<Bell>,
}

struct Bell {
    /// Read by every feeder after every burst, written only around a sleep.
    parked: CachePadded<AtomicBool>,
    wake: Arc<dyn Wake>,
}

impl Doorbell {
    /// The doorbell of a slot which is awake and which `wake` wakes.
    pub fn new(wake: Arc<dyn Wake>) -> Self {
        Self { bell: Arc::new(Bell { parked: CachePadded(AtomicBool::new(false)), wake }) }
    }

    /// Wakes the slot if it sleeps or is about to. Called by those who feed it, after they did.
    ///
    /// Costs a fence and the read of a line that rarely changes, unless the slot sleeps.
    #[inline]
    pub fn ring_if_parked(&self) {
        fence(Ordering::SeqCst);
        if self.bell.parked.0.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        // Relaxed: only that one feeder alone clears the flag matters, `wake` orders the rest.
        if self.bell.parked.0.swap(false, Ordering::Relaxed) {
            self.bell.wake.wake();
        }
    }

    /// The slot is about to sleep. It must then look at all that it waits for once more, and sleep
    /// only if there is nothing; after that, whether it slept or not, it calls
    /// [`cancel_park`](Self::cancel_park).
    #[inline]
    pub fn prepare_park(&self) {
        // A plain store would do: it cannot fall between what the swap in `ring` reads and what it
        // writes. Loom's model lets it, and calls that a lost wake-up; before a sleep the dearer
        // instruction costs nothing.
        self.bell.parked.0.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The slot is awake, so nobody needs to wake it.
    #[inline]
    pub fn cancel_park(&self) {
        self.bell.parked.0.store(false, Ordering::Relaxed);
    }

    /// True if both are handles of the same slot's doorbell.
    #[inline]
    pub fn is_same_slot(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bell, &other.bell)
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell")
            .field("parked", &self.bell.parked.0.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
