//! Sockets and pipes, which come when they come.

mod driver;

use driver::{Reading, open_one};
use millstream::connector::BoxError;
use millstream::connector::Source;
use millstream_connectors::{FileSource, RecordReader, Records, SocketSource, TextLines};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

type Lines = Reading<RecordReader<TextLines, Records>>;

fn open(source: impl Source<Reader = RecordReader<TextLines, Records>>) -> Lines {
    source.validate().unwrap();
    open_one(source, 0, 1, &Arc::default()).unwrap()
}

fn text(error: BoxError) -> String {
    error.to_string()
}

fn server() -> (TcpListener, SocketSource<TextLines>) {
    let listener = TcpListener::bind("localhost:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    (listener, SocketSource::connect(address, TextLines))
}

#[test]
fn a_connection_is_read_as_lines_come_until_the_server_closes_it() {
    let (listener, source) = server();
    assert_eq!(source.parallelism(), Some(1));
    let mut reading = open(source);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"one\r\ntwo\nthr").unwrap();
    reading.until(2).unwrap();
    assert_eq!(reading.out.values, ["one", "two"]);
    server.write_all(b"ee").unwrap();
    drop(server);
    assert_eq!(reading.finish().unwrap(), ["one", "two", "three"]);
}

#[test]
fn a_refused_connection_says_what_to_do() {
    let (listener, source) = server();
    drop(listener);
    let error = text(open(source).finish().unwrap_err());
    assert!(error.contains(": cannot connect: Connection refused"), "{error}");
    assert!(error.ends_with("start the server first, or check host and port"), "{error}");
}

#[test]
fn a_connection_that_breaks_off_fails_the_job() {
    let (listener, source) = server();
    let mut reading = open(source);
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"one\n").unwrap();
    reading.until(1).unwrap();
    // Closes with a reset instead of an end.
    rustix::net::sockopt::set_socket_linger(&server, Some(std::time::Duration::ZERO)).unwrap();
    drop(server);
    let error = text(reading.finish().unwrap_err());
    assert!(error.contains("cannot read from the connection: Connection reset"), "{error}");
}

#[test]
fn a_reader_of_a_silent_connection_can_be_dropped() {
    let (listener, source) = server();
    let reading = open(source);
    let (mut server, _) = listener.accept().unwrap();
    drop(reading);
    assert_eq!(server.read(&mut [0]).unwrap(), 0, "the connection is closed");
}

#[test]
fn an_address_that_is_none_is_told_before_the_job_starts() {
    for source in
        [SocketSource::connect("localhost", TextLines), SocketSource::listen(":x", TextLines)]
    {
        let error = text(source.validate().unwrap_err());
        assert!(error.contains("cannot find this host and port (HOST:PORT)"), "{error}");
    }
}

#[test]
fn a_listening_source_reads_one_connection_after_the_other() {
    let source = SocketSource::listen("127.0.0.1:0", TextLines).connections(2);
    source.validate().unwrap();
    let address = source.local_address().unwrap();
    let reading = open_one(source, 0, 1, &Arc::default()).unwrap();
    let clients = thread::spawn(move || {
        for text in ["one\ntwo", "three\n"] {
            TcpStream::connect(address).unwrap().write_all(text.as_bytes()).unwrap();
        }
    });
    assert_eq!(reading.finish().unwrap(), ["one", "two", "three"]);
    clients.join().unwrap();
}

#[test]
fn a_listening_source_that_nobody_calls_can_be_dropped() {
    drop(open(SocketSource::listen("127.0.0.1:0", TextLines)));
}

#[test]
fn a_port_in_use_is_told_before_the_job_starts() {
    let (listener, _) = server();
    let address = listener.local_addr().unwrap().to_string();
    let error = text(SocketSource::listen(address, TextLines).validate().unwrap_err());
    assert!(error.contains("cannot listen there: Address already in use"), "{error}");
    assert!(error.ends_with("or choose another port"), "{error}");
}

fn pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_named_pipe_is_read_to_its_end_by_one_of_the_readers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    pipe(&path);
    let source = FileSource::new(&path, TextLines);
    source.validate().unwrap();
    let counters = Arc::default();
    let mut reading = open_one(source.clone(), 0, 2, &counters).unwrap();
    let idle = open_one(source, 1, 2, &counters).unwrap();
    let mut writer = std::fs::File::options().write(true).open(&path).unwrap();
    writer.write_all(b"one\ntw").unwrap();
    reading.until(1).unwrap();
    writer.write_all(b"o").unwrap();
    drop(writer);
    assert_eq!(reading.finish().unwrap(), ["one", "two"]);
    assert_eq!(idle.finish().unwrap(), [""; 0]);
}

#[test]
fn a_reader_of_a_pipe_that_nobody_writes_can_be_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    pipe(&path);
    drop(open(FileSource::new(&path, TextLines)));
}
