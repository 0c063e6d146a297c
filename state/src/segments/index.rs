//! From a key's hash to its newest record.
//!
//! Open addressing over slots of eight bytes, eight to a cache line: an address of 48 bits, and a tag
//! of 16. A slot whose tag is the key's is followed to the record, where the key is compared,
//! so that an absent key is told from a present one nearly always within one cache line (FASTER's
//! index tags; Chandramouli et al., SIGMOD 2018).
//!
//! The hash is mixed once more: a slot's keys share the upper bits, which make key groups, and
//! consecutive integers, hashed by a multiplication alone, would fill a corner of the table. Of the
//! mixed hash, from the top: the bits that name the home line; three that say where in a line a
//! search begins (it goes round the line, then on to the next); the tag begins with these three.
//!
//! # Growth reads no records
//! Most of a large state's records may be cold, so an index doubles by what is in its slots. A tag
//! holds the bits of the hash that follow those of the home line, and says how many lines behind
//! that it lies (quotienting; Knuth 6.4, exercise 13; Bender et al., VLDB 2012):
//!
//! ```text
//! 0 bits 1 0…     at home:          1 + 14 bits and the one that ends them
//! 1 ddd bits 1 0… d lines behind:   1 + 3 + 11 bits and the one that ends them
//! ```
//!
//! So the home line in a table twice as large is known. A bit of the tag is used up by that, and
//! comes back when the entry gets another address; most entries are young, as the table doubles
//! with their number. Only where too few bits are left, at one entry in thousands, is the hash read
//! from the record.

#[cfg(test)]
mod tests;

use super::address::{ADDRESS_BITS, Address};
use super::lines::{LINE_WORDS, Lines};
use super::memory::prefetch;

/// The bits of a tag, the lowest of a slot.
const TAG_BITS: u32 = u64::BITS - ADDRESS_BITS;

const EMPTY: u64 = 0;
/// Once held an entry; a search goes on behind it. The address is that of no record.
/// No line lies no lines behind its home, so that no search stops at its tag.
const REMOVED: u64 = 1 << TAG_BITS | 1 << 15 | 1;

/// A distance that is not known: so many lines or more.
const FAR: usize = 7;
/// The bits that say where in a line a search begins.
const START_BITS: u32 = 3;

/// How many entries are asked for before they are read.
pub(super) const BLOCK: usize = 32;

/// After so many lines of an index that is replaced, their memory is given back: 2 MiB.
const GIVEN_BACK: usize = 32 << 10;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// A power of two of them, or none.
    lines: Lines,
    /// The bits of a hash that name one of the lines.
    bits: u32,
    len: usize,
    /// Slots that are not empty.
    used: usize,
    /// Growth was announced.
    announced: bool,
}

/// A slot of an index; valid until the index is changed elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotIndex(usize);

