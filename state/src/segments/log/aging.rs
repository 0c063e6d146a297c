//! What of the log expires, and when.
//!
//! Records that expire are counted by segment and by the time at which they do, in buckets of time. So
//! it is known without reading them how much of a segment has expired: a segment of which all has dies
//! whole, and one of which most has is compacted.
//!
//! # Invariants
//! - A bucket's time is not before the expiry of any record counted in it.
//! - A record that has expired is forgotten only while no older segment in use holds records of the same
//!   table that have not: such a record could be an older version of the same key, which a restore would
//!   then take for the newest. Expiries mostly ascend with the log, so this rarely keeps anything; it
//!   does after a time to live was shortened.

use super::segment::{Body, Stage};
use super::{Log, Pin};
use crate::segments::address::Address;
use crate::segments::namespaces::Namespaces;
use crate::segments::record::{Header, Record};
use crate::segments::table::len_of;
use crate::{StateClock, StateError};
use millstream_types::Timestamp;

/// Buckets of one segment; of more, neighbours are counted together.
const BUCKETS_MAX: usize = 64;
/// A time to live takes about so many buckets, whatever its length.
const BUCKETS_PER_LIFE: u64 = 16;

/// What of a segment expires: each table with a record of it that does.
#[derive(Debug, Default)]
pub(in crate::segments) struct Aging {
    tables: Vec<TableAging>,
}

#[derive(Debug)]
struct TableAging {
    /// The first table of its family.
    table: u16,
    /// Bytes of live records, and their number.
    live: u64,
    records: u64,
    /// Of the live bytes, those of records that say that something is removed.
    removals: u64,
    /// The latest expiry of all records.
    latest: Timestamp,
    /// Bytes of all records by the time when they have expired, ascending.
    buckets: Vec<(Timestamp, u64)>,
}

/// The end of the bucket that an expiry falls into. Records that expire soon are in narrow buckets, and
/// those that expire late in wide ones.
fn bucket_of(expiry: Timestamp, now: Timestamp) -> Timestamp {
    if expiry <= now {
        return now;
    }
    let left = u64::try_from(expiry.since(now).as_nanos()).unwrap_or(u64::MAX);
    let width = (left / BUCKETS_PER_LIFE).max(1).next_power_of_two().min(1 << 60) as i64;
    let before = expiry.as_nanos().saturating_sub(1).div_euclid(width);
    Timestamp::from_nanos((before + 1).saturating_mul(width))
}

