//! Sources and sinks whose jobs are killed and restored: each record counts once.

use millstream::connector::{
    BoxError, PreCommit, Prepared, Sink, SinkContext, SinkWriter, Source, SourceContext,
    SourceReader, Timestamp,
};
use millstream::{Collected, Collection, Generated, Generator, Paced, ParallelIterator};
use millstream_connectors::testkit::{
    Appears, LOST_WAKE_UP, Output, SinkTest, Slot, exercise_sink, exercise_source,
};
use millstream_connectors::{
    Csv, CsvEncoder, Encoder, FileSink, FileSource, RollingFileSink, TextEncoder, TextLines,
};
use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const SEEDS: Range<u64> = 0..40;
const RECORDS: u64 = 600;

/// The text of a file, decompressed.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let mut text = String::new();
    let name = path.file_name().unwrap().to_str().unwrap();
    match () {
        () if name.contains(".gz") => {
            flate2::read::MultiGzDecoder::new(&*bytes).read_to_string(&mut text)
        }
        () if name.contains(".zst") => {
            zstd::stream::read::Decoder::new(&*bytes).unwrap().read_to_string(&mut text)
        }
        () => (&*bytes).read_to_string(&mut text),
    }
    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text
}

/// The numbers in all visible files whose names begin with `prefix`, each under one header.
fn numbers(directory: &Path, prefix: &str, header: Option<&str>) -> Vec<u64> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_str().unwrap().starts_with(prefix) {
            continue;
        }
        let text = text(&entry.path());
        let mut lines = text.lines();
        if let Some(header) = header
            && let Some(first) = lines.next()
        {
            assert_eq!(first, header, "a file begins with its header");
        }
        numbers.extend(lines.map(|line| line.trim_start_matches('0').parse().unwrap_or(0)));
    }
    numbers
}

/// Enough digits that blocks are filled now and then.
fn wide(number: u64) -> String {
    format!("{number:0900}")
}

fn exercise_files<T: 'static, E: Encoder<T>>(
    name: &str,
    encoder: E,
    record: impl Fn(u64) -> T,
    header: Option<&str>,
) {
    for seed in SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let test = SinkTest {
            make: || FileSink::new(folder.path().join(name), encoder.clone()),
            record: &record,
            visible: || numbers(folder.path(), name.split('.').next().unwrap(), header),
            appears: Appears::AtTheEnd,
        };
        exercise_sink::<T, _, _, _, _>(seed, RECORDS, &test);
        let hidden = fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.')
            .count();
        assert_eq!(hidden, 0, "seed {seed}: pieces are left");
    }
}

#[test]
fn a_file_has_each_record_once() {
    for name in ["out", "out.gz", "out.zst"] {
        exercise_files(name, TextEncoder, wide, None);
    }
}

#[derive(serde::Serialize)]
struct Row {
    number: u64,
}

#[test]
fn a_file_has_one_header() {
    exercise_files("out", CsvEncoder::new(), |number| Row { number }, Some("number"));
}

fn exercise_rolling<T: 'static, E: Encoder<T>>(
    suffix: &str,
    encoder: E,
    record: impl Fn(u64) -> T,
    header: Option<&str>,
) {
    for seed in SEEDS {
        let folder = tempfile::tempdir().unwrap();
        let test = SinkTest {
            make: || RollingFileSink::new(folder.path(), encoder.clone()).suffix(suffix),
            record: &record,
            visible: || numbers(folder.path(), "part-", header),
            appears: Appears::AtCheckpoints,
        };
        exercise_sink::<T, _, _, _, _>(seed, RECORDS, &test);
    }
}

#[test]
fn parts_have_each_record_once_when_their_checkpoint_is_complete() {
    exercise_rolling("", TextEncoder, wide, None);
    exercise_rolling(".csv", CsvEncoder::new(), |number| Row { number }, Some("number"));
    exercise_rolling(".gz", TextEncoder, wide, None);
}

fn exercise<S: Source<Out: Ord + Clone + std::fmt::Debug>>(
    make: impl Fn() -> S,
    expected: &[S::Out],
) {
    for seed in SEEDS {
        exercise_source(seed, &make, expected);
    }
}

