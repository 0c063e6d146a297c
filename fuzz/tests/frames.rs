//! What a program of this version wrote is framed already.

use millstream_fuzz::{
    reframed_frames, reframed_manifest, reframed_message, reframed_segment, reframed_snapshot,
    segment_of_extents,
};
use millstream_network::remote::cutter::FrameCutter;
use millstream_protocol::Manifest;
use millstream_runtime::fuzzing::{check_frames, check_message};
use millstream_state::{Snapshot, check_segment};
use std::path::Path;

/// The kind of the first thing that is said by a connection.
const FIRST_SAID: u8 = 4;
/// Of each seed.
const MUTATIONS: usize = 2_000;

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
    for seed in seeds("messages") {
        check_message(seed[0], &seed[1..]).unwrap();
        // What is said first has no frame.
        if seed[0] != FIRST_SAID {
            assert_eq!(reframed_message(&seed[1..]), &seed[1..]);
        }
    }
    for seed in seeds("snapshot") {
        assert_eq!(reframed_snapshot(&seed), seed);
    }
    for seed in seeds("segment") {
        assert!(reframed_segment(&seed) == seed);
    }
}

#[test]
fn all_frames_of_a_channel_are_taken() {
    for seed in seeds("channel") {
        let (mut rest, mut frames) = (&seed[1..], 0);
        while let Some(([_, a, b], behind)) = rest.split_first_chunk() {
            rest = &behind[usize::from(u16::from_le_bytes([*a, *b]))..];
            frames += 1;
        }
        assert_eq!(check_frames(&seed), frames);
    }
}

/// Decoders answer whatever comes, and not all of it is refused for its frame.
#[test]
fn what_members_say_can_be_damaged() {
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let mut damaged = |seed: &[u8]| {
        let mut bytes = seed.to_vec();
        for _ in 0..1 + next(3) {
            let at = 1 + next(bytes.len() - 1);
            match next(4) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes[at] ^= 1 << next(8),
                2 => bytes[at] = [0, 0x7f, 0x80, 0xff][next(4)],
                _ if at > 1 => bytes.truncate(at),
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    };
    let (mut taken, mut refused) = (0, 0);
    for seed in seeds("messages") {
        for _ in 0..MUTATIONS {
            let bytes = damaged(&seed);
            match check_message(bytes[0], &reframed_message(&bytes[1..])) {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(taken > MUTATIONS && refused > MUTATIONS, "{taken} taken, {refused} refused");
    let mut received = 0;
    for seed in seeds("channel") {
        for _ in 0..MUTATIONS {
            received += check_frames(&damaged(&seed));
        }
    }
    assert!(received > MUTATIONS, "{received}");
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
            reframed_message(&bytes);
            reframed_snapshot(&bytes);
            reframed_segment(&bytes);
            segment_of_extents(&bytes);
        }
    }
}
