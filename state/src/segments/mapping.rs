//! Files of segments that are complete, mapped for reading.
#![expect(unsafe_code, reason = "memory that is a file")]

use super::error::SegmentError;
use memmap2::{Advice, Mmap};
use std::fs::File;
use std::path::Path;

/// Maps a file that has `len` bytes or more and is not written any more.
///
/// A name is never given to another file, and no code path writes or shortens a complete segment.
/// Who does so from outside while the job runs ends the process (SIGBUS) or changes values under
/// it; what is read is checked in bounds at every access all the same.
pub(super) fn map(path: &Path, len: u64) -> Result<Mmap, SegmentError> {
    let failed =
        |operation| move |source| SegmentError::io(path.display().to_string(), operation, source);
    let file = File::open(path).map_err(failed("open"))?;
    let found = file.metadata().map_err(failed("read the size of"))?.len();
    if found < len {
        return Err(SegmentError::Damaged {
            file: path.display().to_string(),
            offset: found,
            reason: "it is shorter than the checkpoint says",
        });
    }
    // SAFETY: the file is not written or shortened any more, see above.
    unsafe { Mmap::map(&file) }.map_err(failed("map"))
}

/// From now on single records are read: one page at a time, without those around it.
pub(super) fn read_at_random(mapping: &Mmap) {
    let _ = mapping.advise(Advice::Random);
}

/// Asks for all of it to be read soon: what does so page by page waits for each.
pub(super) fn read_ahead(mapping: &Mmap) {
    // A host that does not know the advice does without.
    let _ = mapping.advise(Advice::WillNeed);
}

/// Reads all of it, and enters it into the page table, which costs less than a fault for each page.
pub(super) fn populate(mapping: &Mmap) {
    let _ = mapping.advise(Advice::PopulateRead);
}
