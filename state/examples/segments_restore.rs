//! How fast is state made durable, and how fast is it there again?
//!
//! Writes KEYS entries with values of BYTES, changes a tenth of them, takes a checkpoint after each, and opens
//! the newest one in a new store, with the files in the page cache. Ceilings: the disk (1.3 GB/s
//! here with direct I/O); for the restore, reading the bytes twice from memory and one cache miss per entry.
//!
//! `cargo run --release -p millstream-state --example segments_restore -- DIRECTORY KEYS BYTES ROUNDS`

use millstream_state::{
    ByteTable, EntryKey, MemberIndex, RestoredFiles, SegmentStore, SegmentsBackend, StateFile,
    StateStore, StoreScope, TableSpec,
};
use millstream_types::{CheckpointId, KeyGroup, KeyGroupRange, SlotIndex, Timestamp, hash_key};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

fn insert(table: &mut impl ByteTable, n: u64, value: &[u8]) {
    let (hash, bytes) = (hash_key(&n), n.to_le_bytes());
    let group = KeyGroup::of(hash, 128);
    let key = EntryKey { namespace: Timestamp::MIN, group, hash, bytes: &bytes };
    table.insert(key, value).expect("disk and memory enough");
}

fn checkpoint(store: &mut SegmentStore, id: u64) -> Vec<StateFile> {
    let (sender, receiver) = channel();
    let start = Instant::now();
    store.cut(MemberIndex(0), CheckpointId(id));
    let cut = start.elapsed();
    store.persist(CheckpointId(id), Box::new(move |files| drop(sender.send(files))));
    let pause = start.elapsed();
    let files = receiver.recv().expect("the store answers").expect("a disk that works");
    println!("checkpoint {id}: cut {cut:?}, pause {pause:?}, durable after {:?}", start.elapsed());
    files
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, or: u64| arguments.get(i).and_then(|n| n.parse().ok()).unwrap_or(or);
    let (keys, len) = (number(1, 4_000_000), number(2, 200) as usize);
    let directory: PathBuf = arguments.first().expect("a directory").into();
    let mut scope = StoreScope::new(SlotIndex(0));
    scope.directory = Some(directory);
    scope.owned = vec![("count".into(), KeyGroupRange(0..128))];
    let backend = SegmentsBackend::new();
    let mut store = backend.open_store(scope.clone()).expect("a directory that can be written");
    let spec = TableSpec::new("count", "counts", KeyGroupRange(0..128), 128);
    let mut table = store.segment_table(MemberIndex(0), &spec).expect("a table");
    let start = Instant::now();
    (0..keys).for_each(|n| insert(&mut table, n, &vec![1; len]));
    println!("fill: {:.2} M/s", keys as f64 / start.elapsed().as_secs_f64() / 1e6);
    checkpoint(&mut store, 1);
    let before = store.stats();
    (0..keys / 10).for_each(|n| insert(&mut table, n * 10, &vec![2; len]));
    let files = checkpoint(&mut store, 2);
    let after = store.stats();
    let changed = after.appended_bytes - before.appended_bytes;
    let written = after.written_bytes - before.written_bytes;
    println!("written {written} for {changed} changed: {:.3}", written as f64 / changed as f64);
    drop((store, table));
    let bytes: u64 = files.iter().map(|file| file.len).sum();
    for _ in 0..number(3, 3) {
        scope.restored = Some(RestoredFiles { checkpoint: CheckpointId(2), files: files.clone() });
        let start = Instant::now();
        let mut store = backend.open_store(scope.clone()).expect("files that are intact");
        let time = start.elapsed();
        let table = store.segment_table(MemberIndex(0), &spec).expect("the same table");
        assert_eq!(table.len(Timestamp::MIN), keys);
        let rate = bytes as f64 / time.as_secs_f64() / 1e9;
        println!("restored {bytes} bytes, {keys} entries in {time:?}: {rate:.2} GB/s");
    }
}
