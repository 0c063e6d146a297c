//! Figures about a store.

use crate::StoreFigure;

/// What a store of segments holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStats {
    /// Segments that hold something, or that the next checkpoint refers to.
    pub segments: u64,
    /// Bytes of records that are the newest of their key, and of records that say that something is
    /// removed.
    pub live_bytes: u64,
    /// Of the live bytes, those that say that something is removed.
    pub removal_bytes: u64,
    /// The other bytes of segments: replaced and removed records, padding, checksums.
    pub dead_bytes: u64,
    /// Segments that were forgotten without being read, since all in them had expired.
    pub expired_segments: u64,
    /// Records that were forgotten since they had expired, with their segments or by compaction.
    pub expired_records: u64,
    /// The bytes of these records.
    pub expired_bytes: u64,
    /// Bytes that are served from mapped files.
    pub cold_bytes: u64,
    /// Entries of batches that were found in mapped files, and asked for ahead.
    pub cold_reads: u64,
    /// The bytes of these entries, as far as the mean length of records tells.
    pub cold_read_bytes: u64,
    /// The bytes that were asked for of files for them: whole pages, and what is likely to be needed
    /// next.
    pub cold_asked_bytes: u64,
    /// How often the slot's thread has waited for a page to be read from disk since the store was
    /// opened.
    pub major_faults: u64,
    /// Memory of segments.
    pub resident_bytes: u64,
    /// Memory of indexes.
    pub index_bytes: u64,
    /// Bytes of records appended since the store was opened, by compaction too.
    pub appended_bytes: u64,
    /// Bytes written to files since the store was opened.
    pub written_bytes: u64,
    /// How often the store has gone back to a checkpoint where it stood.
    pub rollbacks: u64,
}

impl SegmentStats {
    /// How many bytes are asked for of files for each byte that is needed; 0 if none has been.
    pub fn read_amplification(&self) -> f64 {
        match self.cold_read_bytes {
            0 => 0.0,
            needed => self.cold_asked_bytes as f64 / needed as f64,
        }
    }

    /// The same for whoever watches a job.
    pub(super) fn figures(&self) -> Vec<StoreFigure> {
        let now = |name, about, value: u64| (name, about, false, value as f64);
        let total = |name, about, value: u64| (name, about, true, value as f64);
        [
            now(
                "segments",
                "Segments that hold something or that a checkpoint needs",
                self.segments,
            ),
            now("live_bytes", "Bytes of the newest records of keys", self.live_bytes),
            now("dead_bytes", "Other bytes of segments", self.dead_bytes),
            now("cold_bytes", "Bytes of segments that are read from files", self.cold_bytes),
            now("resident_bytes", "Memory of segments", self.resident_bytes),
            now("index_bytes", "Memory of indexes", self.index_bytes),
            total("appended_bytes", "Bytes of records appended", self.appended_bytes),
            total("written_bytes", "Bytes written to files", self.written_bytes),
            total(
                "expired_records",
                "Records forgotten since they had expired",
                self.expired_records,
            ),
            total(
                "rollbacks",
                "Times that the store went back to a checkpoint in place",
                self.rollbacks,
            ),
            total("cold_reads", "Entries asked for of files", self.cold_reads),
            total("major_faults", "Pages the slot waited for a disk for", self.major_faults),
            (
                "read_amplification_ratio",
                "Bytes asked of files for each that was needed",
                false,
                self.read_amplification(),
            ),
        ]
        .map(|(name, about, is_total, value)| StoreFigure { name, about, is_total, value })
        .to_vec()
    }
}
