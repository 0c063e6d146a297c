//! Bytes from outside, whatever they are: each decoder against a simple one that holds all in
//! memory. Never a panic or a lost wake-up; what is wrong is named by file and line.

mod driver;
#[path = "../../api/tests/soaking/mod.rs"]
mod soaking;

use driver::{read_all, read_error};
use flate2::Compression;
use flate2::write::GzEncoder;
use millstream::connector::BoxError;
use millstream_connectors::format::Format;
use millstream_connectors::{Csv, FileSource, JsonLines, Malformed, ReadError, TextLines};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::Value;
use soaking::soak;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

type Tried = Result<(), Box<dyn std::error::Error>>;
type Property = Result<(), TestCaseError>;

/// A file in a folder of its own.
struct Input {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Input {
    fn new(name: &str, content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }
}

/// What is left of a line: its record, or where and what it is.
type Read<T> = Result<T, (u64, u64, Vec<u8>)>;

/// The records and malformed records of a file that several readers share, in any order.
fn shared<F: Format<Record: Ord>>(
    path: &Path,
    format: F,
    readers: u32,
    range_bytes: u64,
) -> Result<Vec<Read<F::Record>>, BoxError> {
    let source = FileSource::new(path, format).range_bytes(range_bytes).with_malformed();
    let mut all: Vec<_> = read_all(&source, readers)?
        .into_iter()
        .flatten()
        .map(|record| {
            record.map_err(|Malformed { file, line, column, message, raw }| {
                assert_eq!(Path::new(&file), path);
                assert!(!message.is_empty() && !message.contains("at line"), "{message}");
                (line, column, raw)
            })
        })
        .collect();
    all.sort();
    Ok(all)
}

fn text_of(error: &dyn std::fmt::Display) -> String {
    error.to_string()
}

/// The lines of a file without their ends, by the definition: all at once.
fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    content.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    })
}

/// Pieces of text of all kinds, at times one that is longer than a block.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => select(vec!["a", "bc", "é", "😀", " ", "\t", "\0", "{}", "\"", ","])
            .prop_map(|text| text.as_bytes().to_vec()),
        6 => select(vec!["\n", "\r\n", "\n\n", "\r", "\n\r"])
            .prop_map(|text| text.as_bytes().to_vec()),
        2 => select(vec![&b"\xff"[..], b"\xc3", b"\xf0\x9f", b"\xef\xbb\xbf"])
            .prop_map(<[u8]>::to_vec),
        2 => vec(any::<u8>(), 0..20),
    ];
    let long = prop_oneof![
        12 => Just(Vec::new()),
        1 => (1usize..600_000, select(vec![b'x', b'\n', b'\xff']))
            .prop_map(|(length, byte)| vec![byte; length]),
    ];
    (vec(piece.clone(), 0..40), long, vec(piece, 0..20))
        .prop_map(|(before, long, after)| [before.concat(), long, after.concat()].concat())
}

/// Sizes of the ranges of a file; few of those in which a range is smaller than most lines.
fn range_bytes(content: &[u8]) -> impl Strategy<Value = u64> + use<> {
    let least = 1 + content.len() as u64 / 200;
    prop_oneof![least..least + 4, least..least + 300, least..2 + content.len() as u64]
}

fn shared_files() -> impl Strategy<Value = (Vec<u8>, u32, u64)> {
    (pieces(), 1u32..7).prop_flat_map(|(content, readers)| {
        let range_bytes = range_bytes(&content);
        (Just(content), Just(readers), range_bytes)
    })
}

#[test]
fn soak_text_is_read_line_by_line_however_many_share_it() -> Tried {
    soak(shared_files(), |(content, readers, range_bytes)| {
        let mut expected: Vec<Read<String>> = lines(&content)
            .zip(1..)
            .map(|(line, number)| {
                str::from_utf8(line).map(str::to_owned).map_err(|error| {
                    let good = &line[..error.valid_up_to()];
                    let column = str::from_utf8(good).unwrap().chars().count() as u64 + 1;
                    (number, column, line.to_vec())
                })
            })
            .collect();
        expected.sort();
        let input = Input::new("text", &content);
        let found = shared(&input.path, TextLines, readers, range_bytes);
        prop_assert_eq!(found.map_err(|error| text_of(&error)), Ok(expected));
        Ok(())
    })
}

