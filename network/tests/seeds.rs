//! The frames that fuzzing begins with, in `fuzz/corpus/frames`: they are what this program writes, byte
//! by byte, behind the byte that says in which pieces they are received. Set `MILLSTREAM_WRITE_SEEDS`
//! to write them.
#![cfg(not(loom))]

use millstream_network::remote::cutter::FrameCutter;
use millstream_network::remote::frame::{ALIGNMENT, FrameHeader, FrameKind};
use std::path::Path;

/// Frames with payloads of these lengths.
fn frames(kind: FrameKind, lengths: &[usize]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (number, len) in (0..).zip(lengths) {
        let payload: Vec<u8> = (0..*len).map(|at| at as u8).collect();
        let schema = if kind == FrameKind::Batch { 0x5eed } else { 0 };
        stream.extend(FrameHeader::new(kind, 3, 0, schema, number, &payload).encode());
        stream.extend(payload);
        stream.resize(stream.len().next_multiple_of(ALIGNMENT), 0);
    }
    stream
}

#[test]
fn the_seeds_are_what_is_written_and_are_read() {
    let seeds = [
        ("batches", 100, frames(FrameKind::Batch, &[40, 0, 333, 16])),
        ("signals", 255, frames(FrameKind::Signal, &[9, 17])),
        ("credit", 15, frames(FrameKind::Credit, &[8])),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/frames");
    let write = std::env::var_os("MILLSTREAM_WRITE_SEEDS").is_some();
    for (name, pieces, stream) in seeds {
        let path = folder.join(name);
        let bytes = [&[pieces], stream.as_slice()].concat();
        if write {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
        let (mut cutter, mut at, mut found) = (FrameCutter::new(0), 0, 0);
        while let Some(frame) = cutter.next(&stream, &mut at).unwrap() {
            assert_eq!(frame.header.number, found);
            found += 1;
        }
        assert!(found > 0 && at == stream.len() && !cutter.is_amid_a_frame(), "{name}");
    }
}
