//! The log: segments of records, appended at the tail.
//!
//! # Regions
//! By address, from old to new: *cold* segments are mapped files; *sealed* ones are in memory,
//! written to their files or on the way there; what lies from [`Log::mutable_from`] on is
//! *mutable*: records there may be updated in place by the epoch that wrote them (FASTER's hybrid
//! log).
//!
//! # Invariants
//! - What lies before `mutable_from` is never written again, so the writer's thread may read it.
//! - Memory of a segment is given back, and a segment is sealed, only while no [`Pin`] exists.
//! - A record belongs to one table, and is read only by who borrows the table's [`Namespaces`], and
//!   changed only by who borrows them mutably; compaction and the writer read what is immutable.
#![expect(unsafe_code, reason = "records are read and updated in place")]

mod aging;
mod cuts;
mod merges;
mod reads;
mod room;
mod segment;

pub(super) use aging::Unexpired;
pub(super) use cuts::Cut;
pub(super) use segment::{Lineage, Segment};

use super::address::{Address, SEGMENTS_MAX};
use super::error::SegmentError;
use super::format::{FileHeader, PAGE, TableEntry, encode_tables, trailer_len};
use super::memory::{Account, Buffer, Sealed, View, major_faults};
use super::namespaces::Namespaces;
use super::record::{self, HEADER_BYTES, Header, KIND_AT, Kind, Record, same_key};
use super::writer::{ExtentJob, Writer};
use crate::{EntryKey, FileWatcher, StateClock, StateError};
use aging::Expired;
use cuts::Cuts;
use merges::Merges;
use millstream_tuning::BackgroundCores;
use millstream_types::Timestamp;
use segment::Body;
use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// While it exists no segment's memory is given back.
pub(super) struct Pin<'a>(&'a Cell<u32>);