/// Lines of JSON with a few bytes changed.
fn json() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => select(vec![
            r#"{"Bid":{"auction":1,"bidder":2,"url":"é","date_time":1436918400000}}"#,
            r#"{"a":[1,-2.5e300,null,true,"\u00e9\ud83d\ude00"]}"#,
            r#""\"" "#,
            "  [ ] ",
            "",
            " \t ",
        ]).prop_map(str::to_owned),
        1 => (1usize..1_000).prop_map(|depth| "[".repeat(depth)),
        1 => select(vec!["1e999", "-", "{\"a\":", "\"\\ud800\"", "nul", "1 2", "18446744073709551616"])
            .prop_map(str::to_owned),
    ];
    let damage = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (vec(line, 1..30), damage, select(vec!["\n", "\r\n"]), any::<bool>()).prop_map(
        |(lines, damage, end, ended)| {
            let mut bytes = lines.join(end).into_bytes();
            if ended {
                bytes.extend(end.as_bytes());
            }
            for (at, byte) in damage {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            bytes
        },
    )
}

#[test]
fn soak_json_is_parsed_line_by_line_however_many_share_it() -> Tried {
    /// A value that has an order: its text.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
    #[serde(from = "Value")]
    struct Text(String);
    impl From<Value> for Text {
        fn from(value: Value) -> Self {
            Self(value.to_string())
        }
    }
    /// Columns are for eyes alone: where the parser stopped.
    fn without_columns<T: Ord>(read: Vec<Read<T>>) -> Vec<Read<T>> {
        read.into_iter().map(|r| r.map_err(|(line, _, raw)| (line, 0, raw))).collect()
    }
    let shares = json().prop_flat_map(|content| {
        let range_bytes = range_bytes(&content);
        (Just(content), 1u32..5, range_bytes)
    });
    soak(shares, |(content, readers, range_bytes)| {
        let mut expected: Vec<Read<Text>> = lines(&content)
            .zip(1..)
            .filter(|(line, _)| !line.trim_ascii().is_empty())
            .map(|(line, number)| {
                serde_json::from_slice(line).map_err(|_| (number, 0, line.to_vec()))
            })
            .collect();
        expected.sort();
        let input = Input::new("in.jsonl", &content);
        let found = shared(&input.path, JsonLines::<Text>::new(), readers, range_bytes);
        prop_assert_eq!(found.map(without_columns).map_err(|error| text_of(&error)), Ok(expected));
        Ok(())
    })
}

/// Bytes that quoting, delimiters and line ends are made of.
fn delimited() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec![
        &b"a"[..],
        b"17",
        b",",
        b",",
        b"\"",
        b"\"\"",
        b"\n",
        b"\r\n",
        b"\r",
        b"\xff",
        b"\xc3\xa9",
    ]);
    vec(piece, 0..80).prop_map(|pieces| pieces.concat())
}

#[test]
fn soak_csv_survives_anything_and_names_the_line() -> Tried {
    soak((delimited(), any::<bool>(), any::<bool>()), |(content, has_header, one_per_line)| {
        let mut csv = Csv::<Vec<String>>::new();
        if !has_header {
            csv = csv.without_header();
        }
        if one_per_line {
            csv = csv.one_record_per_line();
        }
        let input = Input::new("in.csv", &content);
        let newlines = content.iter().filter(|byte| **byte == b'\n').count() as u64;
        let read = shared(&input.path, csv.clone(), 1, 1).map_err(|error| text_of(&error));
        let malformed: Vec<_> = read.unwrap().into_iter().filter_map(Result::err).collect();
        for (line, column, raw) in &malformed {
            prop_assert!((1..=newlines + 1).contains(line) && *column >= 1);
            let is_part = raw.is_empty() || content.windows(raw.len()).any(|part| part == raw);
            prop_assert!(is_part, "{raw:?}");
        }
        // Where the first of them ends the job, it says the same.
        if let Some((line, column, _)) = malformed.first() {
            let error = read_error(&FileSource::new(&input.path, csv));
            let place = format!("in.csv:{line}:{column}: ");
            prop_assert!(error.contains(&place), "{error} is not at {place}");
        }
        Ok(())
    })
}

