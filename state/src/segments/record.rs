//! The form of a record in the log.
//!
//! ```text
//! 0   hash of the key                     u64
//! 8   address of the version before it    48 bits, then the table's id, 16 bits
//! 16  epoch                               u32
//! 20  length of the key                   u32
//! 24  length of the value                 u32
//! 28  key group                           u16
//! 30  kind                                u8
//! 31  flags                               u8 (bit 0: has a namespace; bit 1: expires)
//! 32  value, aligned to 16; key; padding to 8; namespace i64 if flagged; padding to 16
//! ```
//!
//! The value of a record that expires ends with its expiry, a processing time in nanoseconds (i64). So
//! it is changed in place together with the rest.
//!
//! Numbers are little-endian. A record of eight bytes of key and sixteen of value fills one cache
//! line, with a namespace or without.

use super::address::{Address, RECORD_ALIGNMENT};
use crate::EntryKey;
use millstream_types::{KeyGroup, KeyGroupRange, Timestamp};

/// The bytes before the value.
pub(super) const HEADER_BYTES: usize = 32;

/// Where the kind is; zero there is padding.
pub(super) const KIND_AT: usize = 30;

const NAMESPACED: u8 = 1;
const EXPIRES: u8 = 2;

/// What a record says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The key has this value.
    Whole = 1,
    /// The key's value is that of the record before it, with this appended.
    Piece = 2,
    /// The key is not there any more.
    Removed = 3,
    /// No key of the table's namespace is there any more, in the groups `value` (two u16: first and
    /// end). Has no key.
    NamespaceRemoved = 4,
    /// Says nothing: removed before it was part of any checkpoint.
    Void = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Whole, Self::Piece, Self::Removed, Self::NamespaceRemoved, Self::Void]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// All of a record but its key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub hash: u64,
    /// The version of the same key that it replaced, or [`Address::NONE`] if the key was not there.
    /// A piece is appended to it. In a record that says that something is removed: no version of it
    /// lies in a later segment than this.
    pub previous: Address,
    /// The table's id in the store that wrote the record.
    pub table: u16,
    /// The checkpoint that the record's member took next: it belongs to that and to later ones.
    pub epoch: u32,
    pub key_len: u32,
    pub value_len: u32,
    pub group: KeyGroup,
    pub kind: Kind,
    pub namespaced: bool,
    /// The value ends with its expiry.
    pub expires: bool,
}

#[inline]
fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The bytes of a record with these parts; `None` if there are too many to count.
#[inline]
pub(super) fn record_len(key_len: usize, value_len: usize, namespaced: bool) -> Option<usize> {
    let content = HEADER_BYTES.checked_add(value_len)?.checked_add(key_len)?;
    let namespace =
        if namespaced { content.checked_next_multiple_of(8)?.checked_add(8)? } else { content };
    namespace.checked_next_multiple_of(RECORD_ALIGNMENT)
}

impl Header {
    /// `None` if the kind is not one of this format; a zero kind is padding.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let link = u64_at(bytes, 8);
        Some(Self {
            hash: u64_at(bytes, 0),
            previous: Address::from_bits(link),
            table: (link >> 48) as u16,
            epoch: u32_at(bytes, 16),
            key_len: u32_at(bytes, 20),
            value_len: u32_at(bytes, 24),
            group: KeyGroup(u16::from_le_bytes([bytes[28], bytes[29]])),
            kind: Kind::from_byte(bytes[KIND_AT])?,
            namespaced: bytes[31] & NAMESPACED != 0,
            expires: bytes[31] & EXPIRES != 0,
        })
    }

    #[inline]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.hash.to_le_bytes());
        let link = self.previous.bits() | u64::from(self.table) << 48;
        bytes[8..16].copy_from_slice(&link.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.value_len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[KIND_AT] = self.kind as u8;
        bytes[31] = if self.namespaced { NAMESPACED } else { 0 };
        bytes[31] |= if self.expires { EXPIRES } else { 0 };
        bytes
    }

    /// The bytes of the whole record; `None` if its lengths are not those of any record.
    #[inline]
    pub fn len(&self) -> Option<usize> {
        record_len(self.key_len as usize, self.value_len as usize, self.namespaced)
    }

    /// Where the key begins in the record.
    #[inline]
    pub fn key_offset(&self) -> usize {
        HEADER_BYTES + self.value_len as usize
    }

    /// Where the namespace lies in the record, if it has one.
    #[inline]
    pub fn namespace_offset(&self) -> usize {
        (self.key_offset() + self.key_len as usize).next_multiple_of(8)
    }
}

