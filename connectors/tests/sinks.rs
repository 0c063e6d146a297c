//! Files appear whole or not at all.

mod driver;

use driver::{Slot, read, write_all};
use millstream::connector::BoxError;
use millstream::connector::Timestamp;
use millstream::connector::{Sink, SinkWriter};
use millstream_connectors::{
    CsvEncoder, Encoder, FileSink, FileSource, JsonEncoder, TextEncoder, TextLines,
};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The names in a directory, hidden ones too; of pieces, without what makes them unique.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| match name.split_once(".inprogress-") {
            Some((name, unique)) => format!("{name}.inprogress-{}", &unique[..1]),
            None => name,
        })
        .collect();
    names.sort();
    names
}

fn commit<E: Encoder<String>>(
    sink: &FileSink<E>,
    transactions: &[Vec<u8>],
) -> Result<(), BoxError> {
    Sink::<String>::commit(sink, transactions)
}

fn abort<E: Encoder<String>>(sink: &FileSink<E>, parallelism: u32) {
    Sink::<String>::abort(sink, parallelism);
}

fn lines(count: usize) -> Vec<String> {
    (0..count).map(|line| format!("line {line}")).collect()
}

#[test]
fn a_file_changes_in_one_step_at_the_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "old").unwrap();
    let sink = FileSink::new(&path, TextEncoder);
    let transactions = write_all(&sink, vec![lines(100_000)]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(names(folder.path()), [".out.inprogress-0", "out"]);
    commit(&sink, &transactions).unwrap();
    assert_eq!(names(folder.path()), ["out"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), lines(100_000).join("\n") + "\n");
}

#[test]
fn an_abort_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("out"), TextEncoder);
    write_all(&sink, vec![lines(3), lines(100_000)]).unwrap();
    abort(&sink, 2);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_writer_that_is_lost_leaves_nothing_under_the_final_name() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("out"), TextEncoder);
    let mut writer =
        Sink::<String>::open(sink.clone(), &Slot::default().sink_context(0, 1)).unwrap();
    for line in lines(100_000) {
        writer.write(line, Timestamp::MIN).unwrap();
    }
    drop(writer);
    assert_eq!(names(folder.path()), [".out.inprogress-0"]);
    // What a killed job left does not disturb the next.
    let transactions = write_all(&sink, vec![lines(1)]).unwrap();
    commit(&sink, &transactions).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("out")).unwrap(), "line 0\n");
}

#[test]
fn several_subtasks_write_a_file_each() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("out.txt"), TextEncoder);
    let transactions = write_all(&sink, vec![lines(1), vec![], lines(2)]).unwrap();
    commit(&sink, &transactions).unwrap();
    assert_eq!(names(folder.path()), ["out.txt.0", "out.txt.1", "out.txt.2"]);
    assert_eq!(fs::read_to_string(folder.path().join("out.txt.2")).unwrap(), "line 0\nline 1\n");
    assert_eq!(fs::read_to_string(folder.path().join("out.txt.1")).unwrap(), "");
}

#[test]
fn a_link_is_followed_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("real"), "old").unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(other.path().join("real"), &link).unwrap();
    let sink = FileSink::new(&link, TextEncoder);
    let transactions = write_all(&sink, vec![lines(1)]).unwrap();
    commit(&sink, &transactions).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(other.path().join("real")).unwrap(), "line 0\n");
}

#[test]
fn extensions_compress() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["out.gz", "out.zst"] {
        let path = folder.path().join(name);
        let sink = FileSink::new(&path, TextEncoder);
        let transactions = write_all(&sink, vec![lines(100_000)]).unwrap();
        commit(&sink, &transactions).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 500_000, "{name}");
        assert_eq!(read(&FileSource::new(&path, TextLines)).unwrap(), lines(100_000), "{name}");
    }
}

#[derive(Clone, Serialize)]
struct Row {
    name: String,
    value: Option<u32>,
}

#[test]
fn encoders_write_json_lines_and_csv() {
    fn encoded<E: Encoder<Row>>(mut encoder: E) -> String {
        let mut out = Vec::new();
        for (name, value) in [("a, \"b\"", Some(1)), ("c\n", None)] {
            encoder.encode(&Row { name: name.to_owned(), value }, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }
    assert_eq!(
        encoded(JsonEncoder),
        "{\"name\":\"a, \\\"b\\\"\",\"value\":1}\n{\"name\":\"c\\n\",\"value\":null}\n"
    );
    assert_eq!(encoded(CsvEncoder::new()), "name,value\n\"a, \"\"b\"\"\",1\n\"c\n\",\n");
    assert_eq!(
        encoded(CsvEncoder::new().delimiter(b';').without_header()),
        "\"a, \"\"b\"\"\";1\n\"c\n\";\n"
    );
}

#[test]
fn what_cannot_be_encoded_fails_with_the_name_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink::new(folder.path().join("out.csv"), CsvEncoder::new());
    let nested = vec![((1, vec![2]), Row { name: "a".to_owned(), value: None })];
    let error = write_all(&sink, vec![nested]).unwrap_err().to_string();
    assert!(error.contains("out.csv: a record cannot be encoded"), "{error}");
}

#[test]
fn targets_that_cannot_be_written_are_told_before_the_job_starts() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| {
        Sink::<String>::validate(&FileSink::new(path, TextEncoder)).unwrap_err().to_string()
    };
    let missing = error(&folder.path().join("missing/out"));
    assert!(missing.contains("does not exist; create it first (mkdir -p "), "{missing}");
    assert!(error(folder.path()).contains("is a directory, not a regular file"));
    assert!(error(Path::new("/dev/null")).contains("is a device or pipe, not a regular file"));
    fs::write(folder.path().join("file"), "").unwrap();
    let below = error(&folder.path().join("file/out"));
    assert!(below.contains("Not a directory"), "{below}");
    Sink::<String>::validate(&FileSink::new("out", TextEncoder)).unwrap();
}

/// A file system with room for very little.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// The reason if it cannot be mounted.
    fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_full_disk_fails_the_job_in_words_and_leaves_nothing() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: a small disk cannot be mounted: {reason}"),
    };
    let directory = disk.0.path();
    for name in ["out", "out.gz"] {
        let sink = FileSink::new(directory.join(name), TextEncoder);
        // Incompressible enough.
        let text = (0..200_000u64)
            .map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            .collect();
        let error = write_all(&sink, vec![text]).unwrap_err().to_string();
        let expected =
            format!("{}: cannot write it: No space left", directory.join(name).display());
        assert!(error.starts_with(&expected), "{error}");
        assert!(error.ends_with("free some space or choose another disk"), "{error}");
        abort(&sink, 1);
        assert_eq!(names(directory), [""; 0]);
    }
}