impl Aging {
    fn of(&mut self, table: u16) -> &mut TableAging {
        let at = self.tables.iter().position(|of| of.table == table).unwrap_or_else(|| {
            self.tables.push(TableAging::new(table));
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }
}

impl TableAging {
    fn new(table: u16) -> Self {
        let latest = Timestamp::MIN;
        Self { table, live: 0, records: 0, removals: 0, latest, buckets: Vec::new() }
    }

    fn note(&mut self, expiry: Timestamp, bytes: u64, now: Timestamp) {
        self.latest = self.latest.max(expiry);
        let end = bucket_of(expiry, now);
        if let Some((last, counted)) = self.buckets.last_mut()
            && *last == end
        {
            *counted += bytes;
            return;
        }
        match self.buckets.binary_search_by_key(&end, |(end, _)| *end) {
            Ok(at) => self.buckets[at].1 += bytes,
            Err(at) => self.buckets.insert(at, (end, bytes)),
        }
        if self.buckets.len() > BUCKETS_MAX {
            let gap = |at: &usize| self.buckets[at + 1].0.since(self.buckets[*at].0);
            if let Some(at) = (0..self.buckets.len() - 1).min_by_key(gap) {
                let (_, counted) = self.buckets.remove(at);
                self.buckets[at].1 += counted;
            }
        }
    }

    /// A record has got another expiry where it lies.
    fn renew(&mut self, before: Timestamp, after: Timestamp, bytes: u64, now: Timestamp) {
        // The bucket that it was counted in, or an earlier one, whose records then count for it there.
        let counted = self.buckets.iter_mut().find(|(end, counted)| *end >= before && *counted > 0);
        if let Some((end, counted)) = counted {
            if *end == bucket_of(after, now) {
                self.latest = self.latest.max(after);
                return;
            }
            *counted = counted.saturating_sub(bytes);
        }
        self.note(after, bytes, now);
    }

    /// Bytes of live records that expire and have not, at most.
    fn alive(&self, now: Timestamp) -> u64 {
        let later = self.buckets.iter().rev().take_while(|(end, _)| *end > now);
        later.map(|(_, bytes)| bytes).sum::<u64>().min(self.live)
    }
}

impl Log {
    /// Takes this clock for what expires.
    pub fn follow(&mut self, clock: StateClock) {
        self.clock = clock;
    }

    /// Processing time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A record that expires is in the log. `table` is the table's id in this store.
    pub fn note_expiry(&mut self, address: Address, table: u16, expiry: Timestamp, bytes: u64) {
        let now = self.now();
        self.aging_of(address, table).note(expiry, bytes, now);
        self.ages = true;
    }

    /// A record expires at another time, as it was changed where it lies.
    pub fn renew(
        &mut self,
        address: Address,
        header: &Header,
        before: Timestamp,
        after: Timestamp,
    ) {
        let now = self.now();
        self.aging_of(address, header.table).renew(before, after, len_of(header), now);
    }

    fn aging_of(&mut self, address: Address, table: u16) -> &mut TableAging {
        self.segments[address.segment() as usize].aging.of(self.families[usize::from(table)])
    }

    /// A record of a table of this store that expires is live.
    pub(super) fn credit_expiring(&mut self, address: Address, table: u16, len: u64) {
        let aging = self.aging_of(address, table);
        (aging.live, aging.records) = (aging.live + len, aging.records + 1);
    }

    /// A record is live. `table` is the id in this store, of which the header knows nothing if the
    /// record is of an earlier run.
    pub fn credit_record(&mut self, address: Address, header: &Header, table: u16) {
        let len = len_of(header);
        self.credit(address.segment(), len);
        if header.expires {
            self.credit_expiring(address, table, len);
        }
    }

    /// A record is dead.
    #[inline]
    pub fn debit_record(&mut self, address: Address, header: &Header, table: u16) {
        let len = len_of(header);
        self.debit(address.segment(), len);
        if header.expires {
            let aging = self.aging_of(address, table);
            (aging.live, aging.records) = (aging.live - len, aging.records - 1);
        }
    }

    /// A live record says that something is removed.
    pub fn count_removal(&mut self, address: Address, header: &Header, table: u16) {
        self.removals += len_of(header);
        if header.expires {
            self.aging_of(address, table).removals += len_of(header);
        }
    }

    /// A record that says that something is removed is not needed where it lies.
    pub fn drop_removal(&mut self, address: Address, header: &Header, table: u16) {
        self.debit_record(address, header, table);
        self.removals -= len_of(header);
        if header.expires {
            self.aging_of(address, table).removals -= len_of(header);
        }
    }

    /// A record that had expired has been forgotten.
    pub fn count_expired(&mut self, bytes: u64) {
        self.expired.records += 1;
        self.expired.bytes += bytes;
    }

    /// True if nothing in the segment can be read any more: all of it had expired.
    #[cold]
    pub fn is_gone(&self, address: Address) -> bool {
        let segment = self.segments.get(address.segment() as usize);
        segment.is_some_and(|segment| matches!(segment.body, Body::Gone))
    }

    /// [`Self::record`], or `None` if it had expired and is gone.
    pub fn record_if_there<'a>(
        &self,
        address: Address,
        pin: &'a Pin<'_>,
        owner: &'a Namespaces,
    ) -> Result<Option<Record<'a>>, StateError> {
        match self.record(address, pin, owner) {
            Ok(record) => Ok(Some(record)),
            Err(_) if self.is_gone(address) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which segments keep what has expired in younger ones from being forgotten.
    pub fn unexpired(&self) -> Unexpired {
        let now = self.now();
        let mut first: Vec<(u16, u32)> = Vec::new();
        if self.ages {
            for number in self.oldest..self.segments.len() as u32 {
                let segment = &self.segments[number as usize];
                if segment.stage != Stage::InUse {
                    continue;
                }
                for TableAging { table, latest, .. } in &segment.aging.tables {
                    if *latest > now && first.iter().all(|(of, _)| of != table) {
                        first.push((*table, number));
                    }
                }
            }
        }
        Unexpired(first)
    }

    /// True if records of a table of this store that have expired may be forgotten in a segment.
    pub fn may_forget(&self, unexpired: &Unexpired, number: u32, table: u16) -> bool {
        unexpired.lets_go(number, self.families[usize::from(table)])
    }

    /// The live bytes of a segment but for those that have expired and may be forgotten.
    pub(super) fn unexpired_bytes(&self, number: u32, unexpired: &Unexpired) -> u64 {
        let (segment, now) = (&self.segments[number as usize], self.now());
        let gone = segment.aging.tables.iter().filter(|of| unexpired.lets_go(number, of.table));
        segment.live - gone.map(|of| of.live - of.alive(now)).sum::<u64>()
    }

    /// Sealed segments of which all has expired.
    pub(super) fn expired_segments(&self) -> Vec<u32> {
        if !self.ages {
            return Vec::new();
        }
        let (now, unexpired) = (self.now(), self.unexpired());
        let has_expired = |number: &u32| {
            let (segment, mut live) = (&self.segments[*number as usize], 0);
            let tables = &segment.aging.tables;
            let all = tables.iter().all(|of| {
                live += of.live;
                of.latest <= now && unexpired.lets_go(*number, of.table)
            });
            all && !tables.is_empty() && live == segment.live
        };
        self.sealed().map(|one| one.number).filter(has_expired).collect()
    }

    /// Forgets segments of which all has expired, without reading them; true if there were any. What
    /// the indexes still say of them is passed over, and dropped when they grow. No [`super::Pin`]
    /// may exist, and none of them may be under compaction.
    pub fn retire_expired(&mut self) -> bool {
        let expired = self.expired_segments();
        for number in &expired {
            self.expired.segments += 1;
            self.retire(*number);
        }
        !expired.is_empty()
    }

    /// A segment is retired: what expires in it and counts as live has expired. After compaction that
    /// is only what a value in pieces began with, of which a later piece went with its segment.
    pub(super) fn write_off(&mut self, number: u32) {
        let segment = &mut self.segments[number as usize];
        for TableAging { live, records, removals, .. } in segment.aging.tables.drain(..) {
            segment.live -= live;
            self.live -= live;
            self.removals -= removals;
            self.expired.bytes += live;
            self.expired.records += records;
        }
    }
}

/// For each table, the oldest segment with a record of it that has not expired.
#[derive(Debug, Default)]
pub(in crate::segments) struct Unexpired(Vec<(u16, u32)>);

impl Unexpired {
    /// True if what has expired of a table may be forgotten in the segment.
    fn lets_go(&self, number: u32, table: u16) -> bool {
        self.0.iter().all(|(of, first)| *of != table || *first >= number)
    }
}

/// What has been forgotten since it had expired.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expired {
    pub segments: u64,
    pub records: u64,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(nanos: i64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    proptest! {
        #[test]
        fn a_bucket_ends_soon_after_what_is_in_it(now in 0i64..1 << 60, left in 1i64..1 << 60) {
            let (now, expiry) = (at(now), at(now + left));
            let end = bucket_of(expiry, now);
            prop_assert!(end >= expiry);
            prop_assert!(end.since(expiry).as_nanos() <= (left as u128 / 8).max(1), "{end:?}");
        }

        #[test]
        fn what_is_alive_is_never_underestimated(
            notes in prop::collection::vec((0i64..500, 1i64..2000, 1u64..50, any::<Option<u8>>()), 1..300),
        ) {
            let (mut aging, mut now, mut records) = (TableAging::new(1), 0, Vec::<(i64, u64)>::new());
            for (later, left, bytes, renewed) in notes {
                now += later / 10;
                let record = (now + left, bytes);
                match renewed.filter(|_| !records.is_empty()) {
                    Some(which) => {
                        let at_record = usize::from(which) % records.len();
                        let (before, bytes) = records[at_record];
                        aging.renew(at(before), at(record.0), bytes, at(now));
                        records[at_record].0 = record.0;
                    }
                    None => {
                        aging.note(at(record.0), bytes, at(now));
                        aging.live += bytes;
                        records.push(record);
                    }
                }
                prop_assert!(aging.buckets.len() <= BUCKETS_MAX);
                for then in [now, now + 100, now + 1000] {
                    let alive: u64 =
                        records.iter().filter(|(e, _)| *e > then).map(|(_, bytes)| bytes).sum();
                    prop_assert!(aging.alive(at(then)) >= alive, "{aging:?}");
                }
                let latest = records.iter().map(|(expiry, _)| *expiry).max().unwrap();
                prop_assert!(aging.latest >= at(latest));
            }
        }
    }
}
