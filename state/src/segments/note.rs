//! What a store notes about its files in a checkpoint.

use super::format::Reader;
use millstream_types::KeyGroupRange;

const VERSION: u8 = 1;

/// The note of a [`crate::StateFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Records of later epochs are void; [`u32::MAX`] if none are.
    pub epoch_limit: u32,
    /// The operators and key groups of which the file says the truth. Others may be in it, from
    /// before they moved to another store, and out of date.
    pub valid: Valid,
}

/// Operators by `uid`, and key groups of theirs.
pub(super) type Valid = Vec<(String, KeyGroupRange)>;

/// What both lists name.
pub(super) fn both(a: &[(String, KeyGroupRange)], b: &[(String, KeyGroupRange)]) -> Valid {
    let mut both = Valid::new();
    for (operator, one) in a {
        for (_, other) in b.iter().filter(|(name, _)| name == operator) {
            let groups = one.0.start.max(other.0.start)..one.0.end.min(other.0.end);
            let named = (operator.clone(), KeyGroupRange(groups));
            if !named.1.0.is_empty() && !both.contains(&named) {
                both.push(named);
            }
        }
    }
    both
}

impl Note {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.epoch_limit.to_le_bytes());
        out.extend_from_slice(&(self.valid.len() as u32).to_le_bytes());
        for (operator, groups) in &self.valid {
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
        let (epoch_limit, count) = (reader.u32()?, reader.u32()?);
        let mut valid = Valid::new();
        for _ in 0..count {
            let groups = KeyGroupRange(reader.u16()?..reader.u16()?);
            valid.push((reader.text()?, groups));
        }
        Some(Self { epoch_limit, valid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_note_keeps_what_it_says(
            epoch_limit in any::<u32>(),
            valid in prop::collection::vec((".{0,9}", any::<u16>(), any::<u16>()), 0..4),
        ) {
            let valid = valid.into_iter().map(|(o, a, b)| (o, KeyGroupRange(a..b))).collect();
            let note = Note { epoch_limit, valid };
            let bytes = note.encode();
            prop_assert_eq!(Note::decode(&bytes), Some(note));
            for len in 0..bytes.len() {
                prop_assert_eq!(Note::decode(&bytes[..len]), None);
            }
        }
    }
}
