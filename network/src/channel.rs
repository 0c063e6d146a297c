//! A channel between two subtasks: elements one way, emptied batches the other way.
//!
//! **A credit is an empty batch.** A channel has a fixed number of credits. The sender
//! [acquires](Sender::acquire) an empty batch, fills it and [sends](Sender::send) it; the receiver
//! consumes it and [gives it back](Receiver::give_back), and the sender fills it again. So there is
//! no credit message to announce and, once the batches exist, nothing to allocate. A slow receiver
//! leaves the sender without a batch, and thereby stops it.
//!
//! **A sender never blocks.** Signals (watermarks, barriers and so on) use no credit but, like
//! batches, a slot of the ring. What finds the ring full waits in the sender's overflow queue. A
//! subtask asks [`Sender::is_blocked`] before it takes more input, so the overflow holds no more
//! than one input element expands to.
//!
//! To pass on a batch that another channel delivered, exchange it for an acquired one
//! (`std::mem::swap`): then send the full one here, and give the empty one back there.
//!
//! **A barrier may overtake** ([`Sender::overtake`]): then it does not stand in the ring, but beside
//! it, with the number of the element that it precedes. What stands before that one belongs to the
//! snapshot (FLIP-76). The receiver looks for such a barrier after each element that it takes.
//!
//! # Invariants
//! - Elements are received in the order in which they were sent. Only a watermark directly followed
//!   by another may be left out.
//! - Who has received an element can see every barrier that overtook and was sent before it: the
//!   barrier is published before the element is.
//! - Every batch is with the sender's subtask, in flight, with the receiver's subtask, or on its way
//!   back, and there are at most as many as credits. The ends assert it: nothing is sent that was not
//!   acquired, nothing is given back that was not received.
//! - The receiver's doorbell is rung after the last send of a burst ([`Sender::notify`]); the
//!   sender's after each signal that is received and each batch that is given back. The end that is dropped rings the other's. If
//!   both ends are on one slot nothing rings: a slot looks at all its channels before it sleeps.
//! - Neither end waits for a peer that is gone: each can see that the other was dropped.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use millstream_types::{Barrier, Batch, Element};

use crate::doorbell::Doorbell;
use crate::ring::{Consumer, Producer, ring, ring_bytes};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

#[cfg(all(test, not(loom)))]
mod tests;

/// The ring has room for the batches and as many signals between them; what is more overflows.
const SLOTS_PER_CREDIT: usize = 2;

/// A channel with `credits` batches, between a subtask on `sender_slot` and one on `receiver_slot`.
///
/// # Panics
/// If `credits` is zero: such a channel passes no record on.
pub fn channel<B: Batch>(
    credits: usize,
    sender_slot: &Doorbell,
    receiver_slot: &Doorbell,
) -> (Sender<B>, Receiver<B>) {
    assert!(credits > 0, "a channel needs one credit at least");
    let (elements_in, elements_out) = ring(credits.saturating_mul(SLOTS_PER_CREDIT));
    let (returns_in, returns_out) = ring(credits);
    let beside = Arc::new(Beside::default());
    let apart = !sender_slot.is_same_slot(receiver_slot);
    let peer = |slot: &Doorbell| PeerBell(apart.then(|| slot.clone()));
    let sender = Sender {
        elements: elements_in,
        returns: returns_out,
        beside: beside.clone(),
        overflow: VecDeque::new(),
        credits,
        created: 0,
        held: 0,
        unannounced: false,
        stats: ChannelStats::default(),
        blocked_since: None,
        receiver_bell: peer(receiver_slot),
    };
    let receiver = Receiver {
        elements: elements_out,
        returns: returns_in,
        beside,
        held: 0,
        ended: false,
        sender_bell: peer(sender_slot),
    };
    (sender, receiver)
}

/// The bytes that a channel with `credits` takes before any batch is made; saturates.
pub fn channel_bytes<B: Batch>(credits: usize) -> usize {
    let elements = ring_bytes::<Element<B>>(credits.saturating_mul(SLOTS_PER_CREDIT));
    let ends = size_of::<Sender<B>>() + size_of::<Receiver<B>>();
    elements.saturating_add(ring_bytes::<B>(credits)).saturating_add(ends)
}

