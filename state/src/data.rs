//! What may be a key, a value or a record: types with an archived form.

use crate::plain::{from_plain_slice, plain_bytes, plain_slice};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Fallible};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Allocator, Writer};
use rkyv::util::AlignedVec;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::hash::Hash;

/// A value could not be archived.
#[derive(Debug, thiserror::Error)]
#[error("a value of type {type_name} cannot be archived")]
pub struct EncodeError {
    type_name: &'static str,
    source: rancor::Error,
}

/// Bytes are not the archived form of the type that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{len} bytes are not an archived {type_name}: they are damaged, or the type has changed")]
pub struct DecodeError {
    type_name: &'static str,
    len: usize,
    source: rancor::Error,
}

/// A type that can be written to state and to the wire, and read back.
///
/// Implemented for every `Send + 'static` type with rkyv's `Archive`, `Serialize` and
/// `Deserialize` and a checked archived form: integers, floats, tuples, arrays, `String`, `Vec`,
/// `Option`, and structs and enums with `#[millstream::record]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept in state or sent to another subtask",
    label = "not a record, a state value or a key",
    note = "put `#[millstream::record]` on the type; it must own its data (no borrowed fields) and be `Send`"
)]
pub trait Data: Sized + Send + 'static {
    /// The size of the archived form, without what it refers to: tells types apart that have
    /// changed, as far as a size can.
    const ARCHIVED_BYTES: usize;

    /// Replaces the content of `out` with the archived form.
    ///
    /// The form depends on nothing but the value. It is position-independent as long as its
    /// address keeps the alignment of `out`, 16 bytes.
    ///
    /// # Errors
    /// If a field refuses to be archived, which no built-in type does.
    fn encode(&self, out: &mut AlignedVec) -> Result<(), EncodeError>;

    /// The archived form, if the value lies in memory in just that. May be `None` all the same.
    #[inline]
    fn plain_bytes(&self) -> Option<&[u8]> {
        None
    }

    /// Reads a value back. Every byte is validated, so bytes from anywhere are safe. Bytes that are
    /// not aligned to 16 are copied first.
    ///
    /// # Errors
    /// If the bytes are not a valid archived form of this type.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// The archived forms of all values, one after the other, if they lie in memory in just that. May be
    /// `None` all the same.
    #[inline]
    fn plain_slice(_values: &[Self]) -> Option<&[u8]> {
        None
    }

    /// The values of which [`plain_slice`](Self::plain_slice) has given these bytes, where they lie;
    /// `None` if it gives none, or they are not aligned. Every byte is validated.
    ///
    /// # Errors
    /// If the bytes are not valid for the type.
    #[inline]
    fn from_plain_slice(_bytes: &[u8]) -> Option<Result<&[Self], DecodeError>> {
        None
    }

    /// Replaces the content of `out` with the archived form of all values together.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_all(values: &[Self], out: &mut AlignedVec) -> Result<(), EncodeError> {
        out.clear();
        let mut one = AlignedVec::new();
        for value in values {
            value.encode(&mut one)?;
            let head = (one.len() as u128).to_le_bytes();
            out.extend_from_slice(&head);
            out.extend_from_slice(&one);
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        }
        Ok(())
    }

    /// Reads values back that were [encoded together](Self::encode_all), into `out`, behind what is
    /// there.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); nothing is added then.
    fn decode_all(mut bytes: &[u8], out: &mut Vec<Self>) -> Result<(), DecodeError> {
        let begin = out.len();
        while let Some((head, rest)) = bytes.split_first_chunk::<ALIGNMENT>() {
            let len = usize::try_from(u128::from_le_bytes(*head)).unwrap_or(usize::MAX);
            let value = rest.get(..len).unwrap_or(rest);
            match Self::decode(value) {
                Ok(value) => out.push(value),
                Err(error) => {
                    out.truncate(begin);
                    return Err(error);
                }
            }
            let next = len.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
            bytes = rest.get(next..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Values that are archived as a vector.
struct All<'a, T>(&'a [T]);

impl<T: Archive> Archive for All<'_, T> {
    type Archived = ArchivedVec<T::Archived>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(self.0, resolver, out);
    }
}

impl<T, S> Serialize<S> for All<'_, T>
where
    T: Serialize<S>,
    S: Fallible + Allocator + Writer + ?Sized,
{
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(self.0, serializer)
    }
}

/// Archives one value, which may stand for many of a type that is to be named.
fn archive<V>(value: &V, out: &mut AlignedVec, type_name: &'static str) -> Result<(), EncodeError>
where
    V: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let mut buffer = std::mem::take(out);
    buffer.clear();
    *out = rkyv::api::high::to_bytes_in::<_, rancor::Error>(value, buffer)
        .map_err(|source| EncodeError { type_name, source })?;
    Ok(())
}

