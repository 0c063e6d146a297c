//! Where a record lies in the log.

/// A record's place: the number of its segment, and its offset there in units of 16 bytes.
///
/// Packed into 48 bits, so that an index slot has 16 bits left for a tag. Segments are numbered in
/// the order of the log, so addresses compare as the records' ages do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address(u64);

/// Records begin at multiples of this many bytes, which is what archived values may need.
pub(super) const RECORD_ALIGNMENT: usize = 16;

const OFFSET_BITS: u32 = 22;
/// The bits of an address.
pub(super) const ADDRESS_BITS: u32 = 48;

/// Records begin before this offset in their segment: 64 MiB.
pub(super) const OFFSET_MAX: usize = RECORD_ALIGNMENT << OFFSET_BITS;
/// The number of segments that a store may ever have: 2 PiB of 32 MiB each.
pub(super) const SEGMENTS_MAX: u32 = 1 << (ADDRESS_BITS - OFFSET_BITS);

impl Address {
    /// No record: the first block of a segment holds none.
    pub const NONE: Self = Self(0);

    #[inline]
    pub fn new(segment: u32, offset: usize) -> Self {
        debug_assert!(segment < SEGMENTS_MAX && offset < OFFSET_MAX);
        debug_assert!(offset.is_multiple_of(RECORD_ALIGNMENT));
        Self(u64::from(segment) << OFFSET_BITS | (offset / RECORD_ALIGNMENT) as u64)
    }

    /// That of no record, for a bound: everything in this segment or before it.
    pub fn up_to(segment: u32) -> Self {
        Self::new(segment, RECORD_ALIGNMENT)
    }

    /// True if it is a [bound](Self::up_to), and not a record's.
    pub fn is_bound(self) -> bool {
        self.offset() == RECORD_ALIGNMENT
    }

    /// The address with these low 48 bits; the others are ignored.
    #[inline]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << ADDRESS_BITS) - 1))
    }

    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// The number of the segment.
    #[inline]
    pub fn segment(self) -> u32 {
        (self.0 >> OFFSET_BITS) as u32
    }

    /// The offset in the segment, in bytes.
    #[inline]
    pub fn offset(self) -> usize {
        (self.0 as usize & ((1 << OFFSET_BITS) - 1)) * RECORD_ALIGNMENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_address_keeps_its_parts_in_48_bits_and_compares_by_age(
            a in (0..SEGMENTS_MAX, 0..OFFSET_MAX / 16), b in (0..SEGMENTS_MAX, 0..OFFSET_MAX / 16),
        ) {
            let (x, y) = (Address::new(a.0, a.1 * 16), Address::new(b.0, b.1 * 16));
            prop_assert_eq!((x.segment(), x.offset()), (a.0, a.1 * 16));
            prop_assert_eq!(Address::from_bits(x.bits() | 0xffff << 48), x);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