#[test]
fn collections_generators_and_what_paces_them_are_resumed() {
    let numbers: Vec<u64> = (0..3_000).collect();
    exercise(|| Collection::new(0..3_000u64), &numbers);
    exercise(|| Generated::new(Generator::new(|n, _| n).count(3_000)), &numbers);
    exercise(|| Generated::new(Generator::new(|n, _| n).count(3_000).rate(1e6)), &numbers);
    exercise(|| Paced::new(Collection::new(0..300u64), Some(1e5)), &numbers[..300]);
    let blocks = |block: u64| 7 * block..(7 * block + 7).min(3_000);
    exercise(move || millstream::Blocks::new(3_000u64.div_ceil(7), blocks), &numbers);
}

/// A folder of files of lines of different lengths, and all lines.
fn lines(folder: &Path, ending: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (name, count) in [("a", 700), ("b", 0), ("c", 1_500), ("d", 3)] {
        let lines: Vec<_> =
            (0..count).map(|n| format!("{name}{n}{}", "x".repeat(n * 7 % 23))).collect();
        // The last line of a file has no end.
        let text = lines.join("\n");
        write_compressed(&folder.join(format!("{name}{ending}")), &text);
        all.extend(lines);
    }
    all
}

fn write_compressed(path: &Path, text: &str) {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let writer: Vec<u8> = match () {
        () if name.ends_with(".gz") => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        }
        () if name.ends_with(".zst") => zstd::encode_all(text.as_bytes(), 0).unwrap(),
        () => text.as_bytes().to_vec(),
    };
    fs::write(path, writer).unwrap();
}

#[test]
fn files_are_read_on_from_any_record() {
    for ending in ["", ".gz", ".zst"] {
        let folder = tempfile::tempdir().unwrap();
        let lines = lines(folder.path(), ending);
        exercise(|| FileSource::new(folder.path(), TextLines).range_bytes(500), &lines);
        exercise(|| FileSource::new(folder.path(), TextLines).in_order(), &lines);
        exercise(|| FileSource::new(folder.path(), TextLines).limit(1_234), &lines[..1_234]);
    }
}

#[test]
fn files_of_fields_are_read_on_with_their_header() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for (name, ending) in [("a", ""), ("b", ".gz"), ("c", "")] {
        // The columns are in another order in each file.
        let swapped = name == "b";
        let mut text =
            if swapped { "\u{feff}text,number\n" } else { "\u{feff}number,text\n" }.to_owned();
        for number in 0..500u64 {
            let content = format!("{name} {}", "\"\"\n".repeat((number % 3) as usize));
            text += &match swapped {
                true => format!("\"{content}\",{number}\n"),
                false => format!("{number},\"{content}\"\n"),
            };
            expected.push((number, content.replace("\"\"", "\"")));
        }
        write_compressed(&folder.path().join(format!("{name}{ending}")), &text);
    }
    #[derive(serde::Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Record {
        number: u64,
        text: String,
    }
    let expected: Vec<_> =
        expected.into_iter().map(|(number, text)| Record { number, text }).collect();
    exercise(|| FileSource::new(folder.path(), Csv::<Record>::new()), &expected);
}

#[test]
fn collected_records_are_there_once() {
    for seed in SEEDS {
        let collected = Collected::default();
        let seen = RefCell::new(Vec::new());
        let test = SinkTest {
            make: || collected.sink(),
            record: |number| number,
            visible: || {
                seen.borrow_mut().extend(collected.take());
                seen.borrow().clone()
            },
            appears: Appears::AtCheckpoints,
        };
        exercise_sink::<u64, _, _, _, _>(seed, RECORDS, &test);
    }
}

/// Opens a reader, polls it once, and returns where it is.
fn position<S: Source>(source: &S, records: u64) -> Arc<[Vec<u8>]> {
    let slot = Slot::default();
    let context = slot.source_context(0, 1, &Arc::default());
    let mut reader = source.clone().open(&context).unwrap();
    let mut out = Output::with_room(records);
    while out.values.is_empty() {
        reader.poll(&mut out).unwrap();
        if out.values.is_empty() {
            slot.sleep_until(Timestamp::from_millis(0), Timestamp::from_millis(10));
        }
    }
    reader.snapshot().unwrap().into()
}

