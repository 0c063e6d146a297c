//! Memory that is sent from.
//!
//! Registered with the ring where the host allows so much to be locked, so that a send neither copies
//! nor looks up its pages.
#![expect(unsafe_code, reason = "memory that the kernel reads")]

use io_uring::Submitter;
use memmap2::MmapMut;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

pub(super) struct SendPool {
    /// What `base` points to.
    _memory: MmapMut,
    base: *mut u8,
    buffer_bytes: usize,
    count: usize,
    free: RefCell<Vec<u16>>,
    is_registered: bool,
}

impl SendPool {
    /// So many buffers, registered with the ring of this submitter if the host allows it.
    pub fn register(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<Rc<Self>> {
        let mut memory = MmapMut::map_anon(usize::from(count) * buffer_bytes)?;
        let base = memory.as_mut_ptr();
        let buffers: Vec<_> = (0..usize::from(count))
            .map(|at| libc::iovec {
                iov_base: base.wrapping_add(at * buffer_bytes).cast(),
                iov_len: buffer_bytes,
            })
            .collect();
        // SAFETY: the ranges are the mapping's. The kernel holds on to their pages by itself.
        let is_registered = match unsafe { submitter.register_buffers(&buffers) } {
            Ok(()) => true,
            // The limit of locked memory: everything works without, a little slower.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => false,
            Err(error) => return Err(error),
        };
        let free = RefCell::new((0..count).rev().collect());
        Ok(Rc::new(Self {
            _memory: memory,
            base,
            buffer_bytes,
            count: usize::from(count),
            free,
            is_registered,
        }))
    }

    pub fn is_registered(&self) -> bool {
        self.is_registered
    }
}

/// Where one who sends gets the [buffers](SendBuffer) of a transport from.
pub struct SendBuffers {
    pool: Rc<SendPool>,
    taken: Rc<Cell<usize>>,
}

impl SendBuffers {
    pub(super) fn new(pool: Rc<SendPool>) -> Self {
        Self { pool, taken: Rc::default() }
    }

    /// A buffer that nobody uses, if there is one.
    pub fn take(&self) -> Option<SendBuffer> {
        let id = self.pool.free.borrow_mut().pop()?;
        self.taken.set(self.taken.get() + 1);
        Some(SendBuffer { pool: Rc::clone(&self.pool), taken: Rc::clone(&self.taken), id, len: 0 })
    }

    /// How many were taken here and have not come back. One that is sent without a copy comes back when the
    /// other side has it, and no earlier.
    pub fn taken(&self) -> usize {
        self.taken.get()
    }

    /// How many there are, used or not, by whomever.
    pub fn count(&self) -> usize {
        self.pool.count
    }

    /// How much each can hold.
    pub fn capacity(&self) -> usize {
        self.pool.buffer_bytes
    }
}

/// A buffer to be filled and sent. It goes back to its pool when it is dropped, or was sent and the
/// kernel is done with it.
pub struct SendBuffer {
    pool: Rc<SendPool>,
    /// Of those that whoever has it has taken.
    taken: Rc<Cell<usize>>,
    id: u16,
    len: usize,
}

impl SendBuffer {
    /// How much it can hold.
    pub fn capacity(&self) -> usize {
        self.pool.buffer_bytes
    }

    /// Adds bytes; false, and nothing is added, if they do not fit.
    pub fn extend(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.room(bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        true
    }

    /// Adds so many bytes and lends them, to be filled; `None` if they do not fit. All of them must be
    /// written: they hold what was sent before, maybe to somebody else.
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let begin = self.len;
        if len > self.capacity() - begin {
            return None;
        }
        self.len += len;
        self.get_mut(begin..)
    }

    /// Which of the registered buffers it is, if they are registered.
    pub(super) fn index(&self) -> Option<u16> {
        self.pool.is_registered.then_some(self.id)
    }

    fn base(&self) -> *mut u8 {
        self.pool.base.wrapping_add(usize::from(self.id) * self.pool.buffer_bytes)
    }
}

impl Deref for SendBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: within the pool's memory, which lives as long as `self` and starts as zeros; this
        // buffer is lent to `self` alone, and the kernel only reads.
        unsafe { std::slice::from_raw_parts(self.base(), self.len) }
    }
}

impl DerefMut for SendBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; whoever sends a buffer gives it away, so that it is not changed while the
        // kernel reads it.
        unsafe { std::slice::from_raw_parts_mut(self.base(), self.len) }
    }
}

impl Drop for SendBuffer {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().push(self.id);
        self.taken.set(self.taken.get() - 1);
    }
}