impl<'a> Pin<'a> {
    #[inline]
    pub fn new(pins: &'a Cell<u32>) -> Self {
        pins.set(pins.get() + 1);
        Self(pins)
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The sizes that a log keeps to.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Of a segment, in bytes, unless a record needs a greater one.
    pub segment: usize,
    /// The most memory that buffers and indexes may take.
    pub memory: u64,
    /// More than so many bytes are not kept mutable where there are files.
    pub mutable: u64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("run", &self.run)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

pub(super) struct Log {
    /// Where each segment's bytes are, by number.
    views: Vec<View>,
    segments: Vec<Segment>,
    /// The number of the segment that is appended to, if `tail_end` is not zero.
    tail: u32,
    /// Where the next record goes in it.
    fill: usize,
    /// Where records must end in it, so that the trailer has room.
    tail_end: usize,
    mutable_from: Address,
    /// The least segment that still counts: those before are forgotten.
    oldest: u32,
    /// Names this store, for ever.
    run: u64,
    sizes: Sizes,
    directory: Option<PathBuf>,
    writer: Option<Writer>,
    dictionary: Vec<TableEntry>,
    /// For each table, the first with the same operator and name: those of other members are of other
    /// key groups, and records have moved between them.
    families: Vec<u16>,
    /// The dictionary as it stands in trailers.
    encoded: Arc<[u8]>,
    /// The greatest epoch that a member writes in.
    pub epoch_max: u32,
    /// The epoch after the newest checkpoint that was asked for.
    persisted: u32,
    /// Memory of segments that are gone, for the next ones.
    spares: Vec<Buffer>,
    /// The memory of segments, wherever it is.
    buffers: Account,
    /// Memory for a segment is on its way from the writer.
    preparing: bool,
    /// There may be more that is mutable than should be.
    seals_soon: bool,
    /// Segments before this one are not in memory.
    resident_from: u32,
    /// How many segments are read from their files.
    mapped: u32,
    live: u64,
    appended: u64,
    removals: u64,
    /// The mean length of records.
    mean_len: usize,
    /// How much of a file is asked for with a record: most are no longer.
    usual_len: usize,
    /// The segment and the pages of its file that were asked for last.
    asked: Cell<(u32, Range<usize>)>,
    /// The time by which records expire.
    clock: StateClock,
    /// There is a record that expires.
    ages: bool,
    expired: Expired,
    /// Records of batches that were in files: how many, their bytes, and what was asked for.
    cold_reads: Cell<u64>,
    cold_read_bytes: Cell<u64>,
    cold_asked_bytes: Cell<u64>,
    /// Major faults of this thread before it used the store, and of those that used it before.
    major_faults: u64,
    faults_before: u64,
    /// What writers before this one have written.
    written_before: u64,
    /// A record could not be written or read.
    has_failed: Cell<bool>,
    /// There is too much that is dead: compact when so much has been appended.
    compact_at: Option<u64>,
    cuts: Cuts,
    pub merges: Merges,
}

impl Log {
    pub fn new(sizes: Sizes, directory: Option<PathBuf>, run: u64, epoch: u32) -> Self {
        let merges = Merges::within(sizes.memory);
        let mut log = Self {
            views: Vec::new(),
            segments: Vec::new(),
            tail: 0,
            fill: 0,
            tail_end: 0,
            mutable_from: Address::NONE,
            oldest: 0,
            run,
            sizes,
            directory,
            writer: None,
            dictionary: Vec::new(),
            families: Vec::new(),
            encoded: Arc::default(),
            epoch_max: epoch,
            persisted: epoch,
            spares: Vec::new(),
            buffers: Account::default(),
            preparing: false,
            seals_soon: false,
            resident_from: 0,
            mapped: 0,
            live: 0,
            appended: 0,
            removals: 0,
            mean_len: HEADER_BYTES,
            usual_len: HEADER_BYTES,
            asked: Cell::default(),
            clock: StateClock::default(),
            ages: false,
            expired: Expired::default(),
            cold_reads: Cell::new(0),
            cold_read_bytes: Cell::new(0),
            cold_asked_bytes: Cell::new(0),
            major_faults: major_faults(),
            faults_before: 0,
            written_before: 0,
            has_failed: Cell::new(false),
            compact_at: None,
            cuts: Cuts::default(),
            merges,
        };
        log.encoded = encode_tables(&[]).into();
        log
    }

    /// Starts the thread that writes, on one of these cores, if the store has a directory.
    pub fn start_writer(
        &mut self,
        cores: &BackgroundCores,
        watcher: Option<FileWatcher>,
    ) -> Result<(), StateError> {
        if let Some(directory) = &self.directory {
            let writer = Writer::start(directory.clone(), cores.clone(), watcher);
            self.writer = Some(writer.map_err(|e| e.during("open a store"))?);
        }
        Ok(())
    }

    /// Ends the thread that writes, when what it was asked for is done. False if something could not be
    /// written or read: then somebody may have gone on with an index that is half changed.
    pub fn stop_writer(&mut self) -> bool {
        self.collect_mapped();
        self.preparing = false;
        self.faults_before += self.faults_of_thread();
        let Some(writer) = self.writer.take() else { return !self.has_failed.get() };
        // Waits for it, so that what fails meanwhile is seen.
        writer.settle();
        self.written_before += writer.bytes_written();
        writer.failure().is_none() && !self.has_failed.get()
    }

    /// This thread uses the log from now on.
    pub fn change_thread(&mut self) {
        self.major_faults = major_faults();
    }

    /// True if its files are here.
    pub fn is_in(&self, directory: Option<&Path>) -> bool {
        self.directory.as_deref() == directory
    }

    /// True if records are written to files, and so what is removed must be written too.
    pub fn is_durable(&self) -> bool {
        self.directory.is_some()
    }

    /// Names a table, and returns its id.
    pub fn add_table(&mut self, table: TableEntry) -> Result<u16, SegmentError> {
        let id = u16::try_from(self.dictionary.len())
            .map_err(|_| SegmentError::Exhausted("a store holds at most 65,536 tables"))?;
        let same =
            |other: &TableEntry| other.operator == table.operator && other.name == table.name;
        let family = self.dictionary.iter().position(same).and_then(|at| u16::try_from(at).ok());
        self.families.push(family.unwrap_or(id));
        self.dictionary.push(table);
        self.encoded = encode_tables(&self.dictionary).into();
        if self.tail_end > 0 {
            let capacity = self.views[self.tail as usize].len();
            let end = self.tail_end_of(capacity);
            // The trailer of the open extent may have no room for another table: then no record of
            // it comes here.
            self.tail_end = self.fill.max(end);
            if end >= self.fill {
                self.segments[self.tail as usize].tables = Arc::clone(&self.encoded);
            }
        }
        Ok(id)
    }

    /// True if a write has failed.
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.failure().is_some())
    }

    /// The store's poison.
    pub fn failure(&self) -> Option<StateError> {
        let failure = self.writer.as_ref()?.failure()?;
        Some(poisoned(failure))
    }

