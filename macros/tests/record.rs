//! `#[record]` as a program sees it: this crate stands in for `millstream` and re-exports rkyv.
#![expect(
    missing_docs,
    reason = "rkyv leaves one derived type undocumented: the resolver of named fields in an enum"
)]

extern crate self as millstream;
pub use rkyv;

use millstream_macros::record;
use rkyv::rancor::Error;
use std::collections::BTreeMap;

/// A struct with names, nested records and collections.
#[record]
#[derive(Clone, Debug, PartialEq)]
pub struct Play {
    /// Who.
    pub user: u64,
    /// What.
    pub song: String,
    /// For how long.
    pub seconds: Option<u32>,
    /// Nested.
    pub device: Device,
    /// Collections.
    pub tags: BTreeMap<String, Vec<i16>>,
}

/// An enum of all kinds of variants.
#[record]
#[derive(Clone, Debug, PartialEq)]
pub enum Device {
    /// Unit.
    Phone,
    /// Tuple.
    Browser(String, u16),
    /// Named.
    Speaker {
        /// Where.
        room: String,
    },
}

/// Attributes and restricted visibility come before the keyword.
#[derive(Debug)]
#[record]
#[rkyv(derive(Debug, PartialEq, Eq, Hash))]
pub(crate) struct Key(u64, i32);

/// A unit struct.
#[record]
struct Nothing;

/// A record of any other.
#[record]
#[derive(Debug, PartialEq)]
struct Timed<T> {
    time: i64,
    value: T,
}

/// In another order a compiler would lay it out with the array first.
#[record]
#[derive(Debug, PartialEq)]
struct Row {
    key: u64,
    rest: [u64; 4],
}

/// A layout of its own.
#[record]
#[repr(transparent)]
struct Wrapped(u64);

#[test]
fn what_has_no_gaps_is_archived_as_it_lies_in_memory() {
    use rkyv::Archive;
    assert_eq!(Row::COPY_OPTIMIZATION.is_enabled(), cfg!(target_endian = "little"));
    assert!(!Key::COPY_OPTIMIZATION.is_enabled());
    let row = Row { key: 1, rest: [2, 3, 4, 5] };
    let bytes = rkyv::to_bytes::<Error>(&row).unwrap();
    let numbers = bytes.chunks(8).map(|eight| eight[0]);
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(rkyv::from_bytes::<Row, Error>(&bytes).unwrap(), row);
    assert_eq!(rkyv::to_bytes::<Error>(&Wrapped(7)).unwrap().len(), size_of::<Wrapped>());
}

#[test]
fn records_survive_archiving() {
    let play = Play {
        user: 7,
        song: "a song with a name longer than an inline string".to_owned(),
        seconds: Some(181),
        device: Device::Speaker { room: "kitchen".to_owned() },
        tags: BTreeMap::from([("mood".to_owned(), vec![1, -2])]),
    };
    let bytes = rkyv::to_bytes::<Error>(&play).unwrap();
    let view = rkyv::access::<ArchivedPlay, Error>(&bytes).unwrap();
    assert_eq!(view.song.as_str(), play.song);
    assert_eq!(rkyv::deserialize::<Play, Error>(view).unwrap(), play);
}

#[test]
fn generic_records_survive_archiving() {
    let timed = Timed { time: -1, value: Device::Browser("a".to_owned(), 2) };
    let bytes = rkyv::to_bytes::<Error>(&timed).unwrap();
    assert_eq!(rkyv::from_bytes::<Timed<Device>, Error>(&bytes).unwrap(), timed);
}

#[test]
fn options_for_the_archived_form_are_kept() {
    let bytes = rkyv::to_bytes::<Error>(&Key(1, -1)).unwrap();
    let key = rkyv::access::<ArchivedKey, Error>(&bytes).unwrap();
    assert_eq!(format!("{key:?}"), "ArchivedKey(1, -1)");
    assert!(rkyv::to_bytes::<Error>(&Nothing).is_ok());
}

#[test]
fn damaged_bytes_are_refused() {
    let mut bytes = rkyv::to_bytes::<Error>(&Device::Phone).unwrap();
    bytes[0] = 9;
    assert!(rkyv::access::<ArchivedDevice, Error>(&bytes).is_err());
}

#[test]
fn what_is_no_record_is_refused_in_words() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
