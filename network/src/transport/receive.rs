//! Memory that the kernel receives into.
//!
//! A ring of provided buffers, which all connections of a slot share: one takes a buffer only when
//! something has come for it. Where the kernel can, a buffer is filled little by little
//! (`IOU_PBUF_RING_INC`, Linux 6.12), so that what comes in many pieces takes one buffer and not many, and
//! goes on at the alignment at which it was before.
//!
//! # Invariants
//! - The kernel writes only behind what it has handed over of a buffer, so that what was handed over can
//!   be read meanwhile.
//! - A buffer goes back to the kernel when it has filled it, or is done with it, and nobody uses what it
//!   holds.
#![expect(unsafe_code, reason = "memory that the kernel writes")]

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;
use std::cell::Cell;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The group under which the kernel knows the buffers; a ring has one.
pub(super) const GROUP: u16 = 0;
/// `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;

/// How a buffer is used.
#[derive(Clone, Copy, Default)]
struct Use {
    /// How much of it the kernel has handed over.
    filled: usize,
    /// How many pieces of that are used.
    users: usize,
    /// The kernel will not write to it any more.
    is_full: bool,
}

pub(super) struct ReceivePool {
    /// What `base` points to.
    _memory: MmapMut,
    base: *mut u8,
    /// What `entries` points to.
    _ring: MmapMut,
    entries: *mut BufRingEntry,
    buffer_bytes: usize,
    buffers: Box<[Cell<Use>]>,
    /// How many buffers were ever given to the kernel; wraps.
    given: Cell<u16>,
    /// How many of them it has.
    free: Cell<usize>,
    is_incremental: bool,
}

impl ReceivePool {
    /// `count` buffers, a power of two of at most 32,768, for the ring of this submitter.
    pub fn register(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<Rc<Self>> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} buffers");
        let mut memory = MmapMut::map_anon(usize::from(count) * buffer_bytes)?;
        let mut ring = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        let (base, entries) = (memory.as_mut_ptr(), ring.as_mut_ptr().cast::<BufRingEntry>());
        let register = |flags| {
            // SAFETY: the memory has room for so many entries and is page-aligned; whoever owns the
            // ring keeps the pool, or leaks it, until the kernel has let go.
            unsafe { submitter.register_buf_ring_with_flags(entries as u64, count, GROUP, flags) }
        };
        let is_incremental = register(INCREMENTAL).is_ok();
        if !is_incremental {
            register(0)?;
        }
        let pool = Rc::new(Self {
            _memory: memory,
            base,
            _ring: ring,
            entries,
            buffer_bytes,
            buffers: vec![Cell::default(); usize::from(count)].into(),
            given: Cell::new(0),
            free: Cell::new(0),
            is_incremental,
        });
        (0..count).for_each(|id| pool.give(id));
        Ok(pool)
    }

    pub fn is_incremental(&self) -> bool {
        self.is_incremental
    }

    /// True if the kernel has a buffer to receive into.
    pub fn has_free(&self) -> bool {
        self.free.get() > 0
    }

    /// Gives a buffer that nobody uses to the kernel.
    fn give(&self, id: u16) {
        self.buffers[usize::from(id)].set(Use::default());
        let given = self.given.get();
        let at = usize::from(given) % self.buffers.len();
        // SAFETY: within the entries; the kernel reads those before the tail only.
        let entry = unsafe { &mut *self.entries.add(at) };
        // SAFETY: within the memory.
        let buffer = unsafe { self.base.add(usize::from(id) * self.buffer_bytes) };
        entry.set_addr(buffer as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(id);
        self.given.set(given.wrapping_add(1));
        self.free.set(self.free.get() + 1);
        // SAFETY: the tail lies in the first entry, in a field that the setters do not touch, aligned
        // as its type is, and the kernel reads it atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.given.get(), Ordering::Release);
    }

    /// The kernel has received so many bytes into a buffer; it goes on in it if there is `more`.
    ///
    /// # Panics
    /// If it says that it has written beyond a buffer.
    pub fn take(self: &Rc<Self>, id: u16, len: usize, more: bool) -> Received {
        let buffer = &self.buffers[usize::from(id)];
        let mut state = buffer.get();
        let begin = state.filled;
        assert!(len <= self.buffer_bytes - begin, "the kernel writes to a buffer's end at most");
        state.filled += len;
        state.users += 1;
        state.is_full = !more;
        buffer.set(state);
        if !more {
            self.free.set(self.free.get() - 1);
        }
        Received { pool: Rc::clone(self), id, begin, len }
    }
}

/// Bytes that were received. While they exist their buffer is not used again.
pub struct Received {
    pool: Rc<ReceivePool>,
    id: u16,
    begin: usize,
    len: usize,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let offset = usize::from(self.id) * self.pool.buffer_bytes + self.begin;
        // SAFETY: within the pool's memory, which lives as long as `self`. The kernel has written it,
        // and writes behind it only, until the buffer is given back, which `self` prevents.
        unsafe { std::slice::from_raw_parts(self.pool.base.add(offset), self.len) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let buffer = &self.pool.buffers[usize::from(self.id)];
        let mut state = buffer.get();
        state.users -= 1;
        buffer.set(state);
        if state.users == 0 && state.is_full {
            self.pool.give(self.id);
        }
    }
}