#[inline]
fn mixed(hash: u64) -> u64 {
    (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Where in its line a search begins.
#[inline]
fn start(rest: u64) -> usize {
    (rest >> (u64::BITS - START_BITS)) as usize
}

/// The tag of an entry at home, up to the end of its bits.
#[inline]
fn at_home(rest: u64) -> u64 {
    rest >> (u64::BITS - TAG_BITS + 1)
}

/// The tag of an entry that lies so many lines behind its home.
#[cold]
fn behind(rest: u64, distance: usize) -> u64 {
    1 << 15 | (distance.min(FAR) as u64) << 12 | rest >> (u64::BITS - TAG_BITS + 4)
}

/// The slot of an entry. `bits` are those of the hash behind the home line's, then a one, then zeros.
#[inline]
fn slot_of(bits: u64, distance: usize, address: Address) -> u64 {
    let (tag, left) = if distance == 0 {
        (at_home(bits), bits << (TAG_BITS - 1))
    } else {
        (behind(bits, distance), bits << (TAG_BITS - 4))
    };
    // What does not fit is left away; the last bit that does ends the others.
    address.bits() << TAG_BITS | tag | u64::from(left != 0)
}

/// The distance of a slot's entry from its home line, and its bits as [`slot_of`] takes them.
#[inline]
fn parts(slot: u64) -> (usize, u64) {
    let tag = slot << (u64::BITS - TAG_BITS);
    if tag >> 63 == 0 { (0, tag << 1) } else { ((tag >> 60 & 7) as usize, tag << 4) }
}

/// True of an entry whose bits are the beginning of those wanted; and where there is none.
#[inline]
fn agree(slot: u64, wanted: u64) -> bool {
    // From the one that ends the bits downwards.
    let below = slot ^ slot.wrapping_sub(1);
    (slot ^ wanted) as u16 <= below as u16
}

#[inline]
fn is_free(slot: u64) -> bool {
    slot == EMPTY || slot == REMOVED
}

#[inline]
fn address_in(slot: u64) -> Address {
    Address::from_bits(slot >> TAG_BITS)
}

impl Index {
    /// An index over memory that is zero.
    pub fn over(lines: Lines) -> Self {
        Self {
            bits: lines.len().trailing_zeros() % usize::BITS,
            lines,
            len: 0,
            used: 0,
            announced: false,
        }
    }

    /// An index over memory of one that is not needed any more.
    pub fn reusing(mut lines: Lines) -> Self {
        lines.clear();
        Self::over(lines)
    }

    /// Its memory, to be used again.
    pub fn into_lines(self) -> Lines {
        self.lines
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// The memory that it will take more, if it has [announced](Self::announces_growth) that.
    pub fn announced_bytes(&self) -> u64 {
        if self.announced { self.bytes() as u64 } else { 0 }
    }

    /// True once, shortly before it grows by much, so that there is time to make room.
    #[inline]
    pub fn announces_growth(&mut self) -> bool {
        const SMALL_LINES: usize = 1 << 12;
        if self.used * 16 < self.lines.len() * LINE_WORDS * 11
            || self.announced
            || self.lines.len() < SMALL_LINES
        {
            return false;
        }
        self.announced = true;
        true
    }

    /// The home line, and the other bits of the mixed hash, from the top.
    #[inline]
    fn home(&self, hash: u64) -> (usize, u64) {
        // The lowest bits of what is the rest then are the home line's again, where nobody looks.
        let rest = mixed(hash).rotate_left(self.bits);
        (rest as usize & (self.lines.len() - 1), rest)
    }

    /// Asks for the line at which a search for the hash begins.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if !self.lines.is_empty() {
            prefetch(&raw const self.lines[self.home(hash).0]);
        }
    }

    /// The first address that a search for the hash would look at: the key's, nearly always, if it
    /// is there.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<Address> {
        self.first(hash).map(|(_, address)| address)
    }

    /// The entry with this hash for whose address `is_it` is true.
    #[inline]
    pub fn find<E>(
        &self,
        hash: u64,
        mut is_it: impl FnMut(Address) -> Result<bool, E>,
    ) -> Result<Option<(SlotIndex, Address)>, E> {
        let mut candidate = self.first(hash);
        while let Some((slot, address)) = candidate {
            if is_it(address)? {
                return Ok(candidate);
            }
            candidate = self.next(hash, slot.0 / LINE_WORDS, slot.0 + 1);
        }
        Ok(None)
    }

    /// The first entry whose tag is the hash's.
    #[inline]
    pub fn first(&self, hash: u64) -> Option<(SlotIndex, Address)> {
        if self.lines.is_empty() {
            return None;
        }
        let (line, rest) = self.home(hash);
        let (slots, start) = (&self.lines[line].0, start(rest));
        let mut at = start;
        loop {
            let slot = slots[at];
            if agree(slot, at_home(rest)) {
                if slot == EMPTY {
                    return None;
                }
                return Some((SlotIndex(line * LINE_WORDS + at), address_in(slot)));
            }
            at = (at + 1) % LINE_WORDS;
            if at == start {
                return self.next(hash, line, at);
            }
        }
    }

    /// The next entry whose tag is the hash's, in this line from this place on, which if it is where
    /// searches for the hash begin ends the line, and in lines behind it.
    #[cold]
    fn next(&self, hash: u64, mut line: usize, at: usize) -> Option<(SlotIndex, Address)> {
        let (home, rest) = self.home(hash);
        let (mask, start) = (self.lines.len() - 1, start(rest));
        let mut at = at % LINE_WORDS;
        // Ends: a quarter of the slots is empty.
        loop {
            if at == start {
                line = (line + 1) & mask;
            }
            loop {
                let (slot, distance) = (self.lines[line].0[at], line.wrapping_sub(home) & mask);
                if slot == EMPTY {
                    return None;
                }
                let wanted = if distance == 0 { at_home(rest) } else { behind(rest, distance) };
                if agree(slot, wanted) {
                    return Some((SlotIndex(line * LINE_WORDS + at), address_in(slot)));
                }
                at = (at + 1) % LINE_WORDS;
                if at == start {
                    break;
                }
            }
        }
    }

    /// Gives the entry of a hash another address.
    #[inline]
    pub fn set(&mut self, slot: SlotIndex, hash: u64, address: Address) {
        let (_, rest) = self.home(hash);
        let slot = &mut self.lines[slot.0 / LINE_WORDS].0[slot.0 % LINE_WORDS];
        let (distance, _) = parts(*slot);
        *slot = slot_of(rest | 1, distance, address);
    }

    /// True if the next insertion needs [`Self::resize`] before.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.is_full_with(1)
    }

    /// True if it is [full](Self::is_full) before the last of so many insertions.
    #[inline]
    pub fn is_full_with(&self, more: usize) -> bool {
        (self.used + more) * 4 > self.lines.len() * LINE_WORDS * 3
    }

    /// The lines of an index that has room for so many entries more; those that it has, if that is
    /// this one.
    pub fn lines_for(&self, more: usize) -> usize {
        let slots = self.lines.len() * LINE_WORDS;
        if (self.used + more) * 4 <= slots * 3 {
            return self.lines.len();
        }
        // Where removed entries take the room, the same number of slots will do. A doubling leaves
        // room for as many entries as there are.
        let wanted = if self.len * 8 >= slots * 3 { slots * 2 } else { slots };
        let least = ((self.len + more) * 4).div_ceil(3).next_power_of_two();
        wanted.max(least).max(LINE_WORDS) / LINE_WORDS
    }

    /// The lines that are enough, if it has far too many.
    pub fn lines_to_shrink_to(&self) -> Option<usize> {
        let slots = self.lines.len() * LINE_WORDS;
        let enough = (self.len * 2).next_power_of_two().max(LINE_WORDS);
        (enough * 2 <= slots).then_some(enough / LINE_WORDS)
    }

    /// Moves to this memory, which is zero and has room for the entries. `hashes` turns addresses
    /// into the hashes of their records, in the same places. After an error entries are missing.
    ///
    /// Takes no more memory than the larger index has, but for 2 MiB: what has moved is given back.
    ///
    /// Complexity: one pass over both, in order; reads the header of about one record in 4,000 for
    /// each doubling.
    pub fn resize<E>(
        &mut self,
        lines: Lines,
        mut hashes: impl FnMut(&[Address], &mut [u64]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { lines: mut old, .. } = std::mem::replace(self, Self::over(lines));
        if old.is_empty() {
            return Ok(());
        }
        let before = old.len().trailing_zeros();
        let (more, fewer) = (self.bits.saturating_sub(before), before.saturating_sub(self.bits));
        let (mut unknown, mut found) = (Vec::with_capacity(BLOCK), [0; BLOCK]);
        for line in 0..old.len() {
            if line > 0 && line.is_multiple_of(GIVEN_BACK) {
                old.give_back_before(line);
            }
            for slot in old[line].0 {
                if is_free(slot) {
                    continue;
                }
                let (distance, bits) = parts(slot);
                let address = address_in(slot);
                let known = u64::BITS - 1 - bits.trailing_zeros();
                if distance < FAR && known >= more + START_BITS {
                    let home = line.wrapping_sub(distance) & (old.len() - 1);
                    // Bits go from the tag to the home line, or back.
                    let moved = (home as u64) << 1 << (63 - fewer);
                    let home = home << more | (bits >> 1 >> (63 - more)) as usize;
                    self.place(home >> fewer, bits << more >> fewer | moved, address);
                    continue;
                }
                unknown.push(address);
                if unknown.len() == BLOCK {
                    self.insert_all(&mut unknown, &mut found, &mut hashes)?;
                }
            }
        }
        self.insert_all(&mut unknown, &mut found, &mut hashes)
    }

    /// Inserts entries whose hashes only their records know.
    fn insert_all<E>(
        &mut self,
        addresses: &mut Vec<Address>,
        found: &mut [u64; BLOCK],
        hashes: &mut impl FnMut(&[Address], &mut [u64]) -> Result<(), E>,
    ) -> Result<(), E> {
        let found = &mut found[..addresses.len()];
        hashes(addresses, found)?;
        addresses.drain(..).zip(found).for_each(|(address, hash)| self.insert(*hash, address));
        Ok(())
    }

    /// Adds an entry that is not there. The index must not be [full](Self::is_full).
    #[inline]
    pub fn insert(&mut self, hash: u64, address: Address) {
        debug_assert!(!self.is_full());
        let (line, rest) = self.home(hash);
        self.place(line, rest | 1, address);
    }

    /// Adds an entry with this home line and these bits behind it, as [`slot_of`] takes them.
    #[inline]
    fn place(&mut self, home: usize, bits: u64, address: Address) {
        let start = start(bits);
        let (mut line, mut distance) = (home, 0);
        let place = loop {
            let slots = &self.lines[line].0;
            let places = (start..start + LINE_WORDS).map(|at| at % LINE_WORDS);
            if let Some(place) = places.into_iter().find(|place| is_free(slots[*place])) {
                break place;
            }
            line = (line + 1) & (self.lines.len() - 1);
            distance += 1;
        };
        let slot = &mut self.lines[line].0[place];
        self.used += usize::from(*slot == EMPTY);
        *slot = slot_of(bits, distance, address);
        self.len += 1;
    }

    /// Removes an entry.
    pub fn remove(&mut self, slot: SlotIndex) {
        self.len -= 1;
        let slots = &mut self.lines[slot.0 / LINE_WORDS].0;
        let mut at = slot.0 % LINE_WORDS;
        slots[at] = REMOVED;
        if slots[(at + 1) % LINE_WORDS] == EMPTY {
            // No search passes here to something behind it.
            while slots[at] == REMOVED {
                slots[at] = EMPTY;
                self.used -= 1;
                at = at.wrapping_sub(1) % LINE_WORDS;
            }
        }
    }

    /// Removes the entries at addresses where nothing is any more.
    pub fn forget(&mut self, is_gone: impl Fn(Address) -> bool) {
        for slot in self.lines.iter_mut().flat_map(|line| &mut line.0) {
            if !is_free(*slot) && is_gone(address_in(*slot)) {
                *slot = REMOVED;
                self.len -= 1;
            }
        }
    }

    /// All addresses, in the order of the slots.
    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        let slots = self.lines.iter().flat_map(|line| &line.0);
        slots.filter(|slot| !is_free(**slot)).map(|slot| address_in(*slot))
    }
}
