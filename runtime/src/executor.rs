//! Slots' threads: each is one glommio executor, pinned to a core where there is one to spare.
//!
//! This is the only place that names glommio. A slot runs one task, its loop ([`crate::slot`]);
//! what the loop needs of the executor is here: to park until somebody wakes it or a deadline
//! comes.
//!
//! # Invariant: the preempt timer never fires
//! Up to its release 0.12 an executor whose preempt timer fires after it has taken a wake-up, and
//! before it runs the task that this woke, takes "preempted" for "nothing to run", and sleeps on it
//! for good. A slot that the kernel keeps off its core for longer than the timer gets there. So the
//! timer is set to what no slot is kept off a core for. The other event that preempts, a foreign
//! wake-up, is harmless: the executor does not sleep before it has armed itself for the next one.
//!
//! The loop does not yield: it is the executor's only task. One that is to run beside it must be let
//! in by a wait on a short [`Timer`], which empties the run queue.

use crate::error::JobError;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, timer::Timer};
use millstream_network::Wake;
use millstream_network::transport::Alarm;
use millstream_tuning::SLOT_IO_MEMORY_BYTES;
use millstream_types::SlotIndex;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Longer than any slot is kept off its core: see the invariant above.
const PREEMPT_INTERVAL: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const RING_DEPTH: usize = 32;

/// Where a slot's loop parks, and how it is woken from other threads.
#[derive(Default)]
pub(crate) struct ParkingLot {
    parked: Mutex<Parked>,
    /// Rung too, for a slot that waits in a ring of its own.
    alarm: OnceLock<Alarm>,
}

#[derive(Default)]
struct Parked {
    /// Somebody called `wake` since the last park ended.
    woken: bool,
    waker: Option<Waker>,
}

impl Wake for ParkingLot {
    fn wake(&self) {
        let waker = {
            let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
            parked.woken = true;
            parked.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if let Some(alarm) = self.alarm.get() {
            alarm.ring();
        }
    }
}

impl ParkingLot {
    /// From now on the slot waits for this alarm.
    pub(crate) fn ring(&self, alarm: Alarm) {
        // A slot has one.
        let _ = self.alarm.set(alarm);
    }

    /// Returns once `wake` was called (maybe before), or after `timeout`.
    pub(crate) async fn park(&self, timeout: Option<Duration>) {
        let mut timer = pin!(async {
            match timeout {
                Some(timeout) => {
                    Timer::new(timeout).await;
                }
                None => std::future::pending().await,
            }
        });
        poll_fn(|context| {
            {
                let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
                if std::mem::take(&mut parked.woken) {
                    parked.waker = None;
                    return Poll::Ready(());
                }
                parked.waker = Some(context.waker().clone());
            }
            timer.as_mut().poll(context)
        })
        .await;
    }
}

/// A slot's thread.
pub(crate) struct SlotThread(ExecutorJoinHandle<()>);

impl SlotThread {
    /// Starts a thread, pinned to `core` if one is given, on which `run`'s future runs.
    pub(crate) fn spawn<F>(
        slot: SlotIndex,
        core: Option<usize>,
        run: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, JobError>
    where
        F: Future<Output = ()> + 'static,
    {
        let placement = core.map_or(Placement::Unbound, Placement::Fixed);
        LocalExecutorBuilder::new(placement)
            .name(&format!("slot-{slot}"))
            .io_memory(SLOT_IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT_INTERVAL)
            .spawn(run)
            .map(Self)
            .map_err(|error| JobError::Executor { slot: slot.0, message: error.to_string() })
    }

    /// Waits for the thread's end.
    pub(crate) fn join(self, slot: SlotIndex) -> Result<(), JobError> {
        self.0
            .join()
            .map_err(|error| JobError::Executor { slot: slot.0, message: error.to_string() })
    }
}

/// A parking lot to be shared with those who wake it.
pub(crate) fn parking_lot() -> Arc<ParkingLot> {
    Arc::new(ParkingLot::default())
}
