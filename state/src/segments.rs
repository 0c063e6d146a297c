//! The backend `segments`: a log of records with an index, one per slot.
//!
//! A hybrid log in the manner of FASTER (Chandramouli et al., SIGMOD 2018), for one thread. Records
//! are appended to segments of fixed size; an index leads from a key's hash to its newest record.
//! The newest part of the log is *mutable*, its records are updated in place; what lies before is
//! *sealed*, is written to files once, and an update copies the record to the tail. What has been
//! written can leave memory: it is then *cold* and read from the mapped file.
//!
//! A checkpoint is a cut through versions (Prasaad et al., CPR, SIGMOD 2019). Every record carries
//! the epoch of its member, which is the checkpoint that the member takes next. A record is updated
//! in place only within that epoch, so the checkpoint n is the records of epochs up to n that lie
//! before the end of the log when its last member had cut; and to persist it is to seal the log
//! there. What was sealed before is not written again.
//!
//! The format of the files is in `docs/formats/segments.md`.
//!
//! # Invariants
//! - The thread of the slot reads and writes no file: one thread per store does ([`writer`]).
//! - A file's bytes never change once written, and its name is never given to another.
//! - Of the records of a key the last in the log counts, among those of epochs that are not void.
//! - A record that says that its key is removed is kept while a file may hold an older version.
//! - Buffers, wherever they are, and indexes together do not exceed the budget between two changes that
//!   append, with the next segment and the growth of an index that is near included; who appends
//!   waits for the writer until they fit, if he does so within another change then at the end of that.
//!   What is mapped does not count: the host may take it back at any time.
//! - Segments are sealed, compacted and moved out of memory between uses of tables, never within one:
//!   a user may be changing a value where it lies, and write to another table meanwhile.
//!
//! # Records that expire
//! The values of a table with a time to live end with their expiry. Who reads them looks at it; the log
//! counts what of each segment expires when, and reclaims segments ([`log`]). The invariants above hold
//! but for what has expired: an address may lead to a segment that is gone, and then to no record.
//!
//! # Not here yet
//! Times to live of different magnitudes share one tail: a segment in which some records expire soon and
//! others late is compacted, where with a tail for each it would die whole. Files of which all has expired
//! are read by a restore like others. After a time to live was shortened, what is written with it is
//! reclaimed only when what was written before has expired, too. Growth of an index in steps. An index in a
//! checkpoint: a restore reads all records. A cold block is verified when its file is restored, not when
//! it is loaded again.

mod address;
mod compact;
mod disk;
mod error;
mod format;
mod index;
mod lengths;
mod lines;
mod log;
mod mapping;
mod memory;
mod namespaces;
mod note;
mod record;
mod restore;
mod rollback;
mod stats;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use error::SegmentError;
pub use format::check_segment;
pub use stats::SegmentStats;
pub use store::{SegmentStore, SegmentsBackend};
pub(crate) use table::TableAhead;
pub use table::{Found, SegmentTable};
