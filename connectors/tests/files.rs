//! Reading files, against what the standard library and the formats' definitions say.

mod driver;

use driver::{read, read_all, read_counting, read_error};
use flate2::Compression;
use flate2::write::GzEncoder;
use millstream_connectors::{Csv, FileSource, JsonLines, Malformed, OnMalformed, TextLines};
use proptest::prelude::*;
use serde::Deserialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn numbered(lines: usize) -> String {
    (0..lines).map(|line| format!("line {line} {}\n", "x".repeat(line % 97))).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_read_in_order() {
    let folder = Folder::new();
    let text = numbered(50_000);
    let path = folder.file("text", &text);
    assert_eq!(read(&FileSource::new(path, TextLines)).unwrap(), lines(&text));
}

#[test]
fn line_ends_of_other_systems_and_a_missing_last_one_are_no_part_of_records() {
    let folder = Folder::new();
    let path = folder.file("text", "\u{feff}one\r\n\r\n\ntwo\rthree\nlast");
    assert_eq!(
        read(&FileSource::new(path, TextLines)).unwrap(),
        ["one", "", "", "two\rthree", "last"]
    );
}

#[test]
fn an_empty_file_has_no_records() {
    let folder = Folder::new();
    let path = folder.file("text", "");
    assert_eq!(
        read_all(&FileSource::new(path, TextLines), 3).unwrap(),
        vec![vec![]; 3] as Vec<Vec<String>>
    );
}

#[test]
fn a_line_longer_than_a_block_is_one_record() {
    let folder = Folder::new();
    let long = "y".repeat(3 << 20);
    let path = folder.file("text", format!("a\n{long}\nb\n"));
    assert_eq!(read(&FileSource::new(path, TextLines)).unwrap(), ["a", &long, "b"]);
}

#[test]
fn compressed_files_are_known_by_extension_or_content_and_may_have_several_parts() {
    let folder = Folder::new();
    let (first, second) = (numbered(40_000), numbered(11));
    let gz = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    let zst = [&first, &second].map(|part| zstd::encode_all(part.as_bytes(), 1).unwrap()).concat();
    for (name, content) in [("a.gz", &gz), ("b.zst", &zst), ("gzip", &gz), ("zstd", &zst)] {
        let path = folder.file(name, content);
        let read = read_all(&FileSource::new(path, TextLines), 2).unwrap();
        assert_eq!(read[0].len() + read[1].len(), 40_011, "{name}");
        assert_eq!(read[0], lines(&(first.clone() + &second)), "{name}");
    }
}

#[test]
fn compressed_files_that_are_damaged_are_named() {
    let folder = Folder::new();
    let text = numbered(40_000);
    let gz = gzip(text.as_bytes());
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    let error = |name: &str, content: &[u8]| {
        read_error(&FileSource::new(folder.file(name, content), TextLines))
    };
    for (name, content, part) in [
        ("cut.gz", &gz[..gz.len() / 2], "the gzip data end early"),
        ("cut.zst", &zst[..zst.len() / 2], "the zstd data end early"),
        ("text.gz", b"no gzip at all".as_slice(), "no valid gzip data"),
        ("text.zst", b"no zstd at all".as_slice(), "no valid zstd data"),
        ("empty.gz", b"".as_slice(), "the gzip data end early"),
    ] {
        let error = error(name, content);
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
    let mut flipped = gz.clone();
    let crc = flipped.len() - 6;
    flipped[crc] ^= 1;
    assert!(error("bits.gz", &flipped).contains("no valid gzip data"));
}

#[test]
fn a_directory_stands_for_its_visible_files_in_order() {
    let folder = Folder::new();
    for (name, content) in [
        ("in/b", "b1\nb2"),
        ("in/a", "a\n"),
        ("in/c.gz", ""),
        ("in/.hidden", "h\n"),
        ("in/sub/d", "d\n"),
    ] {
        folder.file(name, content);
    }
    folder.file("in/c.gz", gzip(b"c\n"));
    let source = FileSource::new(folder.path("in"), TextLines);
    assert_eq!(read(&source).unwrap(), ["a", "b1", "b2", "c"]);
    let named = read(&source.with_file_name()).unwrap();
    assert_eq!(Path::new(&*named[2].0), folder.path("in/b"));
    assert_eq!(named[2].1, "b2");
}

#[test]
fn a_pattern_stands_for_the_files_that_match() {
    let folder = Folder::new();
    for name in ["in/b.txt", "in/a.txt", "in/c.csv", "in/.d.txt", "in/deep/er/e.txt"] {
        folder.file(name, name);
    }
    let read = |pattern: &str| read(&FileSource::new(folder.path(pattern), TextLines)).unwrap();
    assert_eq!(read("in/*.txt"), ["in/a.txt", "in/b.txt"]);
    assert_eq!(read("in/[ac].*"), ["in/a.txt", "in/c.csv"]);
    assert_eq!(read("in/**/*.txt"), ["in/a.txt", "in/b.txt", "in/deep/er/e.txt"]);
}

#[test]
fn what_is_not_there_is_told_before_the_job_starts() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("empty/sub")).unwrap();
    let error = |path: &str| {
        use millstream::connector::Source;
        let source = FileSource::new(folder.path(path), TextLines);
        source.validate().unwrap_err().to_string()
    };
    assert!(error("missing").contains("no such file or directory; check the path"));
    assert!(error("*.txt").contains("no file matches this pattern"));
    assert!(error("[").contains("not a valid pattern"));
    assert!(error("empty").contains("holds no files to read"));
}