/// A record, read where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub header: Header,
    /// All of it.
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at the beginning of `bytes`, or what is wrong with it.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let header = bytes.first_chunk().ok_or("a record is cut off")?;
        let header = Header::decode(header).ok_or("a record of unknown kind")?;
        let len = header.len().ok_or("a record of impossible length")?;
        let bytes = bytes.get(..len).ok_or("a record is longer than what holds it")?;
        Ok(Self { header, bytes })
    }

    /// The record with this header, of these bytes, which are as many as the header says.
    #[inline]
    pub fn of(header: Header, bytes: &'a [u8]) -> Self {
        debug_assert_eq!(header.len(), Some(bytes.len()));
        Self { header, bytes }
    }

    /// All its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub fn value(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..self.header.key_offset()]
    }

    #[inline]
    pub fn key(&self) -> &'a [u8] {
        let start = self.header.key_offset();
        &self.bytes[start..start + self.header.key_len as usize]
    }

    /// True if it is one of the entry's, of those that its index leads to.
    #[inline]
    pub fn is_of(&self, key: &EntryKey<'_>) -> bool {
        self.header.hash == key.hash && same_key(self.key(), key.bytes)
    }

    /// From when on the record says nothing any more; never if it does not expire.
    #[inline]
    pub fn expiry(&self) -> Timestamp {
        if self.header.expires { expiry_of(self.value()) } else { Timestamp::MAX }
    }

    /// The key groups that a removed namespace is removed from; none if the record says something
    /// else.
    pub fn removed_groups(&self) -> KeyGroupRange {
        match (self.header.kind, self.value()) {
            (Kind::NamespaceRemoved, &[a, b, c, d]) => {
                KeyGroupRange(u16::from_le_bytes([a, b])..u16::from_le_bytes([c, d]))
            }
            _ => KeyGroupRange(0..0),
        }
    }

    #[inline]
    pub fn namespace(&self) -> Timestamp {
        if !self.header.namespaced {
            return Timestamp::MIN;
        }
        let start = self.header.namespace_offset();
        let mut nanos = [0; 8];
        nanos.copy_from_slice(&self.bytes[start..start + 8]);
        Timestamp::from_nanos(i64::from_le_bytes(nanos))
    }
}

/// Equality of keys; most are of eight bytes.
#[inline]
pub(super) fn same_key(a: &[u8], b: &[u8]) -> bool {
    match (<[u8; 8]>::try_from(a), <[u8; 8]>::try_from(b)) {
        (Ok(a), Ok(b)) => u64::from_ne_bytes(a) == u64::from_ne_bytes(b),
        _ => a == b,
    }
}

/// The expiry at the end of a value; never if the value is too short for one.
#[inline]
pub(super) fn expiry_of(value: &[u8]) -> Timestamp {
    value
        .last_chunk()
        .map_or(Timestamp::MAX, |nanos| Timestamp::from_nanos(i64::from_le_bytes(*nanos)))
}

/// Writes a record to the beginning of `out`, which is as long as the record, and zeroes padding.
#[inline]
pub(super) fn encode(
    header: &Header,
    namespace: Timestamp,
    key: &[u8],
    value: &[u8],
    out: &mut [u8],
) {
    debug_assert_eq!(Some(out.len()), header.len());
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    let key_at = header.key_offset();
    out[HEADER_BYTES..key_at].copy_from_slice(value);
    let mut end = key_at + key.len();
    out[key_at..end].copy_from_slice(key);
    if header.namespaced {
        let at = header.namespace_offset();
        out[end..at].fill(0);
        end = at + 8;
        out[at..end].copy_from_slice(&namespace.as_nanos().to_le_bytes());
    }
    out[end..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_keeps_its_parts(
            hash in any::<u64>(), previous in any::<u64>(), table in any::<u16>(), epoch in any::<u32>(),
            group in any::<u16>(), kind in 1u8..=5, expires in any::<bool>(), namespace in prop::option::of(any::<i64>()),
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..70),
        ) {
            let header = Header {
                hash, previous: Address::from_bits(previous), table, epoch,
                key_len: key.len() as u32, value_len: value.len() as u32,
                group: KeyGroup(group), kind: Kind::from_byte(kind).unwrap(),
                namespaced: namespace.is_some(), expires,
            };
            let namespace = namespace.map_or(Timestamp::MIN, Timestamp::from_nanos);
            let mut out = vec![0xaa; header.len().unwrap()];
            encode(&header, namespace, &key, &value, &mut out);
            prop_assert_eq!(out.len() % RECORD_ALIGNMENT, 0);
            let record = Record::decode(&out).unwrap();
            prop_assert_eq!(record.header, header);
            prop_assert_eq!((record.key(), record.value()), (&key[..], &value[..]));
            prop_assert_eq!(record.namespace(), namespace);
            prop_assert!(Record::decode(&out[..out.len() - 1]).is_err());
        }

        #[test]
        fn bytes_from_anywhere_are_refused_or_have_parts(bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            if let Ok(record) = Record::decode(&bytes) {
                let _ = (record.key(), record.value(), record.namespace());
            }
        }
    }

    #[test]
    fn a_small_record_fills_one_cache_line() {
        assert_eq!(record_len(8, 16, false), Some(64));
        assert_eq!(record_len(8, 16, true), Some(64));
    }
}