/// The doorbell of the other end's slot, if that is another slot. It is rung when dropped too: as an
/// end's last field, it tells the peer that the end's rings are closed.
struct PeerBell(Option<Doorbell>);

impl PeerBell {
    #[inline]
    fn ring(&self) {
        if let Some(doorbell) = &self.0 {
            doorbell.ring_if_parked();
        }
    }
}

impl Drop for PeerBell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// The barriers that overtake and have not been taken. They are rare, hence a lock; the flag spares
/// the receiver all but a look at a line of the cache that nobody writes.
#[derive(Default)]
struct Beside {
    any: AtomicBool,
    barriers: Mutex<VecDeque<(Barrier, usize)>>,
}

/// A barrier that has overtaken what was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overtaking {
    /// The barrier.
    pub barrier: Barrier,
    /// The element that was received last had been sent before the barrier.
    pub includes_last: bool,
    /// As many of those that wait to be received had been sent before it.
    pub waiting: usize,
}

/// What a [`Sender`] has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelStats {
    /// Batches sent, those that still overflow included.
    pub batches: u64,
    /// Records in those batches.
    pub records: u64,
    /// How often [`Sender::is_blocked`] returned true.
    pub blocked_checks: u64,
    /// How long the sender was blocked, as seen by calls of [`Sender::is_blocked`]: its share of the
    /// elapsed time is the backpressure on this channel.
    pub blocked_time: Duration,
}

/// The sending end of a [`channel`].
///
/// Dropping it without having sent [`Element::EndOfInput`] tells the receiver that its subtask
/// failed. What overflows is dropped with it, so a subtask that finishes keeps its senders until
/// [`Sender::flush_overflow`] returns true.
pub struct Sender<B: Batch> {
    elements: Producer<Element<B>>,
    returns: Consumer<B>,
    beside: Arc<Beside>,
    /// Younger than all that is in the ring.
    overflow: VecDeque<Element<B>>,
    credits: usize,
    /// Batches that exist.
    created: usize,
    /// Batches that the subtask has acquired and not sent.
    held: usize,
    /// Something was pushed since the receiver's doorbell was rung.
    unannounced: bool,
    stats: ChannelStats,
    blocked_since: Option<Instant>,
    /// Last: it rings once the rings are closed.
    receiver_bell: PeerBell,
}

impl<B: Batch> Sender<B> {
    /// An empty batch to fill: one that came back, else one that `make` makes, else (all credits are
    /// in use) `None`.
    ///
    /// A subtask that gets `None` in the middle of an input batch keeps filling the batch that it has:
    /// it grows by what that input expands to, and no more input is taken while the sender is
    /// [blocked](Self::is_blocked). A batch that is dropped instead of sent takes its credit with it.
    #[inline]
    pub fn acquire(&mut self, make: impl FnOnce() -> B) -> Option<B> {
        let batch = match self.returns.pop() {
            Some(batch) => batch,
            None if self.created < self.credits => {
                self.created += 1;
                make()
            }
            None => return None,
        };
        self.held += 1;
        Some(batch)
    }

    /// Sends `element`; the receiver's slot hears of it at the next [`notify`](Self::notify).
    ///
    /// If the ring is full the element overflows, and is discarded if the receiver is gone.
    ///
    /// # Panics
    /// If more batches are sent than were acquired.
    #[inline]
    pub fn send(&mut self, element: Element<B>) {
        if let Element::Batch(batch) = &element {
            assert!(self.held > 0, "a batch was sent that was not acquired from this channel");
            self.held -= 1;
            self.stats.batches += 1;
            self.stats.records += batch.len() as u64;
        }
        if !self.flush_overflow() {
            return self.overflow(element);
        }
        match self.elements.push(element) {
            Ok(()) => self.unannounced = true,
            Err(element) => self.overflow(element),
        }
    }

