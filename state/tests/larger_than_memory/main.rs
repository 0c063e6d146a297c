//! A store whose state is four times as large as the memory that the kernel lets its process have.
//!
//! The test starts itself once more in a control group with a hard limit, where every value of the
//! state is written, read, changed, and compared with what it must be. Without the right to make
//! control groups there is nothing to test. Run with `--release` it takes the sizes of a real
//! limit, 512 MiB for 2 GiB of records.

mod cgroup;

use cgroup::Cgroup;
use millstream_state::{
    AlignedVec, Found, MemberIndex, RestoredFiles, SegmentStore, SegmentTable, SegmentsBackend,
    StateFile, StateStore, StoreScope, TableSpec, Update,
};
use millstream_types::{CheckpointId, KeyGroup, KeyGroupRange, SlotIndex, Timestamp, hash_key};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

const LIMIT: u64 = if cfg!(debug_assertions) { 128 << 20 } else { 512 << 20 };
/// Leaves room for the program, its stacks and its model of what the values are.
const BUDGET: u64 = LIMIT / 8 * 5;
const VALUE: usize = 200;
/// With 32 bytes of header and 8 of key.
const RECORD: u64 = 240;
const KEYS: u64 = 4 * LIMIT / RECORD;
const BATCH: usize = 1024;

/// Set for the process in the control group: the directory of its store.
const CHILD: &str = "MILLSTREAM_TEST_LARGER_THAN_MEMORY";

/// Steele, Lea and Flood's SplitMix64.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn value_of(key: u64, version: u8) -> [u8; VALUE] {
    let mut value = [version; VALUE];
    for (i, word) in value.chunks_exact_mut(8).enumerate().skip(1) {
        let n = mix(key << 8 | u64::from(version)).wrapping_add(i as u64);
        word.copy_from_slice(&n.to_le_bytes());
    }
    value
}

/// The store, and which version each key's value has.
struct World {
    store: SegmentStore,
    table: SegmentTable,
    versions: Vec<u8>,
    checkpoint: u64,
    /// What the newest checkpoint refers to.
    files: Vec<StateFile>,
    since: Instant,
}

fn open(directory: &Path, restored: Option<RestoredFiles>) -> (SegmentStore, SegmentTable) {
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory.to_owned());
    scope.memory_bytes = BUDGET;
    scope.owned = vec![("count".into(), KeyGroupRange(0..128))];
    scope.restored = restored;
    let mut store = SegmentsBackend::new().open_store(scope).unwrap();
    let spec = TableSpec::new("count", "counts", KeyGroupRange(0..128), 128);
    let table = store.segment_table(MemberIndex(0), &spec).unwrap();
    (store, table)
}

impl World {
    fn new(directory: &Path) -> Self {
        let (store, table) = open(directory, None);
        let versions = vec![0; KEYS as usize];
        Self { store, table, versions, checkpoint: 0, files: Vec::new(), since: Instant::now() }
    }

    /// As after a restart: from the newest checkpoint.
    fn restore(self, directory: &Path) -> Self {
        let Self { store, table, versions, checkpoint, files, .. } = self;
        drop((store, table));
        let since = Instant::now();
        let restored = RestoredFiles { checkpoint: CheckpointId(checkpoint), files };
        let (store, table) = open(directory, Some(restored.clone()));
        Self { store, table, versions, checkpoint, files: restored.files, since }
    }

