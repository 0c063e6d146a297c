//! Asking for records before they are read: for cache lines, and for pages of files.

use super::{Log, PAGE, Pin};
use crate::StateError;
use crate::segments::address::Address;
use crate::segments::memory::View;
use crate::segments::namespaces::Namespaces;

const CACHE_LINE: usize = 64;

impl Log {
    /// Asks for the first cache line of a record.
    #[inline]
    pub fn prefetch(&self, address: Address) {
        if let Some(view) = self.views.get(address.segment() as usize) {
            view.prefetch(address.offset());
        }
    }

    /// Asks for a record that will be read soon: for its first cache lines, or for the pages of its file.
    #[inline]
    pub fn ask(&self, address: Address) {
        if let Some(view) = self.views.get(address.segment() as usize) {
            if view.is_file() {
                return self.ask_file(*view, address);
            }
            let offset = address.offset();
            view.prefetch(offset);
            // Its key and value may stand in the next line: of short records, every other one does.
            if offset % CACHE_LINE + self.usual_len > CACHE_LINE {
                view.prefetch(offset + CACHE_LINE);
            }
        }
    }

    /// Asks for what the last question has not asked for; for more, each time, while what is asked
    /// for lies side by side.
    #[cold]
    fn ask_file(&self, view: View, address: Address) {
        const PAGES_MAX: usize = 32;
        self.cold_reads.set(self.cold_reads.get() + 1);
        self.cold_read_bytes.set(self.cold_read_bytes.get() + self.mean_len as u64);
        let (first, last) =
            (address.offset() / PAGE, (address.offset() + self.usual_len - 1) / PAGE);
        let (segment, asked) = self.asked.take();
        let is_there = segment == address.segment() && asked.contains(&first);
        let follows = segment == address.segment() && first == asked.end;
        if is_there && asked.contains(&last) {
            return self.asked.set((segment, asked));
        }
        let mut pages = last + 1 - first;
        if is_there || follows {
            pages = pages.max((asked.len() * 2).min(PAGES_MAX));
        }
        self.cold_asked_bytes.set(self.cold_asked_bytes.get() + (pages * PAGE) as u64);
        view.read_ahead(first * PAGE, pages * PAGE);
        self.asked.set((address.segment(), first..first + pages));
    }

    /// The hashes of records.
    pub fn hashes(
        &self,
        addresses: &[Address],
        hashes: &mut [u64],
        pin: &Pin<'_>,
        owner: &Namespaces,
    ) -> Result<(), StateError> {
        addresses.iter().for_each(|address| self.ask(*address));
        for (address, hash) in addresses.iter().zip(hashes) {
            *hash = self.record(*address, pin, owner)?.header.hash;
        }
        Ok(())
    }

    /// Starts to read a part of a segment that is read in order, if it is in a file.
    pub fn read_ahead(&self, number: u32, offset: usize, len: usize) {
        self.views[number as usize].read_ahead(offset, len);
    }
}