#[test]
fn a_limit_takes_the_first_records_in_order() {
    let folder = Folder::new();
    folder.file("in/a", numbered(5));
    folder.file("in/b", numbered(5_000));
    let source = FileSource::new(folder.path("in"), TextLines).limit(1_300);
    let expected = lines(&(numbered(5) + &numbered(1_295)));
    assert_eq!(read(&source).unwrap(), expected);
    use millstream::connector::Source;
    assert_eq!(source.parallelism(), Some(1));
}

#[derive(Debug, Deserialize, PartialEq)]
struct Reading {
    at: String,
    value: f64,
}

fn reading(at: &str, value: f64) -> Reading {
    Reading { at: at.to_owned(), value }
}

#[test]
fn json_lines_become_values() {
    let folder = Folder::new();
    let path =
        folder.file("in", "{\"at\":\"x\\n\",\"value\":1.5}\r\n\n  \n{\"value\":-2,\"at\":\"y\"}");
    assert_eq!(
        read(&FileSource::new(path, JsonLines::<Reading>::new())).unwrap(),
        [reading("x\n", 1.5), reading("y", -2.0)]
    );
}

#[test]
fn a_malformed_record_fails_the_job_with_file_line_and_column() {
    let folder = Folder::new();
    let good = "{\"at\":\"x\",\"value\":1}\n";
    let json = |bad: &str| {
        let path = folder.file("in.jsonl", good.repeat(20_000) + bad + "\n" + good);
        read_error(&FileSource::new(path, JsonLines::<Reading>::new()))
    };
    let error = json("{\"at\":\"é\",?}");
    assert!(error.contains("in.jsonl:20001:11: "), "{error}");
    let error = json("{\"at\":7,\"value\":1}");
    assert!(error.contains("in.jsonl:20001:7: invalid type: integer `7`"), "{error}");
    assert!(json("{\"at\":\"x\"}").ends_with("missing field `value`"));

    let path = folder.file("in.txt", b"one\ntw\xff\n");
    let error = read_error(&FileSource::new(path, TextLines));
    assert!(error.contains("in.txt:2:3: not UTF-8 (byte 0xff)"), "{error}");
}

#[test]
fn malformed_records_can_be_skipped_and_counted() {
    let folder = Folder::new();
    let path = folder.file("in", "1\n\nx\n2\n{\n3");
    let source = FileSource::new(path, JsonLines::<u8>::new()).on_malformed(OnMalformed::Skip);
    assert_eq!(read_counting(&source, 1).unwrap(), (vec![vec![1, 2, 3]], 2));
}

/// Lines of which every seventh is malformed, with their true positions.
fn with_malformed(count: u64) -> (String, Vec<Malformed>) {
    let (mut text, mut malformed) = (String::new(), Vec::new());
    for line in 1..=count {
        if line % 7 == 3 {
            let raw = format!("{}!{line}", " ".repeat(line as usize % 5));
            malformed.push(Malformed {
                file: String::new(),
                line,
                column: line % 5 + 1,
                message: "expected value".to_owned(),
                raw: raw.clone().into_bytes(),
            });
            text += &(raw + "\n");
        } else {
            text += &format!("{line}\n");
        }
    }
    (text, malformed)
}

