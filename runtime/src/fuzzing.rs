//! Decoders of what comes from other members of a job, for whoever feeds them any bytes (`fuzz/`). Not part of
//! the interface.
//!
//! All of them panic if what they have accepted is not the same when it is written and read again.

use crate::rows::{Rows, RowsCodec};
use millstream_network::remote::frame::FrameKind;
use millstream_network::remote::fuzzing::FedChannel;
use millstream_network::remote::{Codec, FramePayload};
use millstream_state::Data;
use millstream_types::{Batch, Element};
use std::fmt::Debug;

pub use crate::hosts::check_message;

/// More frames than credits, so that credits come back.
const CREDITS: u32 = 2;

/// Feeds frames to a channel, up to the first that makes no sense: how many elements were received.
///
/// The first byte says which records the channel has: such as are received as they lie in memory, with values
/// that may be any or not, or such as are archived. Each frame is a byte for its kind, two for the length of its
/// payload, and the payload, which may be cut off.
pub fn check_frames(input: &[u8]) -> usize {
    match input.split_first() {
        None => 0,
        Some((kind, frames)) => match kind % 3 {
            0 => check_frames_of::<u64>(frames),
            1 => check_frames_of::<(u32, bool, char)>(frames),
            _ => check_frames_of::<(String, Vec<u16>, Option<u64>)>(frames),
        },
    }
}

fn check_frames_of<T: Data + Clone + PartialEq + Debug>(mut frames: &[u8]) -> usize {
    let (mut channel, mut codec) =
        (FedChannel::new(RowsCodec::<T>::default(), CREDITS), RowsCodec::default());
    let mut received = 0;
    while let Some(([kind, a, b], rest)) = frames.split_first_chunk() {
        let kind = match kind % 4 {
            0 => FrameKind::Batch,
            1 => FrameKind::Signal,
            2 => FrameKind::Overtaking,
            _ => FrameKind::Credit,
        };
        let len = usize::from(u16::from_le_bytes([*a, *b])).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        frames = rest;
        let taken = channel.receive(kind, payload, |element| {
            received += 1;
            if let Element::Batch(rows) = element {
                check_rows(&mut codec, rows);
            }
        });
        if taken.map_err(|error| error.to_string()).is_err() {
            break;
        }
    }
    received
}

/// Writes rows, reads them, and takes them out.
fn check_rows<T: Data + Clone + PartialEq + Debug>(codec: &mut RowsCodec<T>, rows: &Rows<T>) {
    let mut payload = vec![0; codec.prepare(rows).expect("what was read can be written")];
    codec.write(rows, &mut payload);
    let mut again = Rows::default();
    codec
        .read(FramePayload::from_bytes(&payload), &mut again)
        .expect("what was written can be read");
    assert_eq!(*rows, again);
    let mut taken = 0;
    again.drain_each(|value, timestamp| {
        assert!(value == rows.values()[taken] && timestamp == rows.timestamp(taken));
        taken += 1;
    });
    assert_eq!(taken, Batch::len(rows));
}

#[cfg(test)]
pub(crate) mod tests;
