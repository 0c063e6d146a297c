//! Cuts frames out of what a connection receives, at once and in pieces, which must come to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::reframed_frames;
use millstream_network::remote::cutter::FrameCutter;
use millstream_network::remote::frame::{FrameError, FrameHeader};

fuzz_target!(|input: &[u8]| {
    // How it is received, and what.
    let Some((piece, bytes)) = input.split_first() else { return };
    check(bytes, usize::from(*piece) + 1);
    check(&reframed_frames(bytes), usize::from(*piece) + 1);
});

fn check(bytes: &[u8], piece: usize) {
    let (whole, error) = cut(bytes, bytes.len().max(1));
    assert!((&whole, error) == (&cut(bytes, piece).0, cut(bytes, piece).1));
    if let Some(error) = error {
        drop(error.to_string());
    }
    for (header, payload) in whole {
        assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
        assert_eq!(header.verify(&payload), Ok(()));
    }
}

fn cut(bytes: &[u8], piece: usize) -> (Vec<(FrameHeader, Vec<u8>)>, Option<FrameError>) {
    let (mut cutter, mut frames) = (FrameCutter::new(0), Vec::new());
    for received in bytes.chunks(piece) {
        let mut at = 0;
        loop {
            match cutter.next(received, &mut at) {
                Ok(Some(frame)) => frames.push((frame.header, frame.bytes(received).to_vec())),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        if let Err(error) = cutter.set_aside(received, &mut at) {
            return (frames, Some(error));
        }
    }
    (frames, None)
}