    /// Sends a barrier ahead of everything that has not been received. What is in the ring the receiver
    /// finds there; what it has overtaken on this side is returned, in order. All of that is received
    /// as ever, after the barrier.
    pub fn overtake(&mut self, barrier: Barrier) -> impl Iterator<Item = &Element<B>> {
        self.flush_overflow();
        let position = self.elements.position();
        // Nothing panics while the lock is held.
        let mut barriers = self.beside.barriers.lock().unwrap_or_else(|lock| lock.into_inner());
        barriers.push_back((barrier, position));
        self.beside.any.store(true, Ordering::Release);
        drop(barriers);
        self.unannounced = true;
        self.overflow.iter()
    }

    #[cold]
    fn overflow(&mut self, element: Element<B>) {
        if self.elements.is_closed() {
            self.overflow.clear();
            return;
        }
        match (self.overflow.back_mut(), &element) {
            (Some(Element::Watermark(last)), Element::Watermark(newer)) => *last = *newer,
            _ => self.overflow.push_back(element),
        }
    }

    /// Moves what overflows into the ring as far as there is room. True if nothing is left.
    #[inline]
    pub fn flush_overflow(&mut self) -> bool {
        self.overflow.is_empty() || self.flush_some()
    }

    #[cold]
    fn flush_some(&mut self) -> bool {
        if self.elements.is_closed() {
            self.overflow.clear();
        }
        while !self.elements.is_full() {
            let Some(element) = self.overflow.pop_front() else { return true };
            let pushed = self.elements.push(element);
            assert!(pushed.is_ok(), "a ring filled up without its producer");
            self.unannounced = true;
        }
        self.overflow.is_empty()
    }

    /// Wakes the receiver's slot if it sleeps and anything was sent since the last call. Called at
    /// the end of each burst, at the latest before the subtask yields: until then a sleeping receiver
    /// does not know.
    #[inline]
    pub fn notify(&mut self) {
        if self.unannounced {
            self.unannounced = false;
            self.receiver_bell.ring();
        }
    }

    /// True if the subtask must take no more input: something overflows, or no empty batch is left to
    /// acquire. A batch that the subtask holds does not count as left, so a subtask sends what it holds
    /// before it waits for an empty one.
    ///
    /// Flushes the overflow as far as it can, and measures the time between the first call that
    /// returned true and the next that returned false. The sender's slot is woken when this may have
    /// become false, and when the receiver [is gone](Self::is_disconnected): then it may stay true.
    #[inline]
    pub fn is_blocked(&mut self) -> bool {
        let blocked = !self.flush_overflow() || !self.has_credit();
        if blocked || self.blocked_since.is_some() {
            self.count_blocked(blocked);
        }
        blocked
    }

    #[cold]
    fn count_blocked(&mut self, blocked: bool) {
        if blocked {
            self.stats.blocked_checks += 1;
            self.blocked_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.blocked_since.take() {
            self.stats.blocked_time += since.elapsed();
        }
    }

    /// True if [`acquire`](Self::acquire) would return a batch.
    #[inline]
    pub fn has_credit(&mut self) -> bool {
        self.created < self.credits || !self.returns.is_empty()
    }

    /// True if the receiver was dropped: nothing that is sent will be read.
    #[inline]
    pub fn is_disconnected(&self) -> bool {
        self.elements.is_closed()
    }

    /// How many elements wait to be received, those that overflow included.
    pub fn queued(&mut self) -> usize {
        self.elements.capacity() - self.elements.free() + self.overflow.len()
    }

    /// How many batches are acquired, in flight or with the receiver; at most the channel's credits.
    pub fn batches_out(&mut self) -> usize {
        self.created - self.returns.len()
    }

    /// What was counted so far; the time blocked includes the present wait.
    pub fn stats(&self) -> ChannelStats {
        let waiting = self.blocked_since.map_or(Duration::ZERO, |since| since.elapsed());
        ChannelStats { blocked_time: self.stats.blocked_time + waiting, ..self.stats }
    }
}

/// The receiving end of a [`channel`]. Dropping it tells the sender that nobody reads any more.
pub struct Receiver<B: Batch> {
    elements: Consumer<Element<B>>,
    returns: Producer<B>,
    beside: Arc<Beside>,
    /// Batches that were received and not given back.
    held: usize,
    ended: bool,
    /// Last: it rings once the rings are closed.
    sender_bell: PeerBell,
}

impl<B: Batch> Receiver<B> {
    /// The next element; `None` if none has arrived, which costs one load.
    ///
    /// Each batch must be [given back](Self::give_back), or the sender is short of a credit for good.
    #[inline]
    pub fn receive(&mut self) -> Option<Element<B>> {
        let element = self.elements.pop()?;
        match &element {
            // Its slot of the ring is announced together with its credit.
            Element::Batch(_) => self.held += 1,
            signal => {
                self.ended |= matches!(signal, Element::EndOfInput);
                // The sender may wait for this slot. A batch's slot alone needs no bell: at most half
                // of a full ring is batches, so a signal is received before the ring runs empty.
                self.sender_bell.ring();
            }
        }
        Some(element)
    }

