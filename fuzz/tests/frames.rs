//! What a program of this version wrote is framed already.

use millstream_fuzz::{
    reframed_frames, reframed_manifest, reframed_segment, reframed_snapshot, segment_of_extents,
};
use millstream_network::remote::cutter::FrameCutter;
use millstream_protocol::Manifest;
use millstream_state::{Snapshot, check_segment};
use std::path::Path;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let seeds = std::fs::read_dir(folder).expect("the seeds are checked in");
    seeds.map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect()
}

/// With each byte from `from` on changed, one after the other.
fn changed(seed: &[u8], from: usize) -> impl Iterator<Item = Vec<u8>> {
    (from..seed.len()).map(|at| {
        let mut bytes = seed.to_vec();
        bytes[at] ^= 0x21;
        bytes
    })
}

#[test]
fn seeds_stay_what_they_are() {
    for seed in seeds("frames") {
        assert_eq!(reframed_frames(&seed[1..]), &seed[1..]);
    }
    for seed in seeds("manifest") {
        assert_eq!(reframed_manifest(&seed), seed);
    }
    for seed in seeds("snapshot") {
        assert_eq!(reframed_snapshot(&seed), seed);
    }
    for seed in seeds("segment") {
        assert!(reframed_segment(&seed) == seed);
    }
}

#[test]
fn described_extents_are_a_segment() {
    let whole: u64 = seeds("segment").iter().map(|seed| check_segment("seed", seed).unwrap()).sum();
    let described = seeds("segment_extent");
    let records =
        described.iter().map(|seed| check_segment("", &segment_of_extents(seed)).unwrap());
    assert_eq!(records.sum::<u64>(), whole);
}

/// Checksums do not stop what was changed behind them.
#[test]
fn changes_get_past_the_checksums() {
    for seed in seeds("frames") {
        for bytes in changed(&seed[1..], 0) {
            let (bytes, mut at) = (reframed_frames(&bytes), 0);
            let error = FrameCutter::new(0).next(&bytes, &mut at).err();
            let words = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!words.contains("checksum"), "{words}");
        }
    }
    for seed in seeds("manifest") {
        for bytes in changed(&seed, 20) {
            let error = Manifest::decode(&reframed_manifest(&bytes)).err();
            let words = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!words.contains("checksum"), "{words}");
        }
    }
    for seed in seeds("snapshot") {
        for bytes in changed(&seed, 12) {
            let error = Snapshot::read(reframed_snapshot(&bytes)).err();
            let words = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(!words.contains("checksum"), "{words}");
        }
    }
    for seed in seeds("segment") {
        // The last extent's data: its checksum is made anew.
        for bytes in changed(&seed, 4096).take(200) {
            let error = check_segment("seed", &reframed_segment(&bytes)).err();
            let words = error.map(|error| format!("{error:?}")).unwrap_or_default();
            assert!(!words.contains("checksum"), "{words}");
        }
    }
}

#[test]
fn anything_can_be_framed() {
    for len in 0..200 {
        for fill in [0, 1, 0x7f, 0xff] {
            let bytes = vec![fill; len];
            reframed_frames(&bytes);
            reframed_manifest(&bytes);
            reframed_snapshot(&bytes);
            reframed_segment(&bytes);
            segment_of_extents(&bytes);
        }
    }
}
