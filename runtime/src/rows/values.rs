//! The values of a batch: in memory of its own, or where they were received.
#![expect(unsafe_code, reason = "values that lie in what was received")]

use millstream_network::remote::FramePayload;
use millstream_state::{Data, DecodeError};
use std::ops::Range;

/// Values, one after the other.
pub(super) struct Values<T> {
    own: Vec<T>,
    /// Instead of values of its own. They need not be dropped.
    lent: Option<Lent>,
}

struct Lent {
    payload: FramePayload,
    /// Where in the payload.
    begin: usize,
    count: usize,
}

impl<T> Values<T> {
    pub(super) const fn new(own: Vec<T>) -> Self {
        Self { own, lent: None }
    }

    /// The values that lie in this part of a payload, if the type's values are received as they lie in
    /// memory.
    pub(super) fn lent(
        payload: &FramePayload,
        part: Range<usize>,
    ) -> Option<Result<Self, DecodeError>>
    where
        T: Data,
    {
        let begin = part.start;
        let count = T::from_plain_slice(payload.get(part)?)?.map(<[T]>::len);
        Some(count.map(|count| {
            let lent = Lent { payload: payload.clone(), begin, count };
            Self { own: Vec::new(), lent: Some(lent) }
        }))
    }

    /// Appends a value to its own: who adds some begins with an empty batch.
    #[inline(always)]
    pub(super) fn push(&mut self, value: T) {
        debug_assert!(self.lent.is_none(), "values are added to one's own");
        self.own.push(value);
    }

    /// The memory for values of its own.
    pub(super) fn own(&mut self) -> &mut Vec<T> {
        &mut self.own
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.lent.as_ref().map_or(self.own.len(), |lent| lent.count)
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[T] {
        match &self.lent {
            None => &self.own,
            Some(Lent { payload, begin, count }) => {
                let values = payload[*begin..].as_ptr().cast();
                // SAFETY: when they were lent they were found valid and aligned, and so many. A payload
                // does not change, and its clones lie in the same place.
                unsafe { std::slice::from_raw_parts(values, *count) }
            }
        }
    }

    /// Drops the values and keeps memory of its own.
    pub(super) fn clear(&mut self) {
        self.own.clear();
        self.lent = None;
    }

    /// Takes all values out, in order.
    #[inline(always)]
    pub(super) fn drain_each(&mut self, mut each: impl FnMut(usize, T)) {
        /// Drops the values that were not taken, if `each` unwinds.
        struct Rest<T> {
            next: *const T,
            end: *const T,
        }
        impl<T> Drop for Rest<T> {
            #[inline(always)]
            fn drop(&mut self) {
                if std::mem::needs_drop::<T>() && self.next != self.end {
                    // SAFETY: from `next` to `end` lie values that were not taken, of this batch alone.
                    unsafe {
                        let left = self.end.offset_from_unsigned(self.next);
                        let left = std::ptr::slice_from_raw_parts_mut(self.next.cast_mut(), left);
                        std::ptr::drop_in_place(left);
                    }
                }
            }
        }
        let count = self.len();
        let begin = match &self.lent {
            None => self.own.as_mut_ptr().cast_const(),
            Some(_) => self.as_slice().as_ptr(),
        };
        // SAFETY: none of them is the vector's any more; each is read once below, or dropped as the rest.
        unsafe { self.own.set_len(0) };
        // SAFETY: `count` values lie there.
        let mut rest = Rest { next: begin, end: unsafe { begin.add(count) } };
        for index in 0..count {
            // SAFETY: below `count`; the memory is `self`'s, which nobody else can reach meanwhile. Values
            // that are lent need not be dropped and may be copied.
            let value = unsafe { begin.add(index).read() };
            // SAFETY: as above; the value is taken.
            rest.next = unsafe { begin.add(index + 1) };
            each(index, value);
        }
        drop(rest);
        self.lent = None;
    }
}

impl<T: Clone> Clone for Values<T> {
    fn clone(&self) -> Self {
        Self::new(self.as_slice().to_vec())
    }
}
