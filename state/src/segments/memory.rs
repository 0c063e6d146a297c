//! Memory of segments: allocation, and access to parts of it.
#![expect(unsafe_code, reason = "a segment's parts are used by two threads at a time")]

use memmap2::Mmap;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of all buffers of a store: those that its log uses, those that wait to be written, and
/// those that are ready to be used, whichever thread has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Account(Arc<AtomicU64>);

impl Account {
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Zeroed, page-aligned memory, in huge pages where the host has them. Its users see to it that no
/// part is read while it is written.
#[derive(Debug)]
pub(super) struct Buffer {
    base: NonNull<u8>,
    len: usize,
    account: Account,
}

// SAFETY: the memory belongs to no thread; access to it is unsafe and argued where it happens.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` is greater than zero.
    pub fn new(len: usize) -> io::Result<Self> {
        Self::counted(len, &Account::default())
    }

    /// One that the account counts while it exists. `len` is greater than zero.
    pub fn counted(len: usize, account: &Account) -> io::Result<Self> {
        // SAFETY: a new private mapping, of which nobody else knows.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the range is the mapping's; advice changes no content, and a host may ignore it.
        unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        account.0.fetch_add(len as u64, Ordering::Relaxed);
        Ok(Self { base, len, account: account.clone() })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Has the host provide all of it now, and keep it in memory if it lets this process ask for
    /// that: clearing a segment takes milliseconds, which the slot should not spend at its first
    /// touch.
    pub fn prefault(&mut self) {
        // A huge page. While the host provides memory the process cannot map or unmap any.
        const STEP: usize = 2 << 20;
        for start in (0..self.len).step_by(STEP) {
            let len = STEP.min(self.len - start);
            // SAFETY: the range is the mapping's. The call changes no content, and may fail.
            unsafe {
                libc::madvise(self.base.add(start).as_ptr().cast(), len, libc::MADV_POPULATE_WRITE)
            };
        }
        // SAFETY: as above.
        unsafe { libc::mlock(self.base.as_ptr().cast(), self.len) };
    }

    /// Gives the first `len` bytes back to the host; they are zero then, or as they were.
    pub fn discard(&mut self, len: usize) {
        assert!(len <= self.len, "part of the buffer");
        // SAFETY: the range is the mapping's, which is borrowed mutably.
        unsafe { libc::madvise(self.base.as_ptr().cast(), len, libc::MADV_DONTNEED) };
    }

    /// All of it, for an owner that has given nobody a [`View`].
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is the buffer's, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    pub fn view(&self) -> View {
        View { base: self.base.as_ptr(), len: self.len, is_file: false }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new`, and whoever used a part of it held the buffer.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        self.account.0.fetch_sub(self.len as u64, Ordering::Relaxed);
    }
}

/// The bytes of a buffer or of a mapped file, without a lifetime.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    base: *mut u8,
    len: usize,
    is_file: bool,
}

// SAFETY: it gives nothing away by itself: access is unsafe and argued where it happens.
unsafe impl Send for View {}

impl View {
    /// Of a segment that is no more.
    pub const GONE: Self = Self { base: std::ptr::null_mut(), len: 0, is_file: false };

    /// The first `len` bytes of a mapping. They must not be written.
    pub fn mapped(mapping: &Mmap, len: usize) -> Self {
        Self { base: mapping.as_ptr().cast_mut(), len: len.min(mapping.len()), is_file: true }
    }

    pub fn len(self) -> usize {
        self.len
    }

    /// The bytes of a range, or `None` if they are not all there.
    ///
    /// # Safety
    /// For `'a` the memory stays where it is, and nobody writes these bytes.
    #[inline]
    pub unsafe fn bytes<'a>(self, offset: usize, len: usize) -> Option<&'a [u8]> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: within the memory, which the caller promises to be there and unwritten.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(offset), len) })
    }

    /// The bytes of a range, or `None` if they are not all there.
    ///
    /// # Safety
    /// For `'a` the memory is that of a buffer which stays where it is, and nobody else reads or
    /// writes these bytes.
    #[inline]
    pub unsafe fn bytes_mut<'a>(self, offset: usize, len: usize) -> Option<&'a mut [u8]> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: within the memory, which the caller promises to be there for it alone.
        Some(unsafe { std::slice::from_raw_parts_mut(self.base.add(offset), len) })
    }

    /// True if the bytes are those of a file, so that reading them may wait for a disk.
    #[inline]
    pub fn is_file(self) -> bool {
        self.is_file
    }

    /// Asks for the cache line at an offset.
    #[inline]
    pub fn prefetch(self, offset: usize) {
        prefetch(self.base.wrapping_add(offset));
    }

    /// Starts to read the pages of a range of a file, without waiting for them. Costs a system call.
    #[cold]
    pub fn read_ahead(self, offset: usize, len: usize) {
        const PAGE: usize = 4096;
        if !self.is_file || offset >= self.len {
            return;
        }
        let start = offset / PAGE * PAGE;
        let len = (offset - start + len).next_multiple_of(PAGE).min(self.len - start);
        // SAFETY: the range begins within the mapping, at a page; the advice changes no content,
        // and what is not mapped any more is an error, which is as good as no advice.
        unsafe { libc::madvise(self.base.add(start).cast(), len, libc::MADV_WILLNEED) };
    }
}

/// Asks for a cache line. Any address will do.
#[inline]
pub(super) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing and never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// How often this thread has waited for a page to be read from a disk.
pub(super) fn major_faults() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the struct is plain integers, valid as zeros, and large enough for what is written to
    // it.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

/// A part of a buffer that is not written any more.
#[derive(Debug)]
pub(super) struct Sealed {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Sealed {
    /// # Safety
    /// From now on nobody writes the range, until the buffer has no other owner.
    pub unsafe fn new(buffer: Arc<Buffer>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= buffer.len);
        Self { buffer, range }
    }

    /// Where it begins in the buffer.
    pub fn start(&self) -> usize {
        self.range.start
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: within the buffer, which lives as long as `self`; not written, as `new` was
        // promised.
        unsafe {
            std::slice::from_raw_parts(
                self.buffer.base.as_ptr().add(self.range.start),
                self.range.len(),
            )
        }
    }
}
