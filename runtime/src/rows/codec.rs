//! The bytes of rows between hosts: `docs/formats/frames.md`.

use super::Rows;
use super::values::Values;
use millstream_network::remote::{Codec, CodecError, FramePayload};
use millstream_state::{AlignedVec, Data};
use millstream_types::{Batch, Timestamp, hash_key};
use std::marker::PhantomData;

/// Bytes before the values.
const HEAD_BYTES: usize = 16;
/// Bytes of a timestamp.
const TIMESTAMP_BYTES: usize = 8;

/// Writes rows to frames and reads them.
///
/// Values that are archived as they lie in memory are copied once, to what is sent, and used where they
/// are received. Others are archived together.
pub(crate) struct RowsCodec<T> {
    schema: u64,
    /// The archived values of the batch that was prepared, unless they are plain.
    archived: AlignedVec,
    of: PhantomData<fn(T)>,
}

impl<T: Data> Default for RowsCodec<T> {
    fn default() -> Self {
        let identity = (std::any::type_name::<T>(), T::ARCHIVED_BYTES, size_of::<T>());
        Self { schema: hash_key(&identity), archived: AlignedVec::new(), of: PhantomData }
    }
}

impl<T: Data> RowsCodec<T> {
    fn values<'a>(&'a self, rows: &'a Rows<T>) -> &'a [u8] {
        T::plain_slice(rows.values()).unwrap_or(&self.archived)
    }
}

impl<T: Data> Codec<Rows<T>> for RowsCodec<T> {
    fn schema(&self) -> u64 {
        self.schema
    }

    fn prepare(&mut self, rows: &Rows<T>) -> Result<usize, CodecError> {
        if T::plain_slice(rows.values()).is_none() {
            T::encode_all(rows.values(), &mut self.archived)
                .map_err(|error| CodecError(error.into()))?;
        }
        let values = self.values(rows).len().next_multiple_of(TIMESTAMP_BYTES);
        Ok(HEAD_BYTES + values + rows.timestamps.len() * TIMESTAMP_BYTES)
    }

    fn write(&mut self, rows: &Rows<T>, payload: &mut [u8]) {
        let values = self.values(rows);
        let (head, rest) = payload.split_at_mut(HEAD_BYTES);
        head[..4].copy_from_slice(&(rows.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&[u8::from(!rows.timestamps.is_empty()), 0, 0, 0]);
        head[8..].copy_from_slice(&(values.len() as u64).to_le_bytes());
        let (room, times) = rest.split_at_mut(values.len().next_multiple_of(TIMESTAMP_BYTES));
        let (room, padding) = room.split_at_mut(values.len());
        room.copy_from_slice(values);
        padding.fill(0);
        let (times, _) = times.as_chunks_mut();
        for (bytes, timestamp) in times.iter_mut().zip(&rows.timestamps) {
            *bytes = timestamp.as_nanos().to_le_bytes();
        }
    }

    fn read(&mut self, payload: FramePayload, rows: &mut Rows<T>) -> Result<(), CodecError> {
        let failed = |what: &str| CodecError(what.into());
        let Some((head, rest)) = payload.split_first_chunk::<HEAD_BYTES>() else {
            return Err(failed("it is cut off"));
        };
        let [a, b, c, d, has_timestamps, 0, 0, 0, len @ ..] = *head else {
            return Err(failed("its head makes no sense"));
        };
        let count = u32::from_le_bytes([a, b, c, d]) as usize;
        let len = usize::try_from(u64::from_le_bytes(len)).unwrap_or(usize::MAX);
        let padded = len.checked_next_multiple_of(TIMESTAMP_BYTES).unwrap_or(usize::MAX);
        let Some((_, times)) = rest.split_at_checked(padded) else {
            return Err(failed("its values are cut off"));
        };
        let (times, []) = times.as_chunks::<TIMESTAMP_BYTES>() else {
            return Err(failed("a timestamp is cut off"));
        };
        if times.len() != if has_timestamps == 1 { count } else { 0 } || has_timestamps > 1 {
            return Err(failed("it has not as many timestamps as rows"));
        }
        let part = HEAD_BYTES..HEAD_BYTES + len;
        match Values::lent(&payload, part.clone()) {
            Some(values) => rows.values = values.map_err(|error| CodecError(error.into()))?,
            None => T::decode_all(&payload[part], rows.values.own())
                .map_err(|error| CodecError(error.into()))?,
        }
        if rows.len() != count {
            rows.clear();
            return Err(failed("it has not as many values as it says"));
        }
        let timestamp = |bytes: &[u8; 8]| Timestamp::from_nanos(i64::from_le_bytes(*bytes));
        rows.timestamps.extend(times.iter().map(timestamp));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Debug;

    fn round_trip<T: Data + Clone + PartialEq + Debug>(rows: &[(T, Option<i64>)]) {
        let mut batch = Rows::default();
        for (value, time) in rows {
            batch.push(value.clone(), time.map_or(Timestamp::MIN, Timestamp::from_nanos));
        }
        let mut codec = RowsCodec::<T>::default();
        let len = codec.prepare(&batch).unwrap();
        let mut payload = vec![7; len];
        codec.write(&batch, &mut payload);
        let mut read = Rows::default();
        codec.read(FramePayload::from_bytes(&payload), &mut read).unwrap();
        assert_eq!(read, batch);
        assert_eq!(read.clone(), batch);
        let mut drained = Vec::new();
        read.drain_each(|value, time| drained.push((value, time)));
        let expected: Vec<_> =
            (0..batch.len()).map(|at| (batch.values()[at].clone(), batch.timestamp(at))).collect();
        assert_eq!(drained, expected);
        assert!(read.is_empty());
        // It takes rows again.
        read.push(rows[0].0.clone(), Timestamp::MIN);
        assert_eq!(read.len(), 1);
        for len in 0..len {
            let mut read = Rows::default();
            assert!(codec.read(FramePayload::from_bytes(&payload[..len]), &mut read).is_err());
        }
    }

    proptest! {
        #[test]
        fn rows_are_read_as_they_were_written(
            numbers in prop::collection::vec(((any::<u64>(), any::<u64>()), any::<Option<i64>>()), 1..40),
            texts in prop::collection::vec((any::<(String, bool)>(), any::<Option<i64>>()), 1..10),
        ) {
            round_trip(&numbers);
            round_trip(&texts);
            round_trip(&numbers.iter().map(|((n, _), t)| (*n as u8, *t)).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>) {
            let mut rows = Rows::<String>::default();
            let _ = RowsCodec::default().read(FramePayload::from_bytes(&bytes), &mut rows);
            let mut rows = Rows::<(u64, bool)>::default();
            let _ = RowsCodec::default().read(FramePayload::from_bytes(&bytes), &mut rows);
        }
    }

    #[test]
    fn types_of_other_names_or_sizes_have_other_schemas() {
        let schemas = [
            RowsCodec::<u64>::default().schema,
            RowsCodec::<i64>::default().schema,
            RowsCodec::<(u64, u64)>::default().schema,
            RowsCodec::<String>::default().schema,
        ];
        for (at, schema) in schemas.iter().enumerate() {
            assert!(!schemas[..at].contains(schema));
        }
    }
}
