//! What flows through a simulated job.

/// A record: a key, and how often it was counted by the operator that emitted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) key: u64,
    pub(crate) count: u64,
}

/// The bytes of rows in a sink's file.
pub(crate) fn encode_rows(rows: &[Record]) -> Vec<u8> {
    rows.iter().flat_map(|row| [row.key.to_le_bytes(), row.count.to_le_bytes()]).flatten().collect()
}

/// `None` if the last row is cut.
pub(crate) fn decode_rows(bytes: &[u8]) -> Option<Vec<Record>> {
    let (rows, rest) = bytes.as_chunks::<16>();
    let row = |row: &[u8; 16]| {
        let (key, count) = row.split_first_chunk::<8>()?;
        let count = count.first_chunk::<8>()?;
        Some(Record { key: u64::from_le_bytes(*key), count: u64::from_le_bytes(*count) })
    };
    rest.is_empty().then(|| rows.iter().map(row).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let rows = vec![Record { key: 1, count: 2 }, Record { key: u64::MAX, count: 3 }];
        let bytes = encode_rows(&rows);
        assert_eq!(decode_rows(&bytes), Some(rows));
        assert_eq!(decode_rows(&bytes[1..]), None);
    }
}
