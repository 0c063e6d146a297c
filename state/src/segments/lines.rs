//! Memory of indexes: cache lines.
#![expect(unsafe_code, reason = "aligned memory, mapped where it is large")]

use super::memory::Buffer;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The words of a line.
pub(super) const LINE_WORDS: usize = 8;

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u64; LINE_WORDS]);

/// From this size on they are a mapping of their own, in huge pages where the host has them.
const MAPPED_BYTES: usize = 1 << 20;
/// What is given back begins and ends at multiples of this.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Cache lines, a slice of them.
#[derive(Debug)]
pub(super) struct Lines {
    base: NonNull<Line>,
    len: usize,
    /// Where they lie, if it is not the heap.
    mapped: Option<Buffer>,
}

// SAFETY: the memory belongs to this value alone, and to no thread.
unsafe impl Send for Lines {}

impl Default for Lines {
    fn default() -> Self {
        Self { base: NonNull::dangling(), len: 0, mapped: None }
    }
}

impl Lines {
    /// So many lines of zeros. Large memory is provided as it is touched.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let layout = Layout::array::<Line>(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if len == 0 {
            return Ok(Self::default());
        }
        if layout.size() >= MAPPED_BYTES {
            let mut buffer = Buffer::new(layout.size())?;
            let base = NonNull::from(buffer.as_mut_slice()).cast();
            return Ok(Self { base, len, mapped: Some(buffer) });
        }
        // SAFETY: the layout has a size, which is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }.cast());
        Ok(Self { base: base.ok_or(io::ErrorKind::OutOfMemory)?, len, mapped: None })
    }

    pub fn clear(&mut self) {
        self.fill(Line([0; LINE_WORDS]));
    }

    /// The lines before this one are not needed any more: their memory may go back to the host, and
    /// then they are zero.
    pub fn give_back_before(&mut self, line: usize) {
        let bytes = line * size_of::<Line>() / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
        if let Some(buffer) = &mut self.mapped {
            buffer.discard(bytes);
        }
    }
}

impl Deref for Lines {
    type Target = [Line];
    #[inline]
    fn deref(&self) -> &[Line] {
        // SAFETY: so many lines were allocated there, zeroed, and belong to `self`; a mapping begins
        // at a page. Any bits are a line.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for Lines {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if self.mapped.is_none()
            && self.len > 0
            && let Ok(layout) = Layout::array::<Line>(self.len)
        {
            // SAFETY: allocated in `zeroed`, with this layout.
            unsafe { dealloc(self.base.as_ptr().cast(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zero_aligned_and_keep_what_is_written() {
        for len in [0, 1, 8, 1 << 10, 1 << 14, 3 << 15] {
            let mut lines = Lines::zeroed(len).unwrap();
            assert!(lines.len() == len && lines.iter().all(|line| line.0 == [0; LINE_WORDS]));
            for (n, line) in (1..).zip(&mut *lines) {
                assert_eq!(std::ptr::from_ref(line).addr() % 64, 0);
                line.0 = [n; LINE_WORDS];
            }
            let behind = len / 2;
            lines.give_back_before(behind);
            let kept = lines.iter().zip(1..).skip(behind);
            assert!(
                kept.clone().count() >= len - behind && { kept }.all(|(line, n)| line.0[7] == n)
            );
            lines.clear();
            assert!(lines.iter().all(|line| line.0 == [0; LINE_WORDS]));
        }
    }
}
