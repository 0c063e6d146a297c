//! The manifests that fuzzing begins with, in `fuzz/corpus/manifest`: they are what this program
//! writes, byte by byte. Set `MILLSTREAM_WRITE_SEEDS` to write them.

use millstream_protocol::{
    CheckpointKind, FileEntry, Manifest, ManifestError, OperatorEntry, SlotEntry, StateFileEntry,
};
use millstream_types::{CheckpointId, SlotIndex, Timestamp};
use std::path::Path;

/// Without operators and slots.
fn bare(checkpoint: u64, kind: CheckpointKind) -> Manifest {
    Manifest {
        checkpoint: CheckpointId(checkpoint),
        kind,
        job: String::new(),
        created: Timestamp::from_nanos(0),
        max_parallelism: 1,
        backend: "heap".to_owned(),
        operators: Vec::new(),
        slots: Vec::new(),
    }
}

fn operator(number: u32) -> OperatorEntry {
    OperatorEntry {
        uid: format!("operator {number}"),
        name: ["source", "keyed count", "Fenster ä", ""][number as usize % 4].to_owned(),
        parallelism: 1 + number,
    }
}

fn slot(number: u32, files: u64) -> SlotEntry {
    let state_file = |file| StateFileEntry {
        name: format!("{:016x}{file:08x}.segment", 0x5eed),
        len: 4096 * (1 + 2 * file),
        note: [&[1][..], &u32::MAX.to_le_bytes(), &[0; 4]].concat(),
    };
    SlotEntry {
        slot: SlotIndex(number),
        snapshot: FileEntry::of(format!("slot-{number}.snapshot"), &[number as u8; 13]),
        state_files: (0..files).map(state_file).collect(),
    }
}

fn job(operators: u32, slots: u32, files: u64) -> Manifest {
    Manifest {
        job: "count words".to_owned(),
        created: Timestamp::from_nanos(1_700_000_000_000_000_000),
        max_parallelism: 128,
        backend: if files == 0 { "heap" } else { "segments" }.to_owned(),
        operators: (0..operators).map(operator).collect(),
        slots: (0..slots).map(|number| slot(number, files)).collect(),
        ..bare(12, CheckpointKind::Checkpoint)
    }
}

fn manifests() -> Vec<(&'static str, Manifest)> {
    vec![
        ("bare", bare(1, CheckpointKind::Checkpoint)),
        ("savepoint", bare(2, CheckpointKind::Savepoint)),
        ("final", bare(3, CheckpointKind::Final)),
        ("stop", bare(u64::MAX, CheckpointKind::Stop)),
        ("operators", job(5, 0, 0)),
        ("heap", job(2, 2, 0)),
        ("segments", job(2, 1, 3)),
        ("slots", job(3, 8, 2)),
    ]
}

#[test]
fn the_seeds_are_what_is_written_and_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/manifest");
    let write = std::env::var_os("MILLSTREAM_WRITE_SEEDS").is_some();
    for (name, manifest) in manifests() {
        let path = folder.join(name);
        if write {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, manifest.encode()).unwrap();
        }
        let seed = std::fs::read(&path).unwrap();
        assert_eq!(seed, manifest.encode(), "{name}");
        assert_eq!(Manifest::decode(&seed), Ok(manifest), "{name}");
        let cut_off = Manifest::decode(&seed[..seed.len() - 1]);
        assert!(matches!(cut_off, Err(ManifestError::Truncated { .. })), "{name}: {cut_off:?}");
    }
}
