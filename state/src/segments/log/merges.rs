//! What pieces of values were merged of.
//!
//! A piece refers to what it is appended to, and not to the pieces between the two that it has taken in. Whoever
//! takes it back has to know them; whoever restores a file has not, so that no file tells.

use super::Address;
use std::collections::VecDeque;

/// Merges take this part of the memory for state at the most, beside it. A gigabyte remembers a million, and so about
/// three million short pieces since the oldest checkpoint to go back to.
const PART_OF_MEMORY: u64 = 64;
const MERGES_MAX: u64 = 1 << 24;

/// Of each piece that has taken in others the newest of those.
#[derive(Debug)]
pub(in crate::segments) struct Merges {
    /// Ascending, as a log is written.
    newest: VecDeque<(Address, Address)>,
    /// Pieces before this one are not known any more.
    known_from: Option<Address>,
    /// How many are remembered.
    most: usize,
}

impl Merges {
    /// For a store of which buffers and indexes take so many bytes.
    pub(super) fn within(memory: u64) -> Self {
        let most = memory / PART_OF_MEMORY / size_of::<(Address, Address)>() as u64;
        let most = most.clamp(2, MERGES_MAX) as usize;
        Self { newest: VecDeque::new(), known_from: None, most }
    }

    pub(super) fn note(&mut self, piece: Address, newest: Address) {
        debug_assert!(self.newest.back().is_none_or(|(last, _)| *last < piece));
        if self.newest.len() == self.most {
            self.newest.drain(..self.most / 2);
            self.known_from = self.newest.front().map(|(piece, _)| *piece);
        }
        self.newest.push_back((piece, newest));
    }

    /// Nobody asks for pieces before this address.
    pub(super) fn forget_before(&mut self, address: Address) {
        let forgotten = self.newest.partition_point(|(piece, _)| *piece < address);
        self.newest.drain(..forgotten);
        self.newest.shrink_to(2 * self.newest.len());
    }

    /// Nobody asks for any.
    pub(super) fn forget(&mut self) {
        (self.newest, self.known_from) = (VecDeque::new(), None);
    }

    /// The newest piece that this one has taken in, which is none of a record that has not; `None` if that is not
    /// known any more.
    pub(in crate::segments) fn newest_of(&self, piece: Address) -> Option<Option<Address>> {
        if self.known_from.is_some_and(|from| piece < from) {
            return None;
        }
        let at = self.newest.binary_search_by_key(&piece, |(piece, _)| *piece).ok();
        Some(at.map(|at| self.newest[at].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Address {
        Address::new(1, number * 16)
    }

    #[test]
    fn what_a_piece_has_taken_in_is_known_until_it_is_forgotten() {
        let mut merges = Merges::within(u64::MAX);
        for piece in (2..20).step_by(2) {
            merges.note(address(piece), address(piece - 1));
        }
        assert_eq!(merges.newest_of(address(4)), Some(Some(address(3))));
        assert_eq!(merges.newest_of(address(5)), Some(None));
        merges.forget_before(address(10));
        assert_eq!(merges.newest_of(address(10)), Some(Some(address(9))));
        assert_eq!(merges.newest.len(), 5);
    }

    #[test]
    fn of_too_many_the_oldest_are_not_known_any_more() {
        let mut merges = Merges::within(16 * 10 * PART_OF_MEMORY);
        for piece in 1..=11 {
            merges.note(address(piece), address(0));
        }
        assert_eq!(merges.newest.len(), 6);
        assert_eq!(merges.newest_of(address(6)), Some(Some(address(0))));
        assert_eq!(merges.newest_of(address(5)), None);
        merges.forget();
        assert_eq!(merges.newest_of(address(5)), Some(None));
    }
}