#[test]
fn malformed_records_keep_their_lines_when_readers_share_a_file() {
    let folder = Folder::new();
    let (text, expected) = with_malformed(3_000);
    let path = folder.file("in", text);
    let source =
        FileSource::new(&path, JsonLines::<u64>::new()).range_bytes(1_000).with_malformed();
    for parallelism in [1, 3] {
        let mut malformed: Vec<_> = read_all(&source, parallelism)
            .unwrap()
            .into_iter()
            .flatten()
            .filter_map(Result::err)
            .map(|malformed| {
                assert_eq!(Path::new(&malformed.file), path);
                Malformed { file: String::new(), ..malformed }
            })
            .collect();
        malformed.sort_by_key(|malformed| malformed.line);
        assert_eq!(malformed, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn readers_that_share_a_file_read_each_line_once_and_in_order(
        parts in prop::collection::vec(("[a-c]{0,9}", prop::sample::select(vec!["\n", "\r\n", "\n\n"])), 0..60),
        last in "[a-c]{0,3}",
        parallelism in 1u32..6,
        range_bytes in 1u64..80,
    ) {
        let mut text: String = parts.iter().map(|(line, end)| format!("{line}{end}")).collect();
        text += &last;
        let folder = Folder::new();
        let path = folder.file("text", &text);
        let source = FileSource::new(path, TextLines).range_bytes(range_bytes);
        let mut found: Vec<String> =
            read_all(&source, parallelism).unwrap().into_iter().flatten().collect();
        let mut expected = lines(&text);
        if parallelism > 1 {
            found.sort();
            expected.sort();
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn csv_finds_columns_by_the_header() {
    let folder = Folder::new();
    let path = folder.file(
        "in.csv",
        "value,other,at\r\n1.5,,\"a \"\"b\"\", c\"\r\n\r\n-2,x,\"two\r\nlines\"\n3,\"x\",z",
    );
    assert_eq!(
        read(&FileSource::new(path, Csv::<Reading>::new())).unwrap(),
        [reading("a \"b\", c", 1.5), reading("two\r\nlines", -2.0), reading("z", 3.0)]
    );
}

#[test]
fn csv_without_a_header_takes_columns_in_their_order_or_as_picked() {
    let folder = Folder::new();
    let path = folder.file("in.tsv", "a\t1\t2\nb\t3\t4\n");
    let csv = Csv::<(String, u8, u8)>::new().without_header().delimiter(b'\t');
    assert_eq!(
        read(&FileSource::new(&path, csv)).unwrap(),
        [("a".to_owned(), 1, 2), ("b".to_owned(), 3, 4)]
    );
    let csv = Csv::<Reading>::new().without_header().delimiter(b'\t').columns([0, 2]);
    assert_eq!(read(&FileSource::new(&path, csv)).unwrap(), [reading("a", 2.0), reading("b", 4.0)]);
}

#[test]
fn malformed_csv_says_which_column() {
    let folder = Folder::new();
    let error = |content: &str| {
        let path = folder.file("in.csv", content);
        read_error(&FileSource::new(path, Csv::<Reading>::new()))
    };
    for (content, expected) in [
        ("at,value\na,1\n\"b\nc\",x\n", "in.csv:4:4: column value: invalid float literal"),
        ("at,value\na,1\nb,2,3\n", "in.csv:3:1: 3 fields, but the header has 2"),
        ("at,value\na,1\nb,\"2\n3,4\n", "in.csv:3:3: a quoted field is never closed"),
        ("at,number\na,1\n", "in.csv:2:1: missing field `value`"),
    ] {
        let error = error(content);
        assert!(error.ends_with(expected), "{error}");
    }
    let path = folder.file("in.csv", "a,1\n");
    let picked = Csv::<Reading>::new().without_header().columns([0, 5]);
    let error = read_error(&FileSource::new(path, picked));
    assert!(error.ends_with("there is no column 5: the record has 2 fields"), "{error}");
}

#[test]
fn readers_that_share_a_csv_file_all_know_its_header() {
    let folder = Folder::new();
    let mut text = "\u{feff}value,at\n".to_owned();
    for line in 2..2_000 {
        text += &match line % 100 {
            0 => format!("1,\"open{line}\n"),
            _ => format!("{line},\"a{line}\"\n"),
        };
    }
    let path = folder.file("in.csv", &text);
    let csv = Csv::<Reading>::new().one_record_per_line();
    let source = FileSource::new(path, csv).range_bytes(777).with_malformed();
    let (mut values, mut malformed) = (Vec::new(), Vec::new());
    for record in read_all(&source, 3).unwrap().into_iter().flatten() {
        match record {
            Ok(reading) => values.push(reading.value as usize),
            Err(record) => malformed.push((record.line, record.column)),
        }
    }
    values.sort();
    malformed.sort();
    assert_eq!(values, (2..2_000).filter(|line| line % 100 != 0).collect::<Vec<_>>());
    assert_eq!(malformed, (1..20).map(|n| (n * 100, 3)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn ragged_csv_is_judged_by_the_first_record_whoever_reads_it(
        widths in prop::collection::vec(0usize..4, 1..80),
        readers in 2u32..5,
        range_bytes in 1u64..100,
    ) {
        let folder = Folder::new();
        // A width of 0 is a blank line.
        let text: String = widths.iter().map(|width| vec!["1"; *width].join(",") + "\n").collect();
        let path = folder.file("in.csv", &text);
        let csv = Csv::<Vec<u8>>::new().without_header().one_record_per_line();
        let source = FileSource::new(path, csv).range_bytes(range_bytes).with_malformed();
        let first = widths.iter().copied().find(|width| *width > 0);
        let sorted = |mut found: Vec<Result<Vec<u8>, u64>>| {
            found.sort();
            found
        };
        let expected = widths.iter().enumerate().filter(|(_, width)| **width > 0).map(|(at, &width)| {
            if Some(width) == first { Ok(vec![1; width]) } else { Err(at as u64 + 1) }
        });
        let found = read_all(&source, readers).unwrap().into_iter().flatten();
        let found = found.map(|record| record.map_err(|malformed| malformed.line));
        prop_assert_eq!(sorted(found.collect()), sorted(expected.collect()));
    }
}

#[test]
fn a_first_record_far_into_the_file_or_without_a_line_end_is_the_first_all_the_same() {
    let folder = Folder::new();
    let csv = || Csv::<(u8, u8)>::new().without_header().one_record_per_line();
    let late =
        folder.file("late.csv", "\n".repeat(9_000) + "1,2\n3\n" + &"\n".repeat(9_000) + "4\n");
    let source = FileSource::new(late, csv()).range_bytes(1_000).with_malformed();
    let (good, bad): (Vec<_>, Vec<_>) =
        read_all(&source, 4).unwrap().into_iter().flatten().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (1, 2), "{good:?} {bad:?}");
    let open = folder.file("open.csv", "1,2");
    let found = read_all(&FileSource::new(open, csv()).range_bytes(1), 3).unwrap().concat();
    assert_eq!(found, [(1, 2)]);
}

#[test]
fn files_that_cannot_be_opened_are_told_before_the_job_starts() {
    use millstream::connector::Source;
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = Folder::new();
    let error = |path: &Path| FileSource::new(path, TextLines).validate().unwrap_err().to_string();
    let circle = folder.path("circle");
    symlink(&circle, &circle).unwrap();
    assert!(error(&circle).contains("circle: cannot open it: Too many levels"));
    let secret = folder.file("secret", "text");
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    if fs::File::open(&secret).is_ok() {
        return println!("skipped: this user may read every file");
    }
    let error = error(&secret);
    assert!(error.contains("cannot open it: Permission denied"), "{error}");
    assert!(error.ends_with("give the user who runs the job access to it"), "{error}");
}

#[test]
fn real_events_are_read_whatever_the_number_of_readers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden/events-100k.jsonl.gz");
    if !Path::new(path).exists() {
        return println!("skipped: {path} is not there");
    }
    let folder = Folder::new();
    let plain = folder.path("events.jsonl");
    let mut unzip = flate2::read::MultiGzDecoder::new(fs::File::open(path).unwrap());
    std::io::copy(&mut unzip, &mut fs::File::create(&plain).unwrap()).unwrap();
    let json = JsonLines::<serde_json::Map<String, serde_json::Value>>::new;
    let kinds = |path: &Path, readers| {
        let mut kinds = std::collections::BTreeMap::<String, u32>::new();
        let records = read_all(&FileSource::new(path, json()), readers).unwrap();
        for record in records.into_iter().flatten() {
            *kinds.entry(record.keys().next().unwrap().clone()).or_default() += 1;
        }
        kinds.into_iter().collect::<Vec<_>>()
    };
    let expected = [("Auction", 6_000), ("Bid", 92_000), ("Person", 2_000)]
        .map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(kinds(Path::new(path), 1), expected);
    assert_eq!(kinds(&plain, 1), expected);
    assert_eq!(kinds(&plain, 3), expected);
}

#[test]
fn a_file_without_line_ends_is_refused_before_it_fills_the_memory() {
    let folder = Folder::new();
    let path = folder.path("zeros");
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let error = read_error(&FileSource::new(path, TextLines));
    assert!(error.contains("zeros: a record is longer than 67108864 bytes; is this"), "{error}");
}
