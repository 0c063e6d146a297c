//! Figures about a store.

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
}