    /// Reads the values of these keys, compares them, and gives each key its next version.
    fn change(&mut self, keys: &[u64]) {
        let names: Vec<_> = keys.iter().map(|key| key.to_le_bytes()).collect();
        let hashes: Vec<_> = keys.iter().map(hash_key).collect();
        let named = |i: usize| (KeyGroup::of(hashes[i], 128), &names[i][..]);
        let versions = &mut self.versions;
        let next = |i: usize, found: Found<'_>, new: &mut AlignedVec| {
            let version = &mut versions[keys[i] as usize];
            let old = (*version > 0).then(|| value_of(keys[i], *version));
            assert!(found.value() == old.as_ref().map(|old| &old[..]), "key {}", keys[i]);
            *version = version.checked_add(1).unwrap_or(1);
            let value = value_of(keys[i], *version);
            match found {
                Found::Mutable(place) => {
                    place.copy_from_slice(&value);
                    Update::Keep
                }
                _ => {
                    new.extend_from_slice(&value);
                    Update::Write
                }
            }
        };
        self.table.modify_batch(Timestamp::MIN, &hashes, named, next).unwrap();
    }

    fn check(&self, keys: &[u64]) {
        let names: Vec<_> = keys.iter().map(|key| key.to_le_bytes()).collect();
        let hashes: Vec<_> = keys.iter().map(hash_key).collect();
        let named = |i: usize| (KeyGroup::of(hashes[i], 128), &names[i][..]);
        let compare = |i: usize, found: Option<&[u8]>| {
            let expected = value_of(keys[i], self.versions[keys[i] as usize]);
            assert!(found == Some(&expected), "key {}", keys[i]);
        };
        self.table.read_batch(Timestamp::MIN, &hashes, named, compare).unwrap();
    }

    fn checkpoint(&mut self) {
        let (sender, receiver) = channel();
        self.checkpoint += 1;
        self.store.cut(MemberIndex(0), CheckpointId(self.checkpoint));
        let done = Box::new(move |files| sender.send(files).unwrap());
        self.store.persist(CheckpointId(self.checkpoint), done);
        self.files = receiver.recv().unwrap().unwrap();
        let stats = self.store.stats();
        assert!(stats.resident_bytes + stats.index_bytes <= BUDGET, "{stats:?}");
    }

    fn say(&mut self, what: &str, count: u64) {
        let rate = count as f64 / self.since.elapsed().as_secs_f64();
        println!("{what}: {count} in {:?}, {rate:.0}/s", self.since.elapsed());
        println!("  {:?}", self.store.stats());
        self.since = Instant::now();
    }
}

/// Calls `f` with all of these in batches.
fn in_batches(keys: impl Iterator<Item = u64>, mut f: impl FnMut(&[u64])) {
    let mut batch = Vec::with_capacity(BATCH);
    for key in keys {
        batch.push(key);
        if batch.len() == BATCH {
            f(&batch);
            batch.clear();
        }
    }
    f(&batch);
}

/// Keys drawn with the exponent 0.99 (Gray et al., SIGMOD 1994), or evenly.
fn draws(count: u64, zipf: bool) -> impl Iterator<Item = u64> {
    let theta = 0.99;
    let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-theta)).sum::<f64>();
    let (all, two) = if zipf { (zeta(KEYS), zeta(2)) } else { (0.0, 0.0) };
    let alpha = 1.0 / (1.0 - theta);
    let eta = (1.0 - (2.0 / KEYS as f64).powf(1.0 - theta)) / (1.0 - two / all);
    (0..count).map(move |i| {
        let u = (mix(i ^ 0x5eed) >> 11) as f64 / (1u64 << 53) as f64;
        if !zipf {
            (u * KEYS as f64) as u64
        } else if u * all < 1.0 {
            0
        } else if u * all < two {
            1
        } else {
            // Those drawn often do not lie side by side.
            mix((KEYS as f64 * (eta * u - eta + 1.0).powf(alpha)) as u64) % KEYS
        }
    })
}

fn run(directory: &Path) {
    let mut world = World::new(directory);
    in_batches(0..KEYS, |keys| world.change(keys));
    world.say("filled", KEYS);
    world.checkpoint();
    for (name, zipf, count) in [("zipf 0.99", true, KEYS / 16), ("uniform", false, KEYS / 64)] {
        in_batches(draws(count, zipf), |keys| world.change(keys));
        world.say(name, count);
        world.checkpoint();
    }
    // Every value is read and changed once more, and then read.
    in_batches(0..KEYS, |keys| world.change(keys));
    world.say("in order", KEYS);
    world.checkpoint();
    in_batches(0..KEYS, |keys| world.check(keys));
    world.say("checked", KEYS);
    let stats = world.store.stats();
    assert!(stats.cold_bytes > 3 * LIMIT, "{stats:?}");
    let mut world = world.restore(directory);
    world.say("restored", KEYS);
    in_batches(draws(KEYS / 64, false), |keys| world.change(keys));
    world.say("and changed evenly", KEYS / 64);
}

#[test]
fn state_four_times_as_large_as_the_limit_of_memory_is_right() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return run(Path::new(&directory));
    }
    let group = match Cgroup::new(LIMIT) {
        Ok(group) => group,
        Err(reason) => return println!("skipped: {reason}"),
    };
    // Not in memory, as temporary directories may be.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let name = "state_four_times_as_large_as_the_limit_of_memory_is_right";
    let mut child = group.command(&std::env::current_exe().unwrap());
    child.args(["--exact", name, "--nocapture"]).env(CHILD, directory.path());
    let output = child.output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("most memory: {} MiB of {}", group.peak() >> 20, LIMIT >> 20);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}
