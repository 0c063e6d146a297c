//! The bytes of signals: `docs/formats/frames.md`.

use millstream_types::{Barrier, CheckpointId, Element, LatencyMarker, Timestamp};

/// Bytes of a signal.
pub(super) const SIGNAL_BYTES: usize = 16;

/// The payload of a signal; `None` for a batch.
pub(super) fn encode<B>(element: &Element<B>) -> Option<[u8; SIGNAL_BYTES]> {
    let (kind, value) = match element {
        Element::Batch(_) => return None,
        Element::Watermark(watermark) => (1, watermark.as_nanos() as u64),
        Element::Barrier(barrier) => (2, barrier.checkpoint.0),
        Element::LatencyMarker(marker) => (3, marker.emitted.as_nanos() as u64),
        Element::Idle => (4, 0),
        Element::Active => (5, 0),
        Element::EndOfInput => (6, 0),
    };
    let mut bytes = [0; SIGNAL_BYTES];
    bytes[0] = kind;
    bytes[8..].copy_from_slice(&value.to_le_bytes());
    Some(bytes)
}

/// The signal of a payload; `None` if it is none.
pub(super) fn decode<B>(payload: &[u8]) -> Option<Element<B>> {
    let (head, value) = payload.split_first_chunk::<8>()?;
    let value = u64::from_le_bytes(value.try_into().ok()?);
    if head[1..] != [0; 7] {
        return None;
    }
    Some(match head[0] {
        1 => Element::Watermark(Timestamp::from_nanos(value as i64)),
        2 => Element::Barrier(Barrier { checkpoint: CheckpointId(value) }),
        3 => Element::LatencyMarker(LatencyMarker { emitted: Timestamp::from_nanos(value as i64) }),
        4 => Element::Idle,
        5 => Element::Active,
        6 => Element::EndOfInput,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_signal_is_what_it_was(value: u64, kind in 0u8..6) {
            let time = Timestamp::from_nanos(value as i64);
            let signal: Element<()> = match kind {
                0 => Element::Watermark(time),
                1 => Element::Barrier(Barrier { checkpoint: CheckpointId(value) }),
                2 => Element::LatencyMarker(LatencyMarker { emitted: time }),
                3 => Element::Idle,
                4 => Element::Active,
                _ => Element::EndOfInput,
            };
            prop_assert_eq!(decode(&encode(&signal).unwrap()), Some(signal));
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            if let Some(signal) = decode::<()>(&bytes) {
                let again = encode(&signal).unwrap();
                prop_assert_eq!(again[0], bytes[0]);
            }
        }
    }
}
