//! What has expired is reclaimed, with files and memory.

use super::{checkpoint, key, spec};
use crate::{
    ByteTable, MemberIndex, RestoredFiles, SegmentStats, SegmentStore, SegmentTable,
    SegmentsBackend, StateClock, StateStore, StoreScope, Ttl,
};
use millstream_types::{CheckpointId, KeyGroupRange, SlotIndex, Timestamp};
use std::path::Path;
use std::time::{Duration, Instant};

const SEGMENT: usize = 64 << 10;
/// A record of these tests: header, value and expiry, key.
const RECORD: u64 = 32 + 48 + 16;

fn open(directory: Option<&Path>, now: u64, restored: Option<RestoredFiles>) -> SegmentStore {
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = directory.map(Path::to_owned);
    scope.owned = vec![("operator".into(), KeyGroupRange(0..16))];
    scope.now = Timestamp::from_nanos(now as i64);
    scope.restored = restored;
    let backend = SegmentsBackend::new().with_segment_bytes(SEGMENT).with_mutable_bytes(100 << 10);
    backend.open_store(scope).unwrap()
}

fn table(store: &mut SegmentStore, name: &str, ttl: u64) -> SegmentTable {
    let spec = spec().with_name(name).with_ttl(Ttl::new(Duration::from_nanos(ttl)));
    store.segment_table(MemberIndex(0), &spec).unwrap()
}

fn put(table: &mut SegmentTable, n: u64, expiry: u64) {
    let mut value = [7; 48];
    value[40..].copy_from_slice(&expiry.to_le_bytes());
    table.insert(key(&n.to_le_bytes()), &value).unwrap();
}

fn has(table: &SegmentTable, n: u64) -> bool {
    table.read(key(&n.to_le_bytes()), |value| value.is_some()).unwrap()
}

/// Tidies up until there is nothing to do.
fn tidy(store: &mut SegmentStore) {
    let mut steps = 0;
    while store.maintain(Duration::ZERO) {
        steps += 1;
        assert!(steps < 10_000, "without end");
    }
}

/// Writes ever new keys, of which `live` are alive at a time, one in each nanosecond. Calls `each` now
/// and then.
fn ever_new_keys(
    store: &mut SegmentStore,
    live: u64,
    count: u64,
    mut each: impl FnMut(&mut SegmentStore, u64),
) -> SegmentTable {
    let clock = StateClock::default();
    store.follow(&clock);
    let mut table = table(store, "new", live);
    for n in 0..count {
        clock.set(Timestamp::from_nanos(n as i64));
        put(&mut table, n, n + live);
        if n % 500 == 499 {
            each(store, n);
        }
    }
    table
}

/// That a store holds no more than so many live records need.
fn assert_bounded(stats: &SegmentStats, live: u64) {
    let needed = live * RECORD;
    let total = stats.live_bytes + stats.dead_bytes;
    assert!(total <= 2 * needed + 8 * SEGMENT as u64, "{stats:?}");
    assert!(stats.segments <= 2 * needed / SEGMENT as u64 + 8, "{stats:?}");
    assert!(stats.index_bytes <= 64 * live, "{stats:?}");
}

#[test]
fn ever_new_keys_take_bounded_memory() {
    let mut store = open(None, 0, None);
    const LIVE: u64 = 2000;
    // Nobody has it tidy up: writes do, when the log grows.
    let table = ever_new_keys(&mut store, LIVE, 50 * LIVE, |store, _| {
        let stats = store.stats();
        assert_bounded(&stats, LIVE);
        assert!(stats.resident_bytes <= 2 * LIVE * RECORD + 10 * SEGMENT as u64, "{stats:?}");
    });
    let stats = store.stats();
    assert_eq!(stats.appended_bytes, 50 * LIVE * RECORD, "nothing was moved");
    assert!(stats.expired_segments > 0 && stats.expired_records > 40 * LIVE, "{stats:?}");
    assert_eq!(stats.expired_bytes, stats.expired_records * RECORD);
    assert!((49 * LIVE..50 * LIVE).all(|n| has(&table, n)));
    assert!((0..48 * LIVE - 500).all(|n| !has(&table, n)), "dead segments are passed over");
    assert!(table.len(Timestamp::MIN) <= 4 * LIVE);
    let mut visited = 0;
    table
        .for_each(Timestamp::MIN, &mut |_| {
            visited += 1;
            Ok(())
        })
        .unwrap();
    assert!((LIVE..2 * LIVE).contains(&visited), "{visited}");
}

#[test]
fn ever_new_keys_take_bounded_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(Some(directory.path()), 0, None);
    const LIVE: u64 = 2000;
    let mut newest = Vec::new();
    ever_new_keys(&mut store, LIVE, 10 * LIVE, |store, n| {
        newest = checkpoint(store, n);
        tidy(store);
        let bytes: u64 = newest.iter().map(|file| file.len).sum();
        assert!(bytes <= 3 * LIVE * RECORD + 12 * SEGMENT as u64, "{bytes} bytes at {n}");
        assert_bounded(&store.stats(), 2 * LIVE);
    });
    drop(store);
    // As it is restored, now or a while later.
    for later in [0, LIVE / 2, 2 * LIVE] {
        let now = 10 * LIVE - 1 + later;
        let files =
            RestoredFiles { checkpoint: CheckpointId(10 * LIVE - 1), files: newest.clone() };
        let mut store = open(Some(directory.path()), now, Some(files));
        let table = table(&mut store, "new", LIVE);
        assert!((9 * LIVE + later..10 * LIVE).all(|n| has(&table, n)), "{later} later");
        tidy(&mut store);
        assert!((9 * LIVE + later..10 * LIVE).all(|n| has(&table, n)), "{later} later, tidied up");
        let stats = store.stats();
        assert!(stats.live_bytes <= LIVE.saturating_sub(later) * RECORD * 2, "{later}: {stats:?}");
        assert_eq!(stats.live_bytes == 0, later >= LIVE, "{later}: {stats:?}");
    }
}

