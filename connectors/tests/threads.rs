//! Threads and descriptors of sources and sinks end with their job, whatever they wait for.

#[path = "../../api/tests/child/mod.rs"]
mod child;

use child::{alone, descriptors, threads, until};
use millstream::{Chain, Config, DataStream, Environment, JobError, JobStatus};
use millstream_connectors::{FileSink, FileSource, SocketSource, TextEncoder, TextLines};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// What a job waits for while it is cancelled.
#[derive(Clone, Copy, Debug)]
enum WaitsFor {
    Writer,
    Data,
    Connection,
}

fn environment() -> Environment {
    Environment::new(Config::default().with_slots(2))
}

fn write(lines: DataStream<impl Chain<Out = String>>, folder: &Path) {
    lines.sink_to("out", FileSink::new(folder.join("out"), TextEncoder));
}

/// Copies a file; `bad` is a line that user code refuses.
fn copy(folder: &Path, bad: &'static str) -> Result<JobStatus, JobError> {
    let env = environment();
    let lines = env.from_source("in", FileSource::new(folder.join("in"), TextLines));
    let refused = move |line: String| if line == bad { Err("refused") } else { Ok(line) };
    write(lines.rebalance().try_map(refused), folder);
    Ok(env.execute("copy")?.status)
}

fn cancel(folder: &Path, waits_for: WaitsFor) -> JobStatus {
    let env = environment();
    let server = TcpListener::bind("localhost:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    match waits_for {
        WaitsFor::Writer => {
            write(env.from_source("in", FileSource::new(folder.join("pipe"), TextLines)), folder);
        }
        WaitsFor::Data => {
            write(env.from_source("in", SocketSource::connect(address, TextLines)), folder);
        }
        WaitsFor::Connection => {
            write(env.from_source("in", SocketSource::listen("localhost:0", TextLines)), folder);
        }
    }
    let job = env.start("waiting").unwrap();
    let _connection = matches!(waits_for, WaitsFor::Data).then(|| server.accept().unwrap());
    until("it reads", || threads().iter().any(|(name, _)| name.starts_with("millstream-read")));
    job.canceller().cancel();
    job.wait().unwrap().status
}

#[test]
fn no_thread_and_no_descriptor_is_left_of_a_job() {
    alone("no_thread_and_no_descriptor_is_left_of_a_job", || {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::write(at.join("in"), "line\n".repeat(200_000) + "last\n").unwrap();
        let made = Command::new("mkfifo").arg(at.join("pipe")).status().unwrap();
        assert!(made.success(), "mkfifo is there");

        let before = threads().len();
        // What is set up once per process is no leak.
        copy(at, "").unwrap();
        until("the first job's threads have ended", || threads().len() == before);
        let before = (before, descriptors());
        let left_as_before = |how: &str| {
            // A thread that was waited for stays listed until the kernel has put it away.
            until(&format!("nothing is left of a job that {how}"), || {
                (threads().len(), descriptors()) == before
            });
        };
        assert_eq!(copy(at, "").unwrap(), JobStatus::Finished);
        left_as_before("finished");
        copy(at, "last").unwrap_err();
        left_as_before("failed at its end");
        copy(at, "line").unwrap_err();
        left_as_before("failed at its beginning");
        for waits_for in [WaitsFor::Writer, WaitsFor::Data, WaitsFor::Connection] {
            assert_eq!(cancel(at, waits_for), JobStatus::Canceled, "{waits_for:?}");
            left_as_before(&format!("waited for {waits_for:?}"));
        }
        // A file that is no text: the reader reports it, the sink has begun to write.
        fs::write(at.join("in"), "line\n".repeat(200_000).into_bytes()).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(at.join("in"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"\xff\n"))
            .unwrap();
        copy(at, "").unwrap_err();
        left_as_before("read what is no text");
    });
}