    /// True if to read a record may mean to wait for a disk.
    #[inline]
    pub fn is_partly_cold(&self) -> bool {
        self.mapped > 0
    }

    /// True if a record of the epoch may be updated in place.
    #[inline]
    pub fn is_mutable(&self, address: Address, header: &Header, epoch: u32) -> bool {
        address >= self.mutable_from && header.epoch == epoch
    }

    /// True if the record is not sealed yet.
    pub fn is_open(&self, address: Address) -> bool {
        address >= self.mutable_from
    }

    /// A record of the table of these namespaces.
    #[inline]
    pub fn record<'a>(
        &self,
        address: Address,
        _pin: &'a Pin<'_>,
        _owner: &'a Namespaces,
    ) -> Result<Record<'a>, StateError> {
        let Some(view) = self.views.get(address.segment() as usize) else {
            return Err(self.unreadable(address, "an address outside the log"));
        };
        // SAFETY: the pin keeps the memory. The record is changed only by who borrows its table's
        // namespaces mutably, and they are borrowed.
        unsafe { record_at(*view, address.offset()) }
            .map_err(|reason| self.unreadable(address, reason))
    }

    /// [`Self::damaged`], after which somebody may go on with an index that is half changed.
    #[cold]
    fn unreadable(&self, address: Address, reason: &'static str) -> StateError {
        self.has_failed.set(true);
        self.damaged(address, reason)
    }

    /// The value of a [mutable](Self::is_mutable) record, to be changed.
    #[inline]
    pub fn value_mut<'a>(
        &self,
        address: Address,
        header: &Header,
        _pin: &'a Pin<'_>,
        _owner: &'a mut Namespaces,
    ) -> Result<&'a mut [u8], StateError> {
        assert!(address >= self.mutable_from, "a sealed record is not changed");
        let view = self.views[address.segment() as usize];
        // SAFETY: the pin keeps the memory, which is a buffer's, since mutable segments are not
        // mapped. The record is not sealed, nor will it be while there is a pin, so the writer does
        // not read it; and its table's namespaces are borrowed mutably.
        unsafe { view.bytes_mut(address.offset() + HEADER_BYTES, header.value_len as usize) }
            .ok_or_else(|| self.unreadable(address, "a record is longer than what holds it"))
    }

    /// What compaction looks for next: the hash and the table of the record at the beginning of an
    /// extent of this store's, if it is not in a file, and how long it is.
    #[inline]
    pub fn peek(&self, number: u32, extent: &Range<usize>) -> Option<(u64, u16, usize)> {
        let view = *self.views.get(number as usize)?;
        if view.is_file() || extent.len() < HEADER_BYTES {
            return None;
        }
        // SAFETY: as in `copy_record`.
        let header = unsafe { view.bytes(extent.start, HEADER_BYTES) }?.first_chunk()?;
        let header = Header::decode(header)?;
        Some((header.hash, header.table, header.len()?))
    }

    /// The value of a [mutable](Self::is_mutable) record, to be changed, if it is all of the value of
    /// this key.
    #[inline(always)]
    pub fn mutable_value<'a>(
        &self,
        address: Address,
        key: &EntryKey<'_>,
        epoch: u32,
        _pin: &'a Pin<'_>,
        _owner: &'a mut Namespaces,
    ) -> Option<&'a mut [u8]> {
        if address < self.mutable_from {
            return None;
        }
        let view = *self.views.get(address.segment() as usize)?;
        // SAFETY: as in `value_mut`; the reference does not leave this function, and ends before the
        // next one begins.
        let header = unsafe { view.bytes(address.offset(), HEADER_BYTES) }?.first_chunk()?;
        let header = Header::decode(header).filter(|header| {
            header.hash == key.hash && header.epoch == epoch && header.kind == Kind::Whole
        })?;
        let (value, key_len) = (header.value_len as usize, header.key_len as usize);
        // SAFETY: as in `value_mut`.
        let bytes = unsafe { view.bytes_mut(address.offset() + HEADER_BYTES, value + key_len) }?;
        let (value, found) = bytes.split_at_mut(value);
        same_key(found, key.bytes).then_some(value)
    }

    /// Replaces the header of a record that is not sealed.
    pub fn set_header(&self, address: Address, header: &Header, _owner: &mut Namespaces) {
        assert!(address >= self.mutable_from, "a sealed record is not changed");
        let view = self.views[address.segment() as usize];
        // SAFETY: as in `value_mut`; the reference does not leave this function.
        if let Some(bytes) = unsafe { view.bytes_mut(address.offset(), HEADER_BYTES) } {
            bytes.copy_from_slice(&header.encode());
        }
    }

    /// All bytes of a segment that is sealed. Between its extents there may be anything.
    pub fn sealed_bytes<'a>(&self, number: u32, _pin: &'a Pin<'_>) -> &'a [u8] {
        assert!(number < self.mutable_from.segment(), "the segment is sealed");
        let view = self.views[number as usize];
        // SAFETY: the pin keeps the memory, and what is sealed is not written.
        unsafe { view.bytes(0, view.len()) }.unwrap_or_default()
    }

    /// Copies the record at the beginning of an extent; false if the extent ends there.
    pub fn copy_record(
        &self,
        number: u32,
        extent: &Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<bool, StateError> {
        let view = self.views[number as usize];
        if extent.len() < HEADER_BYTES {
            return Ok(false);
        }
        // SAFETY: memory is given back, and records are changed, by methods of this log alone and of
        // `value_mut`'s borrower, who does not compact meanwhile; the reference ends here.
        let kind = unsafe { view.bytes(extent.start + KIND_AT, 1) };
        if kind.is_none_or(|kind| kind == [0]) {
            return Ok(false);
        }
        // SAFETY: as above.
        let record = unsafe { record_at(view, extent.start) }
            .ok()
            .filter(|record| record.bytes().len() <= extent.len())
            .ok_or_else(|| {
                self.damaged(Address::new(number, extent.start), "a record of impossible length")
            })?;
        out.clear();
        out.extend_from_slice(record.bytes());
        Ok(true)
    }

    /// The header, the namespace and the length of the record at the beginning of an extent; `None` if the
    /// extent ends there.
    pub fn header_at(
        &self,
        number: u32,
        extent: &Range<usize>,
    ) -> Result<Option<(Header, Timestamp, usize)>, StateError> {
        let view = self.views[number as usize];
        // SAFETY: as in `copy_record`.
        let kind = unsafe { view.bytes(extent.start.saturating_add(KIND_AT), 1) };
        if extent.len() < HEADER_BYTES || kind.is_none_or(|kind| kind == [0]) {
            return Ok(None);
        }
        // SAFETY: as above.
        let record = unsafe { record_at(view, extent.start) }
            .map_err(|reason| self.damaged(Address::new(number, extent.start), reason))?;
        Ok(Some((record.header, record.namespace(), record.bytes().len())))
    }

    /// Where the records of a segment lie that compaction has to look at.
    pub fn extents(&self, number: u32) -> Vec<Range<usize>> {
        let segment = &self.segments[number as usize];
        if let Some(held) = &segment.held {
            return held.clone();
        }
        let mut extents = segment.extents.clone();
        if segment.filled > segment.extent_start() {
            extents.push(segment.extent_start()..segment.filled);
        }
        extents
    }

    /// Bytes of all records that were ever written.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// True if a step of compaction is due.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.compact_at.is_some_and(|at| self.appended >= at)
    }

    /// The record to which a piece is appended.
    pub fn base_of(&self, piece: Address, header: &Header) -> Result<Address, StateError> {
        self.previous_of(piece, header)
            .ok_or_else(|| self.damaged(piece, "a piece of a value refers to nothing"))
    }

    /// The version that a record replaced, if that may still be there.
    pub fn previous_of(&self, record: Address, header: &Header) -> Option<Address> {
        let previous = match &self.segments[record.segment() as usize].lineage {
            _ if !header.previous.is_some() => return None,
            Lineage::Own => header.previous,
            Lineage::Restored { numbers, .. } => {
                let number = numbers.get(&header.previous.segment())?;
                Address::new(*number, header.previous.offset())
            }
        };
        // Older than the record, so that every walk ends.
        (previous.is_some() && previous < record).then_some(previous)
    }

    /// True if this store has written the record, not one of an earlier run.
    pub fn is_own(&self, address: Address) -> bool {
        matches!(self.segments[address.segment() as usize].lineage, Lineage::Own)
    }

    /// Adds a record at the tail; it counts as live.
    #[inline]
    pub fn append(
        &mut self,
        header: &Header,
        namespace: Timestamp,
        key: &[u8],
        value: &[u8],
    ) -> Result<Address, StateError> {
        let len = match header.len() {
            Some(len) if len < (u32::MAX - (64 << 20)) as usize => len,
            _ => {
                self.has_failed.set(true);
                return Err(too_large(key, value));
            }
        };
        if self.fill + len > self.tail_end {
            self.roll(len).inspect_err(|_| self.has_failed.set(true))?;
        }
        let view = self.views[self.tail as usize];
        // SAFETY: the tail is a buffer, and nobody has an address at or above the fill mark:
        // neither records nor the writer's extents reach so far. The reference does not leave this
        // function, in which no segment is given back.
        let out = unsafe { view.bytes_mut(self.fill, len) };
        let out = out.expect("the tail has room");
        record::encode(header, namespace, key, value, out);
        let address = Address::new(self.tail, self.fill);
        self.fill += len;
        let segment = &mut self.segments[self.tail as usize];
        segment.live += len as u64;
        segment.appended += len as u64;
        segment.records += 1;
        self.live += len as u64;
        self.appended += len as u64;
        if header.expires {
            self.credit_expiring(address, header.table, len as u64);
            self.note_expiry(address, header.table, record::expiry_of(value), len as u64);
        }
        Ok(address)
    }

    /// A record, or a part of a segment, is dead.
    #[inline]
    pub fn debit(&mut self, segment: u32, bytes: u64) {
        self.segments[segment as usize].live -= bytes;
        self.live -= bytes;
    }

    /// A record that was counted dead says that something was removed, and is kept for that.
    pub fn credit(&mut self, segment: u32, bytes: u64) {
        self.segments[segment as usize].live += bytes;
        self.live += bytes;
    }

    /// Counts a record of an earlier run that says that something is removed.
    pub fn keep_removal(&mut self, address: Address, header: &Header, table: u16) {
        self.credit_record(address, header, table);
        self.count_removal(address, header, table);
    }

    /// The number that the tail has, or will have.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Notes where the tail's records end, so that all of them are in [`Self::extents`].
    pub fn end_tail(&mut self) {
        if self.tail_end > 0 {
            let segment = &self.segments[self.tail as usize];
            let bytes = self.fill.saturating_sub(segment.extent_start());
            let records = segment.records as usize;
            self.note_lengths(bytes, records);
            self.segments[self.tail as usize].filled = self.fill;
        }
    }

    /// So many records have been written lately.
    fn note_lengths(&mut self, bytes: usize, records: usize) {
        self.mean_len = bytes.checked_div(records).unwrap_or(self.mean_len).max(HEADER_BYTES);
        self.usual_len = (self.mean_len + self.mean_len / 2).min(64 << 10);
    }

    /// Begins a new segment, with room for a record of this length.
    #[cold]
    fn roll(&mut self, len: usize) -> Result<(), StateError> {
        self.end_tail();
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let number = self.segments.len() as u32;
        if number >= SEGMENTS_MAX {
            return Err(SegmentError::Exhausted("the log has used up its addresses").during("grow"));
        }
        let data = (PAGE + len).next_multiple_of(PAGE);
        let least = data + PAGE + trailer_len(data, self.encoded.len());
        let capacity = self.sizes.segment.max(least.next_multiple_of(PAGE));
        let buffer = self.buffer(capacity)?;
        self.views.push(buffer.view());
        let name = format!("{:016x}-{number:08x}.segment", self.run);
        self.segments.push(Segment::new(
            Body::Resident(Arc::new(buffer)),
            name,
            Arc::clone(&self.encoded),
        ));
        (self.tail, self.fill) = (number, PAGE);
        self.tail_end = self.tail_end_of(capacity).max(PAGE + len);
        self.seals_soon = true;
        self.look_for_crowding();
        Ok(())
    }

    /// Where the records of the tail must end. One that was made for a single record takes no
    /// other, since it may reach beyond all addresses.
    fn tail_end_of(&self, capacity: usize) -> usize {
        if capacity > self.sizes.segment {
            return 0;
        }
        (capacity - trailer_len(capacity, self.encoded.len())) / PAGE * PAGE
    }

    /// True if [`Self::seal_surplus`] is due.
    #[inline]
    pub fn seals_soon(&self) -> bool {
        self.seals_soon
    }

    /// Seals what is beyond the most that is kept mutable. Not where a segment begins: somebody may be
    /// changing a value then, in whose midst he writes another one. No [`Pin`] may exist.
    pub fn seal_surplus(&mut self) {
        self.seals_soon = false;
        self.seal_beyond(self.sizes.mutable);
    }

    /// Seals the oldest segments until at most so many bytes are mutable, or only the tail.
    fn seal_beyond(&mut self, bytes: u64) {
        if self.writer.is_none() {
            return;
        }
        let mut open: u64 = (self.mutable_from.segment()..self.tail)
            .map(|number| self.views[number as usize].len() as u64)
            .sum();
        while open > bytes && self.mutable_from.segment() < self.tail {
            let number = self.mutable_from.segment();
            open -= self.views[number as usize].len() as u64;
            self.seal(number);
        }
    }

    /// Seals all but the tail.
    fn seal_full(&mut self) {
        self.seal_beyond(0);
    }

    /// Seals everything, up to the end of the log.
    pub fn seal_all(&mut self) {
        if self.tail_end == 0 || self.writer.is_none() {
            return;
        }
        self.end_tail();
        self.seal_full();
        self.close_extent(self.tail);
        self.fill = self.segments[self.tail as usize].filled;
        if self.fill < self.tail_end {
            self.mutable_from = Address::new(self.tail, self.fill);
        } else {
            self.seal(self.tail);
            self.tail_end = 0;
        }
    }

    /// Seals a whole segment, which must be the oldest that is not.
    fn seal(&mut self, number: u32) {
        self.close_extent(number);
        self.mutable_from = Address::new(number + 1, 0);
        let segment = &self.segments[number as usize];
        if let Some(writer) = &self.writer
            && segment.closed > 0
        {
            writer.map(number, segment.name.clone(), segment.closed);
        }
    }

    /// Ends the open extent of a segment and hands it to the writer.
    fn close_extent(&mut self, number: u32) {
        let Some(writer) = &self.writer else { return };
        let segment = &mut self.segments[number as usize];
        let Body::Resident(buffer) = &segment.body else { return };
        let (start, end) = (segment.extent_start(), segment.filled);
        if end <= start {
            return;
        }
        let data_end = end.next_multiple_of(PAGE);
        let padding = data_end - end;
        // SAFETY: between the records and the end of the extent, where there is no record yet; the
        // reference is gone with the statement.
        if let Some(padding) = unsafe { buffer.view().bytes_mut(end, padding) } {
            padding.fill(0);
        }
        let closed = data_end + trailer_len(data_end - start, segment.tables.len());
        assert!(closed <= buffer.len(), "the trailer has room");
        // SAFETY: the range lies before `mutable_from`, to which both callers raise it, and where
        // nothing is written any more; the buffer is used again only when it has one owner.
        let data = unsafe { Sealed::new(Arc::clone(buffer), start..data_end) };
        writer.write(ExtentJob {
            file: segment.name.clone(),
            header: FileHeader { run: self.run, number },
            data,
            records: std::mem::take(&mut segment.records),
            epoch_max: self.epoch_max,
            tables: Arc::clone(&segment.tables),
        });
        segment.extents.push(start..data_end);
        segment.closed = closed;
        segment.filled = closed;
    }

    pub(super) fn damaged(&self, address: Address, reason: &'static str) -> StateError {
        let file = self.segments.get(address.segment() as usize).map_or("", |s| s.name.as_str());
        SegmentError::Damaged { file: file.into(), offset: address.offset() as u64, reason }
            .during("read a record")
    }
}

/// The record at an offset: no more than its own bytes are looked at.
///
/// # Safety
/// For `'a` the memory stays where it is, and nobody writes the record.
#[inline]
unsafe fn record_at<'a>(view: View, offset: usize) -> Result<Record<'a>, &'static str> {
    // SAFETY: the caller's promise; a header is part of its record.
    let header = unsafe { view.bytes(offset, HEADER_BYTES) };
    let header = header.and_then(|bytes| bytes.first_chunk()).ok_or("a record is cut off")?;
    let header = Header::decode(header).ok_or("a record of unknown kind")?;
    let len = header.len().ok_or("a record of impossible length")?;
    // SAFETY: the caller's promise.
    let bytes = unsafe { view.bytes(offset, len) };
    Ok(Record::of(header, bytes.ok_or("a record is longer than what holds it")?))
}

#[cold]
fn too_large(key: &[u8], value: &[u8]) -> StateError {
    SegmentError::TooLarge { bytes: key.len() as u64 + value.len() as u64 }.during("write a record")
}

#[cold]
fn poisoned(failure: &SegmentError) -> StateError {
    SegmentError::Poisoned(Box::new(failure.clone())).during("write a record")
}