#[test]
fn soak_csv_with_a_header_is_read_alike_however_many_share_it() -> Tried {
    let shares = delimited().prop_flat_map(|rest| {
        let content = [b"one,two\n", &*rest].concat();
        let range_bytes = range_bytes(&content);
        (Just(content), 2u32..5, range_bytes)
    });
    soak(shares, |(content, readers, range_bytes)| {
        let input = Input::new("in.csv", &content);
        let read = |readers, range_bytes| {
            let csv = Csv::<(String, String)>::new().one_record_per_line();
            shared(&input.path, csv, readers, range_bytes).map_err(|error| text_of(&error))
        };
        prop_assert_eq!(read(readers, range_bytes), read(1, 1 << 20));
        Ok(())
    })
}

/// What can happen to a file on its way.
#[derive(Clone, Debug)]
enum Damage {
    Cut,
    Bit(u8),
    Inserted(Vec<u8>),
    Appended(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::Cut),
        (0u8..8).prop_map(Damage::Bit),
        vec(any::<u8>(), 1..20).prop_map(Damage::Inserted),
        vec(any::<u8>(), 1..20).prop_map(Damage::Appended),
    ]
}

fn damaged(content: &[u8], damage: &Damage, at: prop::sample::Index) -> Vec<u8> {
    let mut content = content.to_vec();
    let at = at.index(content.len());
    match damage {
        Damage::Cut => content.truncate(at),
        Damage::Bit(bit) => content[at] ^= 1 << bit,
        Damage::Inserted(bytes) => drop(content.splice(at..at, bytes.iter().copied())),
        Damage::Appended(bytes) => content.extend(bytes),
    }
    content
}

/// Reads a damaged file: its lines, or the error, which names the file.
fn read_damaged(input: &Input) -> Result<Vec<String>, ReadError> {
    let mut read = read_all(&FileSource::new(&input.path, TextLines), 2)
        .map_err(|error| *error.downcast::<ReadError>().expect("an error of reading"))?;
    read.retain(|lines| !lines.is_empty());
    Ok(read.concat())
}

fn text_lines() -> impl Strategy<Value = String> {
    let line = ("[a-z]{0,20}", 1usize..50).prop_map(|(line, times)| line.repeat(times) + "\n");
    vec(line, 1..200).prop_map(|lines| lines.concat())
}

fn check_error(input: &Input, error: &ReadError) -> Property {
    let words = error.to_string();
    prop_assert!(words.contains(&input.path.display().to_string()), "{words}");
    prop_assert!(
        matches!(
            error,
            ReadError::Truncated { .. } | ReadError::Corrupt { .. } | ReadError::Malformed(_)
        ),
        "{words}"
    );
    Ok(())
}

#[test]
fn soak_damaged_gzip_is_an_error_or_harmless() -> Tried {
    soak((text_lines(), damage(), any::<prop::sample::Index>()), |(text, damage, at)| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let gzip = encoder.finish().unwrap();
        let input = Input::new("in.gz", &damaged(&gzip, &damage, at));
        match read_damaged(&input) {
            Err(error) => check_error(&input, &error)?,
            // A check-sum guards the text, so what is read is all of it; a flipped bit of the
            // header, say, changes nothing.
            Ok(read) => {
                prop_assert!(!matches!(damage, Damage::Cut), "a part passes for the whole");
                prop_assert_eq!(read, text.lines().collect::<Vec<_>>());
            }
        }
        Ok(())
    })
}

#[test]
fn soak_damaged_zstd_is_an_error_or_text() -> Tried {
    let checked = any::<bool>();
    soak(
        (text_lines(), damage(), any::<prop::sample::Index>(), checked),
        |(text, damage, at, checked)| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(checked).unwrap();
            encoder.write_all(text.as_bytes()).unwrap();
            let input = Input::new("in.zst", &damaged(&encoder.finish().unwrap(), &damage, at));
            match read_damaged(&input) {
                Err(error) => check_error(&input, &error)?,
                Ok(read) => {
                    prop_assert!(!matches!(damage, Damage::Cut), "a part passes for the whole");
                    // Without a check-sum a flipped bit can turn into another letter.
                    prop_assert!(
                        !checked || read.iter().eq(text.lines().collect::<Vec<_>>().iter())
                    );
                }
            }
            Ok(())
        },
    )
}