    /// True if a barrier has overtaken. To be asked after every [`receive`](Self::receive), whatever
    /// it returned, before its element is looked at.
    #[inline]
    pub fn has_overtaking(&self) -> bool {
        self.beside.any.load(Ordering::Acquire)
    }

    /// The oldest barrier that has overtaken and was not taken yet.
    #[cold]
    pub fn take_overtaking(&mut self) -> Option<Overtaking> {
        let mut barriers = self.beside.barriers.lock().unwrap_or_else(|lock| lock.into_inner());
        let oldest = barriers.pop_front();
        // Under the lock, as it is raised: it tells whether there are any.
        self.beside.any.store(!barriers.is_empty(), Ordering::Release);
        drop(barriers);
        let (barrier, position) = oldest?;
        // The barrier was looked for after each element: at most one is ahead of it.
        let ahead = position.wrapping_sub(self.elements.position()) as isize;
        debug_assert!(ahead >= -1, "a barrier was not looked for after an element");
        Some(Overtaking {
            barrier,
            includes_last: ahead >= 0,
            waiting: usize::try_from(ahead).unwrap_or(0),
        })
    }

    /// Shows the elements that wait to be received, the oldest `count` of them, until `visit` returns
    /// false.
    pub fn peek_each(&mut self, count: usize, visit: impl FnMut(&Element<B>) -> bool) {
        self.elements.peek_each(count, visit);
    }

    /// Clears `batch` and returns it to the sender, whose slot is woken if it sleeps; drops it if the
    /// sender is gone. It need not be the batch that was received, but one for each that was.
    ///
    /// # Panics
    /// If more batches are given back than were received.
    #[inline]
    pub fn give_back(&mut self, mut batch: B) {
        assert!(self.held > 0, "a batch was given back that this channel did not deliver");
        self.held -= 1;
        if self.returns.is_closed() {
            return;
        }
        batch.clear();
        let returned = self.returns.push(batch);
        assert!(returned.is_ok(), "more batches were given back than the channel has credits");
        self.sender_bell.ring();
    }

    /// True if no element waits to be received. For the last look before a slot sleeps, together with
    /// [`is_disconnected`](Self::is_disconnected).
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.elements.is_empty()
    }

    /// True if the sender was dropped without an [`Element::EndOfInput`], so its subtask failed, and
    /// all that it had sent was received.
    #[inline]
    pub fn is_disconnected(&mut self) -> bool {
        // In this order: what a closed ring holds is final.
        !self.ended && self.elements.is_closed() && self.elements.is_empty()
    }

    /// How many elements wait in the ring.
    pub fn queued(&mut self) -> usize {
        self.elements.len()
    }
}

impl<B: Batch> fmt::Debug for Sender<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("credits", &self.credits)
            .field("created", &self.created)
            .field("held", &self.held)
            .field("overflow", &self.overflow.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl<B: Batch> fmt::Debug for Receiver<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("held", &self.held)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
