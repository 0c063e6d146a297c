//! Memory that the kernel receives into.
//!
//! Each connection has a ring of provided buffers of its own, so that one whose bytes nobody uses holds up
//! no other. The buffers lie side by side and are given to the kernel in that order, if they come back
//! in it; where the kernel can, it fills them little by little (`IOU_PBUF_RING_INC`, Linux 6.12). So what
//! comes on a connection mostly lies in one stretch of memory until the last buffer is full, in however
//! many pieces it has come, and keeps its alignment.
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
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

/// `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;

/// The memory of a connection, which outlives it as long as something of it is used.
struct Memory {
    /// What `base` points to.
    _mapping: MmapMut,
    base: *mut u8,
    buffer_bytes: usize,
    /// How many [`Received`] there are of each buffer.
    users: Box<[AtomicU32]>,
}

// SAFETY: `base` points into the mapping, which is owned. What is handed over of it is only read from
// then on, by whomever, until all users have gone; the counters are atomic.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// The buffers in which these bytes lie.
    fn buffers(&self, bytes: &Range<usize>) -> &[AtomicU32] {
        let first = bytes.start / self.buffer_bytes;
        let end = bytes.end.div_ceil(self.buffer_bytes);
        &self.users[first..end.max(first)]
    }
}

/// How far a buffer is filled.
#[derive(Clone, Copy, Default)]
struct Fill {
    /// How much of it the kernel has handed over.
    bytes: usize,
    /// The kernel will not write to it any more.
    is_full: bool,
}

pub(super) struct ReceivePool {
    memory: Arc<Memory>,
    /// What `entries` points to.
    _ring: MmapMut,
    entries: *mut BufRingEntry,
    group: u16,
    fills: Box<[Fill]>,
    /// How many buffers were ever given to the kernel; wraps.
    given: u16,
    /// Which was given last.
    last: usize,
    /// How many of them it has.
    free: u16,
    is_incremental: bool,
}

impl ReceivePool {
    /// `count` buffers, a power of two of at most 32,768, under this number for the ring of this
    /// submitter.
    pub fn register(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} buffers");
        let mut mapping = MmapMut::map_anon(usize::from(count) * buffer_bytes)?;
        let mut ring = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        let (base, entries) = (mapping.as_mut_ptr(), ring.as_mut_ptr().cast::<BufRingEntry>());
        let register = |flags| {
            // SAFETY: the memory has room for so many entries and is page-aligned; whoever owns the
            // ring keeps the pool, or leaks it, until the kernel has let go.
            unsafe { submitter.register_buf_ring_with_flags(entries as u64, count, group, flags) }
        };
        let is_incremental = register(INCREMENTAL).is_ok();
        if !is_incremental {
            register(0)?;
        }
        let users = (0..count).map(|_| AtomicU32::new(0)).collect();
        let mut pool = Self {
            memory: Arc::new(Memory { _mapping: mapping, base, buffer_bytes, users }),
            _ring: ring,
            entries,
            group,
            fills: vec![Fill::default(); usize::from(count)].into(),
            given: 0,
            last: 0,
            free: 0,
            is_incremental,
        };
        (0..usize::from(count)).for_each(|at| pool.give(at));
        Ok(pool)
    }

    /// The number under which the kernel knows the buffers.
    pub fn group(&self) -> u16 {
        self.group
    }

    pub fn is_incremental(&self) -> bool {
        self.is_incremental
    }

    /// How many buffers the kernel has to receive into.
    pub fn free(&self) -> u16 {
        self.free
    }

    /// Gives a buffer that nobody uses to the kernel.
    fn give(&mut self, at: usize) {
        self.fills[at] = Fill::default();
        let place = usize::from(self.given) % self.fills.len();
        // SAFETY: within the entries; the kernel reads those before the tail only.
        let entry = unsafe { &mut *self.entries.add(place) };
        let buffer = self.memory.base.wrapping_add(at * self.memory.buffer_bytes);
        entry.set_addr(buffer as u64);
        entry.set_len(self.memory.buffer_bytes as u32);
        entry.set_bid(at as u16);
        self.given = self.given.wrapping_add(1);
        self.free += 1;
        self.last = at;
        // SAFETY: the tail lies in the first entry, in a field that the setters do not touch, aligned
        // as its type is, and the kernel reads it atomically.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.given, Ordering::Release);
    }

    /// Gives buffers back that nobody uses any more: those that follow on the last one first.
    pub fn reclaim(&mut self) {
        let (count, last) = (self.fills.len(), self.last);
        if usize::from(self.free) == count {
            return;
        }
        for at in (1..=count).map(|step| (last + step) % count) {
            if self.fills[at].is_full && self.memory.users[at].load(Ordering::Relaxed) == 0 {
                // What its users have read was read before the kernel writes again.
                fence(Ordering::Acquire);
                self.give(at);
            }
        }
    }

    /// The kernel has received so many bytes into a buffer; it goes on in it if there is `more`.
    ///
    /// # Panics
    /// If it says that it has written beyond a buffer.
    pub fn take(&mut self, id: u16, len: usize, more: bool) -> Received {
        let at = usize::from(id);
        let fill = &mut self.fills[at];
        let begin = fill.bytes;
        assert!(
            len <= self.memory.buffer_bytes - begin,
            "the kernel writes to a buffer's end at most"
        );
        fill.bytes += len;
        fill.is_full = !more;
        if !more {
            self.free -= 1;
        }
        let start = at * self.memory.buffer_bytes + begin;
        let range = start..start + len;
        Received::of(Arc::clone(&self.memory), range)
    }
}

/// Bytes that were received. While they exist their buffers are not used again.
pub struct Received {
    memory: Arc<Memory>,
    /// Where they lie. Each of the buffers there counts this as one user.
    range: Range<usize>,
}

impl Received {
    fn of(memory: Arc<Memory>, range: Range<usize>) -> Self {
        for users in memory.buffers(&range) {
            users.fetch_add(1, Ordering::Relaxed);
        }
        Self { memory, range }
    }

    /// A part of them, which can be used by itself.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn part(&self, part: Range<usize>) -> Self {
        assert!(part.start <= part.end && part.end <= self.range.len(), "a part of what is there");
        let start = self.range.start;
        Self::of(Arc::clone(&self.memory), start + part.start..start + part.end)
    }

    /// Adds bytes that follow these in memory; gives back those that do not.
    ///
    /// # Errors
    /// The bytes, if they lie elsewhere.
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.memory, &next.memory) || self.range.end != next.range.start {
            return Err(next);
        }
        *self = Self::of(Arc::clone(&self.memory), self.range.start..next.range.end);
        Ok(())
    }

    /// So many bytes may follow on these in memory.
    pub fn room_behind(&self) -> usize {
        self.memory.users.len() * self.memory.buffer_bytes - self.range.end
    }

    /// Does without the first bytes.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn advance(&mut self, bytes: usize) {
        *self = self.part(bytes..self.range.len());
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the memory, which lives as long as `self`. The kernel has written it, and
        // writes behind it only, until its buffers are given back, which `self` prevents.
        unsafe {
            std::slice::from_raw_parts(self.memory.base.add(self.range.start), self.range.len())
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        for users in self.memory.buffers(&self.range) {
            // What was read was read before whoever sees this gives the buffer away.
            users.fetch_sub(1, Ordering::Release);
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Received({} bytes)", self.range.len())
    }
}
