//! The entries of one table: an index for each namespace.

use super::address::Address;
use super::index::Index;
use super::lines::Lines;
use millstream_types::Timestamp;
use std::collections::BTreeMap;

/// Memory of dropped indexes is kept up to this size, for the next slices.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// The indexes of one table. Who borrows this may read the table's records, who borrows it mutably
/// may change them ([`super::log::Log`] asks for it).
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Of [`Timestamp::MIN`], which state without slices uses.
    plain: Index,
    slices: BTreeMap<Timestamp, Slice>,
    spare: Vec<Lines>,
    spare_bytes: usize,
    /// Slices that are gone, but not in checkpoints that the store may go back to: with the address of the
    /// record that says so.
    buried: Vec<(Address, Timestamp, Slice)>,
    buried_bytes: usize,
}

/// A namespace that is dropped as a whole.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub index: Index,
    /// Where its first record was written.
    pub first: Option<Address>,
    /// Bytes of live records by segment, so that dropping them does not visit them.
    pub live: Vec<(u32, u64)>,
}

impl Slice {
    fn credit(&mut self, address: Address, bytes: u64) {
        self.first.get_or_insert(address);
        let segment = address.segment();
        match self.live.iter_mut().rev().find(|(of, _)| *of == segment) {
            Some((_, live)) => *live += bytes,
            None => self.live.push((segment, bytes)),
        }
    }

    fn debit(&mut self, segment: u32, bytes: u64) {
        if let Some(at) = self.live.iter().rposition(|(of, _)| *of == segment) {
            self.live[at].1 -= bytes;
            if self.live[at].1 == 0 {
                self.live.remove(at);
            }
        }
    }
}

impl Namespaces {
    /// The index of a namespace that holds an entry.
    #[inline]
    pub fn index(&self, namespace: Timestamp) -> Option<&Index> {
        if namespace == Timestamp::MIN {
            return Some(&self.plain);
        }
        self.slices.get(&namespace).map(|slice| &slice.index)
    }

    /// The index of a namespace, made if it is not there.
    #[inline]
    pub fn index_mut(&mut self, namespace: Timestamp) -> &mut Index {
        if namespace == Timestamp::MIN {
            return &mut self.plain;
        }
        let Self { slices, spare, spare_bytes, .. } = self;
        &mut slices
            .entry(namespace)
            .or_insert_with(|| {
                let index = spare.pop().map(|lines| {
                    *spare_bytes -= size_of_val(&*lines);
                    Index::reusing(lines)
                });
                Slice { index: index.unwrap_or_default(), ..Slice::default() }
            })
            .index
    }

    pub fn is_live(&self, namespace: Timestamp) -> bool {
        self.index(namespace).is_some_and(|index| index.len() > 0)
    }

    /// The namespaces that hold an entry, ascending.
    pub fn live(&self) -> impl Iterator<Item = Timestamp> {
        let plain = (self.plain.len() > 0).then_some(Timestamp::MIN);
        let slices = self.slices.iter().filter(|(_, slice)| slice.index.len() > 0);
        plain.into_iter().chain(slices.map(|(namespace, _)| *namespace))
    }

    /// A record of a namespace has come alive.
    #[inline]
    pub fn credit(&mut self, namespace: Timestamp, address: Address, bytes: u64) {
        if namespace != Timestamp::MIN
            && let Some(slice) = self.slices.get_mut(&namespace)
        {
            slice.credit(address, bytes);
        }
    }

    /// A record of a namespace is dead.
    #[inline]
    pub fn debit(&mut self, namespace: Timestamp, address: Address, bytes: u64) {
        if namespace != Timestamp::MIN
            && let Some(slice) = self.slices.get_mut(&namespace)
        {
            slice.debit(address.segment(), bytes);
        }
    }

    /// Takes a namespace away, except [`Timestamp::MIN`].
    pub fn remove(&mut self, namespace: Timestamp) -> Option<Slice> {
        self.slices.remove(&namespace)
    }

    /// Takes away the index of [`Timestamp::MIN`].
    pub fn remove_plain(&mut self) -> Index {
        std::mem::take(&mut self.plain)
    }

    /// Keeps a slice that was taken away, as this record says.
    pub fn bury(&mut self, removal: Address, namespace: Timestamp, slice: Slice) {
        self.buried_bytes += slice.index.bytes();
        self.buried.push((removal, namespace, slice));
    }

    /// Takes back that a slice was taken away, as this record says; `None` if it was not kept.
    pub fn unbury(&mut self, removal: Address) -> Option<&Slice> {
        let at = self.buried.iter().rposition(|(of, ..)| *of == removal)?;
        let (_, namespace, slice) = self.buried.remove(at);
        self.buried_bytes -= slice.index.bytes();
        self.slices.insert(namespace, slice);
        self.slices.get(&namespace)
    }

    pub fn has_buried(&self) -> bool {
        !self.buried.is_empty()
    }

    /// Slices that were taken away before this are not kept any more.
    pub fn forget_buried(&mut self, before: Address) {
        self.buried_bytes = 0;
        for (removal, namespace, slice) in std::mem::take(&mut self.buried) {
            if removal < before {
                self.recycle(slice.index);
            } else {
                self.bury(removal, namespace, slice);
            }
        }
    }

    /// Keeps the memory of an index for the next slice.
    pub fn recycle(&mut self, index: Index) {
        let bytes = index.bytes();
        if bytes > 0 && self.spare_bytes + bytes <= SPARE_BYTES_MAX {
            self.spare_bytes += bytes;
            self.spare.push(index.into_lines());
        }
    }

    /// The memory of all indexes.
    pub fn bytes(&self) -> usize {
        let slices: usize = self.slices.values().map(|slice| slice.index.bytes()).sum();
        self.plain.bytes() + slices + self.buried_bytes + self.spare_bytes
    }
}
