//! A bounded queue between two threads: one producer, one consumer, no lock.
//!
//! Two counters run freely: `tail` counts what was pushed, `head` what was popped, and a value's
//! slot is its number modulo the capacity, a power of two. Each side keeps its own counter as a
//! plain field and a copy of the other's, which it reads afresh only when the copy says that the
//! ring is full (or empty). So in steady state a push or a pop touches one shared cache line
//! besides the value's: the one on which it publishes its counter. The copies are an idea of
//! FastForward and MCRingBuffer (Giacomoni et al., PPoPP 2008; Lee et al., ANCS 2009); `rtrb` is
//! built in the same way.
//!
//! # Invariants
//! - `head ≤ tail ≤ head + capacity`, in wrapping arithmetic. Only the producer writes `tail`, only
//!   the consumer writes `head`.
//! - The slots of `head..tail` hold values and belong to the consumer; the others are empty and
//!   belong to the producer. A counter's release store hands a slot over, its acquire load takes it.
//! - A side's copy of the other's counter is never ahead of the counter: the producer may see the
//!   ring fuller than it is, the consumer emptier, never the opposite.
//! - What was pushed before the producer was dropped can still be popped.
#![expect(unsafe_code, reason = "slots are shared between two threads without a lock")]

use std::fmt;
use std::mem::MaybeUninit;

use crate::sync::{Arc, AtomicBool, AtomicUsize, CachePadded, Ordering, UnsafeCell};

#[cfg(all(test, not(loom)))]
mod tests;

type Slot<T> = UnsafeCell<MaybeUninit<T>>;

/// What both sides see. `head` and `tail` have cache lines of their own; the rest is written when
/// the ring is made and when a side is dropped, so both cores keep a copy of its line.
struct Shared<T> {
    head: CachePadded<AtomicUsize>,
    tail: CachePadded<AtomicUsize>,
    /// A power of two of them.
    slots: Box<[Slot<T>]>,
    producer_dropped: AtomicBool,
    consumer_dropped: AtomicBool,
}

// SAFETY: a value moves from the producer's thread to the consumer's, hence `T: Send`. Threads
// never access one slot at the same time: the counters say whose it is (module invariants).
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; whichever side is dropped last drops the values that are left.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    fn slot(&self, position: usize) -> &Slot<T> {
        // SAFETY: the number of slots is a power of two, so the mask leaves an index below it.
        unsafe { self.slots.get_unchecked(position & (self.slots.len() - 1)) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if !std::mem::needs_drop::<T>() {
            return;
        }
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: `head..tail` holds values, and with both sides gone nobody else sees them.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// A ring that holds `capacity` values, rounded up to a power of two. All memory is allocated here.
///
/// # Panics
/// If `capacity` is zero or greater than the greatest power of two.
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    ring_from(capacity, 0)
}

/// The bytes that a [`ring`] takes; saturates.
pub(crate) fn ring_bytes<T>(capacity: usize) -> usize {
    let slots = capacity.checked_next_power_of_two().unwrap_or(usize::MAX);
    slots.saturating_mul(size_of::<Slot<T>>()).saturating_add(size_of::<Shared<T>>())
}

/// A ring whose counters begin at `start`, so that tests see them wrap around.
fn ring_from<T>(capacity: usize, start: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity > 0, "a ring of capacity zero passes nothing on");
    let capacity = capacity.checked_next_power_of_two().expect("capacity is a power of two");
    let shared = Arc::new(Shared {
        head: CachePadded(AtomicUsize::new(start)),
        tail: CachePadded(AtomicUsize::new(start)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        producer_dropped: AtomicBool::new(false),
        consumer_dropped: AtomicBool::new(false),
    });
    (
        Producer { shared: shared.clone(), tail: start, head_seen: start },
        Consumer { shared, head: start, tail_seen: start },
    )
}

/// The side of a [`ring`] that pushes.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
}

impl<T> Producer<T> {
    /// Appends `value`.
    ///
    /// # Errors
    /// Gives `value` back if the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.is_full() {
            return Err(value);
        }
        // SAFETY: the ring is not full, so the slot at `tail` is empty and the producer's own; the
        // acquire load that showed it free came after the consumer's last access to it.
        self.shared.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(value) });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// True if no value can be pushed. Reads the consumer's counter only if the ring was full when
    /// it was last read.
    #[inline]
    pub fn is_full(&mut self) -> bool {
        self.tail.wrapping_sub(self.head_seen) == self.capacity() && self.free() == 0
    }

    /// How many values can be pushed at least: the consumer may make room at any time.
    #[inline]
    pub fn free(&mut self) -> usize {
        self.head_seen = self.shared.head.0.load(Ordering::Acquire);
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// How many values the ring holds when full.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// The number of the value that is pushed next; numbers wrap around.
    pub(crate) fn position(&self) -> usize {
        self.tail
    }

    /// True if the consumer was dropped: what is pushed from now on is never popped.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.shared.consumer_dropped.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // Release: a consumer that sees this sees all that was pushed.
        self.shared.producer_dropped.store(true, Ordering::Release);
    }
}

/// The side of a [`ring`] that pops.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
}

impl<T> Consumer<T> {
    /// Takes the oldest value; `None` if the ring is empty.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: the ring is not empty, so the slot at `head` holds a value and is the consumer's;
        // the acquire load that showed it came after the producer's write. Moving `head` on gives
        // the slot up, so the value is read once.
        let value = self.shared.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// True if there is nothing to pop. Reads the producer's counter only if all that was there when
    /// it was last read has been popped.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.head == self.tail_seen && self.len() == 0
    }

    /// How many values can be popped at least: the producer may push more at any time.
    #[inline]
    pub fn len(&mut self) -> usize {
        self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
        self.tail_seen.wrapping_sub(self.head)
    }

    /// The number of the value that is popped next.
    pub(crate) fn position(&self) -> usize {
        self.head
    }

    /// Shows the oldest values, `count` of them or as many as there are, until `visit` returns false.
    pub(crate) fn peek_each(&mut self, count: usize, mut visit: impl FnMut(&T) -> bool) {
        for index in 0..count.min(self.len()) {
            let slot = self.shared.slot(self.head.wrapping_add(index));
            // SAFETY: the slot is one of `head..tail`, so it holds a value, and it is the consumer's
            // until `head` moves past it, which only this consumer does, later.
            if !slot.with(|slot| visit(unsafe { (*slot).assume_init_ref() })) {
                return;
            }
        }
    }

    /// True if the producer was dropped. Whatever it pushed can be popped by then, so a consumer
    /// that asks this first and then finds the ring empty has missed nothing.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.shared.producer_dropped.load(Ordering::Acquire)
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shared.consumer_dropped.store(true, Ordering::Release);
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("popped", &self.head).finish_non_exhaustive()
    }
}