#[diagnostic::do_not_recommend]
impl<T> Data for T
where
    T: Archive + Send + 'static,
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    const ARCHIVED_BYTES: usize = size_of::<T::Archived>();

    #[inline]
    fn encode(&self, out: &mut AlignedVec) -> Result<(), EncodeError> {
        if let Some(bytes) = plain_bytes(self) {
            out.clear();
            out.extend_from_slice(bytes);
            return Ok(());
        }
        archive(self, out, std::any::type_name::<T>())
    }

    #[inline]
    fn plain_bytes(&self) -> Option<&[u8]> {
        plain_bytes(self)
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        aligned(bytes, |bytes| rkyv::from_bytes::<T, rancor::Error>(bytes))
            .map_err(|source| decode_error::<T>(bytes, source))
    }

    #[inline]
    fn plain_slice(values: &[T]) -> Option<&[u8]> {
        plain_slice(values)
    }

    #[inline]
    fn from_plain_slice(bytes: &[u8]) -> Option<Result<&[T], DecodeError>> {
        let values = from_plain_slice::<T>(bytes)?;
        Some(values.map_err(|source| decode_error::<T>(bytes, source)))
    }

    fn encode_all(values: &[T], out: &mut AlignedVec) -> Result<(), EncodeError> {
        archive(&All(values), out, std::any::type_name::<T>())
    }

    fn decode_all(bytes: &[u8], out: &mut Vec<T>) -> Result<(), DecodeError> {
        let begin = out.len();
        let decoded = aligned(bytes, |bytes| {
            let values = rkyv::access::<ArchivedVec<T::Archived>, rancor::Error>(bytes)?;
            out.reserve(values.len());
            for value in values.iter() {
                out.push(rkyv::deserialize::<T, rancor::Error>(value)?);
            }
            Ok(())
        });
        decoded.map_err(|source| {
            out.truncate(begin);
            decode_error::<T>(bytes, source)
        })
    }
}

fn decode_error<T>(bytes: &[u8], source: rancor::Error) -> DecodeError {
    DecodeError { type_name: std::any::type_name::<T>(), len: bytes.len(), source }
}

/// The alignment that [`AlignedVec`] promises, the greatest that an archived type may need.
const ALIGNMENT: usize = AlignedVec::<16>::ALIGNMENT;

/// Calls `read` with the same bytes at an aligned address.
#[inline]
fn aligned<R>(bytes: &[u8], read: impl FnOnce(&[u8]) -> R) -> R {
    #[repr(align(16))]
    struct Small([u8; 64]);

    if (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
        read(bytes)
    } else if bytes.len() <= 64 {
        let mut copy = Small([0; 64]);
        copy.0[..bytes.len()].copy_from_slice(bytes);
        read(&copy.0[..bytes.len()])
    } else {
        let mut copy = AlignedVec::<ALIGNMENT>::with_capacity(bytes.len());
        copy.extend_from_slice(bytes);
        read(&copy)
    }
}

/// A type by which records are partitioned and state is kept.
///
/// `Hash` must agree with `Eq` and be the same in every process, and equal keys must have equal
/// encodings. The derived implementations do and have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key",
    label = "not a key",
    note = "a key is `Hash + Eq + Clone` and a record: put `#[millstream::record]` and `#[derive(Clone, PartialEq, Eq, Hash)]` on the type",
    note = "floating-point numbers have no total equality: use their bits or an integer"
)]
pub trait Key: Data + Hash + Eq + Clone {}

#[diagnostic::do_not_recommend]
impl<T: Data + Hash + Eq + Clone> Key for T {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<T: Data + PartialEq + std::fmt::Debug>(value: T) {
        let mut out = AlignedVec::new();
        value.encode(&mut out).unwrap();
        assert_eq!(T::decode(&out).unwrap(), value);
        // The same bytes at every address modulo the alignment.
        let mut shifted = AlignedVec::<ALIGNMENT>::new();
        for shift in 1..ALIGNMENT {
            shifted.clear();
            shifted.resize(shift, 0);
            shifted.extend_from_slice(&out);
            assert_eq!(T::decode(&shifted[shift..]).unwrap(), value);
        }
    }

    fn round_trip_together<T: Data + PartialEq + std::fmt::Debug>(values: Vec<T>) {
        let mut bytes = AlignedVec::new();
        T::encode_all(&values, &mut bytes).unwrap();
        let mut read = Vec::new();
        T::decode_all(&bytes, &mut read).unwrap();
        assert_eq!(read, values);
        if let Some(bytes) = T::plain_slice(&values) {
            assert_eq!(T::from_plain_slice(bytes).unwrap().unwrap(), values);
        }
        // Cut off anywhere, it is refused or something valid, and leaves what was there.
        for len in 0..bytes.len() {
            if T::decode_all(&bytes[..len], &mut read).is_err() {
                assert_eq!(read, values);
            }
            read.truncate(values.len());
        }
    }

    proptest! {
        #[test]
        fn values_are_encoded_together(
            n in prop::collection::vec(any::<(u64, u64)>(), 0..9),
            s in prop::collection::vec(any::<(String, Option<u32>)>(), 0..5),
        ) {
            round_trip_together(n);
            round_trip_together(s.iter().map(|(text, _)| text.clone()).collect());
            round_trip_together(s);
            round_trip_together(vec![(); 3]);
        }

        #[test]
        fn a_decoded_value_equals_the_encoded_one(
            n in any::<u64>(), s in ".{0,90}", v in prop::collection::vec(any::<u128>(), 0..9),
        ) {
            round_trip(n);
            round_trip((n as u8, s.clone()));
            round_trip((Some(s.clone()), v.clone(), [n as i16; 3]));
            round_trip(v.into_iter().map(|n| (n as u8, vec![s.clone()])).collect::<Vec<_>>());
        }

        #[test]
        fn bytes_from_anywhere_are_refused_or_valid(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(s) = <(String, Option<Vec<u32>>)>::decode(&bytes) {
                let _ = format!("{s:?}");
            }
        }
    }

    #[test]
    fn the_empty_type_has_an_empty_encoding() {
        let mut out = AlignedVec::new();
        7u64.encode(&mut out).unwrap();
        ().encode(&mut out).unwrap();
        assert_eq!(out.len(), 0);
        round_trip(());
    }

    #[test]
    fn truncated_bytes_are_an_error_that_names_the_type() {
        let mut out = AlignedVec::new();
        "a string that does not fit inline".to_owned().encode(&mut out).unwrap();
        let error = String::decode(&out[8..]).unwrap_err();
        assert!(error.to_string().contains("String"), "{error}");
    }
}
