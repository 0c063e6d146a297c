//! Advice to the kernel and the processor, which the safe language has no words for.

/// Asks for huge pages for memory that is not touched yet.
#[expect(unsafe_code, reason = "advice to the kernel")]
pub(super) fn in_huge_pages<T>(memory: &Vec<T>) {
    const PAGE: usize = 4096;
    let (start, len) = (memory.as_ptr().addr(), memory.capacity() * size_of::<T>());
    let skip = start.next_multiple_of(PAGE) - start;
    if len > skip {
        // SAFETY: within the allocation; this advice changes no content.
        unsafe {
            let first = memory.as_ptr().cast::<u8>().add(skip);
            libc::madvise(first.cast_mut().cast(), len - skip, libc::MADV_HUGEPAGE);
        }
    }
}

/// Says that a place is about to be read.
#[inline]
#[expect(unsafe_code, reason = "a hint to the processor")]
pub(super) fn ask<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    let _ = place;
}
