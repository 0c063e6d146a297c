//! What a store notes about its files in a checkpoint.

use super::format::Reader;
use millstream_types::KeyGroupRange;

const VERSION: u8 = 1;

/// The note of a [`crate::StateFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The store that refers to the file, which need not be the one that wrote it. Files with the same
    /// are one log.
    pub run: u64,
    /// Records of later epochs are void; [`u32::MAX`] if none are.
    pub epoch_limit: u32,
    /// Whose records the log is right about: those of other key groups may be out of date. In the note
    /// of the log's first file.
    pub owned: Vec<(String, KeyGroupRange)>,
}

impl Note {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.run.to_le_bytes());
        out.extend_from_slice(&self.epoch_limit.to_le_bytes());
        out.extend_from_slice(&(self.owned.len() as u32).to_le_bytes());
        for (operator, groups) in &self.owned {
            out.extend_from_slice(&groups.0.start.to_le_bytes());
            out.extend_from_slice(&groups.0.end.to_le_bytes());
            out.extend_from_slice(&(operator.len() as u32).to_le_bytes());
            out.extend_from_slice(operator.as_bytes());
        }
        out
    }

    /// `None` if the bytes are not a note of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.bytes(1)? != [VERSION] {
            return None;
        }
        let (run, epoch_limit, count) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let mut owned = Vec::new();
        for _ in 0..count {
            let groups = KeyGroupRange(reader.u16()?..reader.u16()?);
            owned.push((reader.text()?, groups));
        }
        Some(Self { run, epoch_limit, owned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_note_keeps_what_it_says(
            run in any::<u64>(), epoch_limit in any::<u32>(),
            owned in prop::collection::vec((".{0,9}", any::<u16>(), any::<u16>()), 0..4),
        ) {
            let owned = owned.into_iter().map(|(o, a, b)| (o, KeyGroupRange(a..b))).collect();
            let note = Note { run, epoch_limit, owned };
            let bytes = note.encode();
            prop_assert_eq!(Note::decode(&bytes), Some(note));
            for len in 0..bytes.len() {
                prop_assert_eq!(Note::decode(&bytes[..len]), None);
            }
        }
    }
}
