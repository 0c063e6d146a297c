//! Sources and sinks in whole jobs.

use millstream::connector::Collector;
use millstream::{Config, Environment, JobError, JobStatus};
use millstream_connectors::{
    FileSink, FileSource, JsonLines, OnMalformed, SocketSource, StdoutSink, TextEncoder, TextLines,
};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

fn environment(slots: u32) -> Environment {
    Environment::new(Config::default().with_slots(slots))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn words_are_counted_from_file_to_file_at_any_number_of_slots() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("text");
    fs::write(&input, "to be or not to be\n".repeat(100_000)).unwrap();
    for slots in [1, 3] {
        let output = tempfile::tempdir().unwrap();
        let env = environment(slots);
        env.from_source("text", FileSource::new(&input, TextLines).range_bytes(10_000))
            .flat_map(|line: String, out: &mut dyn Collector<String>| {
                line.split(' ').for_each(|word| out.collect(word.to_owned()))
            })
            .key_by(|word| word.clone())
            .count()
            .map(|(word, count)| format!("{word} {count}"))
            .sink_to("counts", FileSink::new(output.path().join("counts"), TextEncoder));
        env.execute("word count").unwrap();
        // Counts are emitted as they grow; the last of each word are those of the whole text.
        let expected = ["be 200000", "not 100000", "or 100000", "to 200000"];
        let mut found: Vec<String> = names(output.path())
            .iter()
            .flat_map(|name| lines(&output.path().join(name)))
            .filter(|line| expected.contains(&&**line))
            .collect();
        found.sort();
        assert_eq!(found, expected, "{slots} slots");
    }
}

#[test]
fn a_job_that_fails_leaves_no_output_and_names_the_bad_record() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.jsonl");
    let output = tempfile::tempdir().unwrap();
    fs::write(&input, "1\n".repeat(300_000) + "x\n" + &"1\n".repeat(300_000)).unwrap();
    let run = |policy| {
        let env = environment(2);
        env.from_source(
            "numbers",
            FileSource::new(&input, JsonLines::<u64>::new()).on_malformed(policy),
        )
        .sink_to("out", FileSink::new(output.path().join("out"), TextEncoder));
        env.execute("numbers")
    };
    let error = run(OnMalformed::Fail).unwrap_err();
    assert!(matches!(error, JobError::Failed { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("numbers") && text.contains("in.jsonl:300001:1: "), "{text}");
    assert_eq!(names(output.path()), [""; 0]);
    let result = run(OnMalformed::Skip).unwrap();
    assert_eq!(result.metrics.counters.malformed(), 1);
    assert_eq!(names(output.path()), ["out.0", "out.1"]);
}

#[test]
fn what_is_missing_is_told_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let env = environment(1);
    env.from_source("text", FileSource::new(folder.path().join("missing"), TextLines))
        .sink_to("out", StdoutSink::text());
    let error = env.execute("nothing").unwrap_err();
    assert!(matches!(error, JobError::Validation { .. }), "{error}");
    assert!(error.to_string().contains("no such file or directory"), "{error}");
}

#[test]
fn a_job_that_waits_for_a_socket_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let server = TcpListener::bind("localhost:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let env = environment(1);
    env.from_source("socket", SocketSource::connect(address, TextLines))
        .sink_to("out", FileSink::new(folder.path().join("out"), TextEncoder));
    let job = env.start("waiting").unwrap();
    let _connection = server.accept().unwrap();
    job.canceller().cancel();
    assert_eq!(job.wait().unwrap().status, JobStatus::Canceled);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn records_can_be_keyed_by_the_file_that_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    for (name, count) in [("a", 3), ("b", 5_000)] {
        fs::write(folder.path().join(name), "line\n".repeat(count)).unwrap();
    }
    let env = environment(2);
    let counts = env
        .from_source("lines", FileSource::new(folder.path(), TextLines).with_file_name())
        .key_by(|(file, _): &(Arc<str>, String)| file.clone())
        .count()
        .collect();
    env.execute("lines per file").unwrap();
    let mut last = BTreeMap::new();
    for (file, count) in counts.take() {
        let name = Path::new(&*file).file_name().unwrap().to_owned();
        let most = last.entry(name).or_insert(0);
        *most = count.max(*most);
    }
    assert_eq!(last, BTreeMap::from([("a".into(), 3), ("b".into(), 5_000)]));
}