/// Why a source cannot be restored with so many readers.
fn refusal<S: Source>(source: &S, restored: Arc<[Vec<u8>]>, parallelism: u32) -> String {
    let context = Slot::default().source_context(0, parallelism, &Arc::default());
    let context = SourceContext { restored: Some(restored), ..context };
    match source.clone().open(&context) {
        Ok(_) => panic!("it is restored"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn files_that_have_changed_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    fs::write(&path, "line\n".repeat(1_000)).unwrap();
    let source = FileSource::new(&path, TextLines);
    let restored = position(&source, 3);
    fs::write(&path, "line\n".repeat(999)).unwrap();
    let shorter = refusal(&source, restored.clone(), 2);
    assert!(shorter.contains("lines: the file had 5000 bytes when the job began"), "{shorter}");
    assert!(shorter.contains("has 4995 now"), "{shorter}");
    fs::remove_file(&path).unwrap();
    let missing = refusal(&source, restored, 2);
    assert!(missing.contains("cannot open it to go on where the checkpoint was"), "{missing}");
}

#[test]
fn iterators_are_not_restored_for_another_number_of_subtasks() {
    let source = ParallelIterator::new(|subtask, _| 10 * subtask..10 * subtask + 10);
    let restored = position(&source, 3);
    let error = refusal(&source, restored.clone(), 2);
    assert!(error.contains("resume with 1 slots, or use a source that can be divided"), "{error}");
    let fewer = ParallelIterator::new(|_, _| 0..2u32);
    let error = refusal(&fewer, restored, 1);
    assert!(error.contains("yields fewer than the 3 records"), "{error}");
    exercise_iterators();
}

fn exercise_iterators() {
    // One subtask, as the kit would change the number.
    let numbers: Vec<u32> = (0..1_000).collect();
    for seed in SEEDS {
        let source = Alone(ParallelIterator::new(|_, _| 0..1_000u32));
        exercise_source(seed, || source.clone(), &numbers);
    }
}

/// A source with one subtask.
#[derive(Clone)]
struct Alone<S>(S);

impl<S: Source> Source for Alone<S> {
    type Out = S::Out;
    type Reader = S::Reader;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn open(self, context: &SourceContext) -> Result<S::Reader, BoxError> {
        self.0.open(context)
    }
}

/// Why a sink cannot be opened.
fn sink_refusal<S: Sink<String>>(sink: S, restored: Option<Arc<[Vec<u8>]>>) -> String {
    let context = SinkContext { restored, ..Slot::default().sink_context(0, 1) };
    match sink.open(&context) {
        Ok(_) => panic!("it is opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn parts_of_another_job_are_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("part-0-0"), "old\n").unwrap();
    let error = sink_refusal(RollingFileSink::new(folder.path(), TextEncoder), None);
    assert!(error.contains("holds part-0-0") && error.contains("choose an empty"), "{error}");
    assert_eq!(fs::read_to_string(folder.path().join("part-0-0")).unwrap(), "old\n");
}

#[test]
fn a_file_whose_piece_is_gone_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("out"), TextEncoder);
    let slot = Slot::default();
    let mut writer = Sink::<String>::open(sink.clone(), &slot.sink_context(0, 1)).unwrap();
    writer.write("line".to_owned(), Timestamp::MIN).unwrap();
    let (said, hear) = std::sync::mpsc::channel();
    let prepared = Prepared::new(move |result| said.send(result).unwrap());
    let PreCommit { state, transaction } =
        SinkWriter::<String>::pre_commit(&mut writer, prepared).unwrap();
    assert_eq!(transaction, None, "there is nothing to commit before the end");
    hear.recv_timeout(LOST_WAKE_UP).unwrap().unwrap();
    drop(writer);
    let piece = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(&piece).unwrap(), "line\n", "it is durable");
    fs::write(&piece, "lin").unwrap();
    let damaged = sink_refusal(sink.clone(), Some(state.clone().into()));
    assert!(damaged.contains("it has 3 bytes, and 5 were written"), "{damaged}");
    fs::remove_file(&piece).unwrap();
    let missing = sink_refusal(sink, Some(state.into()));
    assert!(missing.contains(".out.inprogress-0-") && missing.contains("resume with"), "{missing}");
}