#[test]
fn files_that_no_checkpoint_has_are_deleted_when_all_in_them_has_expired() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(Some(directory.path()), 0, None);
    let files = || std::fs::read_dir(directory.path()).unwrap().count() as u64;
    const LIVE: u64 = 500;
    ever_new_keys(&mut store, LIVE, 40 * LIVE, |store, _| tidy(store));
    // By a thread of its own.
    let begun = Instant::now();
    let written = |store: &SegmentStore| store.stats().written_bytes / SEGMENT as u64;
    while written(&store) < 20 || files() > store.stats().segments {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of {}", files(), written(&store));
        std::thread::yield_now();
    }
    assert!(store.stats().segments < 16, "{:?}", store.stats());
}

#[test]
fn what_expires_soon_goes_from_between_what_expires_late() {
    let mut store = open(None, 0, None);
    let clock = StateClock::default();
    store.follow(&clock);
    let (mut soon, mut late) = (table(&mut store, "soon", 500), table(&mut store, "late", 1 << 40));
    let count = 40_000;
    for n in 0..count {
        clock.set(Timestamp::from_nanos(n as i64));
        put(&mut soon, n, n + 500);
        if n % 10 == 0 {
            put(&mut late, n, n + (1 << 40));
        }
        if n % 1000 == 0 {
            tidy(&mut store);
        }
    }
    tidy(&mut store);
    let stats = store.stats();
    let needed = (count / 10 + 500) * RECORD;
    assert!(stats.live_bytes + stats.dead_bytes <= 3 * needed + 8 * SEGMENT as u64, "{stats:?}");
    assert!((0..count).step_by(10).all(|n| has(&late, n)));
    assert!((count - 500..count).all(|n| has(&soon, n)));
    let left = (0..count / 2).filter(|n| has(&soon, *n)).count();
    assert!(left < count as usize / 10, "{left} that were moved with what expires late");
    assert!(
        stats.appended_bytes <= 4 * count * RECORD,
        "it is not moved again and again: {stats:?}"
    );
}

/// An older version that expires later must not come back when the newer one is forgotten.
#[test]
fn a_shorter_time_to_live_does_not_bring_back_older_versions() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(Some(directory.path()), 0, None);
    let clock = StateClock::default();
    store.follow(&clock);
    let mut table = table(&mut store, "shorter", 1);
    put(&mut table, 1, 1_000_000);
    put(&mut table, 2, 1_000_000);
    // More than a segment of them: the first is kept as it is.
    (100..900).for_each(|n| put(&mut table, n, 1_000_000));
    checkpoint(&mut store, 0);
    put(&mut table, 1, 10);
    table.remove(key(&2u64.to_le_bytes())).unwrap();
    put(&mut table, 2, 10);
    (10_000..11_200).for_each(|n| put(&mut table, n, 10));
    checkpoint(&mut store, 1);
    for id in 2..6 {
        clock.set(Timestamp::from_nanos(100 * id as i64));
        (0..400).for_each(|n| put(&mut table, n + 100_000 * id, 100 * id + 10));
        tidy(&mut store);
        let files = checkpoint(&mut store, id);
        let restored = RestoredFiles { checkpoint: CheckpointId(id), files };
        let mut again = open(Some(directory.path()), 100 * id, Some(restored));
        let again = self::table(&mut again, "shorter", 1);
        for n in [1u64, 2] {
            let expiry =
                again.read(key(&n.to_le_bytes()), |v| v.map(crate::segments::record::expiry_of));
            assert!(expiry.unwrap() <= Some(Timestamp::from_nanos(10)), "an older version is back");
        }
    }
}

/// What is pushed to one list for ever: frames of sixteen bytes, each of which ends with its expiry.
#[test]
fn a_list_that_always_grows_takes_bounded_memory() {
    let mut store = open(None, 0, None);
    let clock = StateClock::default();
    store.follow(&clock);
    let mut list = table(&mut store, "list", 500);
    const LIVE: i64 = 500;
    for n in 0..100 * LIVE {
        clock.set(Timestamp::from_nanos(n));
        let element = [n.to_le_bytes(), (n + LIVE).to_le_bytes()].concat();
        list.append_trimmed(key(b"list"), &element, &mut |list| {
            let elements = list.chunks_exact(16).map(super::super::record::expiry_of);
            let over = elements.take_while(|expiry| *expiry <= Timestamp::from_nanos(n)).count();
            list.copy_within(16 * over.., 0);
            list.resize(list.len() - 16 * over, 0);
        })
        .unwrap();
        if n % 100 == 99 {
            tidy(&mut store);
            let stats = store.stats();
            assert!(stats.live_bytes <= 8 * 16 * LIVE as u64, "{stats:?}");
            assert!(stats.segments <= 8, "{stats:?}");
        }
    }
    let elements = list.read(key(b"list"), |list| list.map(|list| list.len() / 16)).unwrap();
    assert!((500..=2500).contains(&elements.unwrap()), "{elements:?}");
}
