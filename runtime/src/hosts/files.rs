//! The files of a member's checkpoints, as other members use them.
//!
//! Each member serves the directory on its own host. A file that grows, such as a store's, is sent from
//! where the other side has it: so what a checkpoint adds is sent once, and a transfer that was broken off
//! goes on where it was.

use super::LOOK_INTERVAL;
use super::connection::{Hello, Identity, Purpose, dial};
use super::message::{self, message};
use crate::metrics::JobCounters;
use millstream_protocol::{CopyStep, FileCopy};
use millstream_storage::{Listed, LocalDirectory, Storage, StorageError};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much of a file goes in one message.
const CHUNK_BYTES: u64 = 1 << 20;
/// What is longer is not put as a whole.
const PIECE_BYTES: usize = 8 << 20;
/// Who goes on sending so soon makes up for what he was late by.
const LATE_MAX: Duration = Duration::from_millis(100);
/// How long a member may take to answer: it may have to wait for its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to reach one.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
const GIVEN_UP: &str = "nobody waits for it any more";

/// What is wanted of a directory.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum Request {
    Put {
        path: String,
        bytes: Vec<u8>,
    },
    Create {
        path: String,
        bytes: Vec<u8>,
    },
    /// Adds to a file that grows; all of it is durable when this is answered.
    Append {
        path: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    Read {
        path: String,
        offset: u64,
        len: u64,
    },
    Len {
        path: String,
    },
    List {
        folder: String,
    },
    Delete {
        path: String,
    },
    DeleteFolder {
        folder: String,
    },
}

#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) enum Answer {
    Done,
    Bytes(Vec<u8>),
    Number(u64),
    Listing(Vec<(String, u64)>),
    NotFound,
    AlreadyExists,
    TooShort { expected: u64, found: u64 },
    Failed(String),
}

message!(Request);
message!(Answer);

/// The connections by which one other member uses the directory. Only its newest one counts: what it asked by
/// an older one, and has given up, has been done before anything is done that it asks by a newer one, or never
/// is. So a manifest that it does not see cannot appear later.
#[derive(Default)]
pub(super) struct Connections {
    /// Zero if there has been none; none is newer than the last number, which no connection has.
    newest: Mutex<u64>,
}

impl Connections {
    fn newest(&self) -> MutexGuard<'_, u64> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with one, when what is being done for the one before has been done.
    fn begin(&self) -> u64 {
        let mut newest = self.newest();
        *newest = newest.saturating_add(1);
        *newest
    }

    /// Nothing is done for any of them any more when this returns.
    pub(super) fn close(&self) {
        *self.newest() = u64::MAX;
    }

    /// Does something for one of them, unless there is a newer one.
    fn perform<T>(&self, connection: u64, f: impl FnOnce() -> T) -> Option<T> {
        let newest = self.newest();
        (*newest == connection && connection != u64::MAX).then(f)
    }
}

/// Serves a directory to another member, until that has no more to ask, or does so by a newer one of its
/// `connections`.
pub(super) fn serve(stream: &TcpStream, directory: &LocalDirectory, connections: &Connections) {
    let connection = connections.begin();
    let ended: io::Result<()> = (|| {
        loop {
            let request = message::read(stream)?;
            let answer = connections.perform(connection, || answer(directory, request));
            let Some(answer) = answer else { return Ok(()) };
            message::write(&answer, stream)?;
        }
    })();
    if let Err(error) = ended
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        tracing::debug!("a member that asked for files is gone: {error}");
    }
}

fn answer(directory: &LocalDirectory, request: Request) -> Answer {
    let done = |result: Result<(), StorageError>| result.map(|()| Answer::Done);
    let result = match request {
        Request::Put { path, bytes } => done(directory.put(&path, &bytes)),
        Request::Create { path, bytes } => done(directory.create_if_absent(&path, &bytes)),
        Request::Append { path, offset, bytes } => done(directory.append(&path, offset, &bytes)),
        Request::Read { path, offset, len } => {
            let len = usize::try_from(len.min(PIECE_BYTES as u64)).unwrap_or(0);
            directory.read_range(&path, offset, len).map(Answer::Bytes)
        }
        Request::Len { path } => directory.len(&path).map(Answer::Number),
        Request::List { folder } => directory.list(&folder).map(|files| {
            Answer::Listing(files.into_iter().map(|file| (file.path, file.len)).collect())
        }),
        Request::Delete { path } => done(directory.delete(&path)),
        Request::DeleteFolder { folder } => done(directory.delete_folder(&folder)),
    };
    result.unwrap_or_else(|error| match error {
        StorageError::NotFound { .. } => Answer::NotFound,
        StorageError::AlreadyExists { .. } => Answer::AlreadyExists,
        StorageError::TooShort { expected, found, .. } => Answer::TooShort { expected, found },
        error => Answer::Failed(crate::checkpoint::in_words(&error)),
    })
}

/// Keeps what is sent within so many bytes per second.
#[derive(Debug)]
pub(crate) struct BandwidthLimit {
    bytes_per_second: Option<u64>,
    /// When what was sent so far, and what is about to be, may have been sent.
    paid_until: Mutex<Instant>,
    counters: Arc<JobCounters>,
}

impl BandwidthLimit {
    pub(crate) fn new(bytes_per_second: Option<u64>, counters: Arc<JobCounters>) -> Self {
        Self { bytes_per_second, paid_until: Mutex::new(Instant::now()), counters }
    }

    /// Waits until so many bytes may have been sent, as long as it `goes_on`. What is given up counts as not
    /// sent.
    fn wait_for(&self, bytes: usize, goes_on: impl Fn() -> bool) {
        let Some(rate) = self.bytes_per_second else { return };
        if !goes_on() {
            return;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let end = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if now > *paid_until + LATE_MAX {
                *paid_until = now;
            }
            *paid_until += takes;
            *paid_until
        };
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            if !goes_on() {
                *self.paid_until.lock().unwrap_or_else(PoisonError::into_inner) -= takes;
                return;
            }
            std::thread::park_timeout(left.min(LOOK_INTERVAL));
        }
    }
}

/// The directory of another member.
pub(super) struct MemberStorage {
    /// The member's name.
    name: String,
    address: SocketAddr,
    identity: Identity,
    /// Who asks.
    own: u32,
    limit: Arc<BandwidthLimit>,
    stream: Mutex<Option<TcpStream>>,
    /// The same, for whoever ends a wait for an answer.
    in_use: Mutex<Option<TcpStream>>,
    /// Nothing is asked for the time being.
    is_given_up: AtomicBool,
    /// How much of files that grow it has said to be durable since it was connected to.
    confirmed: Mutex<HashMap<String, u64>>,
}

impl MemberStorage {
    pub(super) fn new(
        name: String,
        address: SocketAddr,
        identity: Identity,
        own: u32,
        limit: Arc<BandwidthLimit>,
    ) -> Self {
        Self {
            name,
            address,
            identity,
            own,
            limit,
            stream: Mutex::default(),
            in_use: Mutex::default(),
            is_given_up: AtomicBool::new(false),
            confirmed: Mutex::default(),
        }
    }

    fn failed(
        &self,
        path: &str,
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StorageError {
        StorageError::Remote {
            path: self.title(path),
            action,
            advice: "; is that host up?",
            source: source.into(),
        }
    }

    fn confirmed(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends whatever waits for the member. Until [`Self::take_up`] all that is asked fails at once.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::SeqCst);
        if let Some(stream) = self.in_use().take() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The member can be asked again.
    pub(super) fn take_up(&self) {
        self.is_given_up.store(false, Ordering::SeqCst);
    }

    fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::SeqCst)
    }

    fn in_use(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<TcpStream, Box<dyn std::error::Error + Send + Sync>> {
        let hello = Hello::new(&self.identity, Purpose::Files { member: self.own });
        let goes_on = || !self.is_given_up();
        let deadline = Instant::now() + DIAL_TIMEOUT;
        let stream = dial(self.address, &self.identity, &hello, deadline, &goes_on)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        *self.in_use() = Some(stream.try_clone()?);
        if self.is_given_up() {
            return Err(GIVEN_UP.into());
        }
        // Maybe it has come back with an empty disk.
        self.confirmed().clear();
        Ok(stream)
    }

    fn call(
        &self,
        request: &Request,
        path: &str,
        action: &'static str,
    ) -> Result<Answer, StorageError> {
        let mut connected = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = |stream: &TcpStream| {
            message::write(request, stream)?;
            message::read::<Answer>(stream)
        };
        if self.is_given_up() {
            return Err(self.failed(path, action, GIVEN_UP));
        }
        // The connection may be of an earlier life of the member, or of before it could not be reached for a
        // while. All that is asked may be asked twice, but for the one thing that says so; and not if the
        // time for an answer is over.
        let is_late = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let answered = connected.as_ref().map(&ask);
        let answer = match answered {
            Some(Ok(answer)) => answer,
            Some(Err(error))
                if matches!(request, Request::Create { .. })
                    || is_late(&error)
                    || self.is_given_up() =>
            {
                *connected = None;
                return Err(self.failed(path, action, error));
            }
            _ => {
                *connected = None;
                let stream = self.connect().map_err(|error| self.failed(path, action, error))?;
                let answer = ask(&stream).map_err(|error| self.failed(path, action, error))?;
                *connected = Some(stream);
                answer
            }
        };
        drop(connected);
        let title = || self.title(path);
        match answer {
            Answer::NotFound => Err(StorageError::NotFound { path: title() }),
            Answer::AlreadyExists => Err(StorageError::AlreadyExists { path: title() }),
            Answer::TooShort { expected, found } => {
                Err(StorageError::TooShort { path: title(), expected, found })
            }
            Answer::Failed(error) => Err(self.failed(path, action, error)),
            answer => Ok(answer),
        }
    }

    fn done(
        &self,
        request: &Request,
        path: &str,
        action: &'static str,
    ) -> Result<(), StorageError> {
        match self.call(request, path, action)? {
            Answer::Done => Ok(()),
            _ => Err(self.failed(path, action, "an answer to something else")),
        }
    }

    /// Asks for something with so many bytes of a file, when these may be sent.
    fn send(
        &self,
        bytes: usize,
        request: &Request,
        path: &str,
        action: &'static str,
    ) -> Result<(), StorageError> {
        self.limit.wait_for(bytes, || !self.is_given_up());
        self.done(request, path, action)?;
        self.limit.counters.add_replicated(bytes);
        Ok(())
    }

    /// Sends what the member has not of the first `len` bytes of a file.
    fn send_missing(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        let action = "write it";
        let unreadable = |error: io::Error| StorageError::Io {
            path: local.display().to_string(),
            action: "read it",
            source: error,
        };
        let file = File::open(local).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?.len();
        if found < len {
            let path = local.display().to_string();
            return Err(StorageError::TooShort { path, expected: len, found });
        }
        let mut copy = FileCopy::new(len, CHUNK_BYTES);
        loop {
            match copy.next() {
                CopyStep::Look => match self.len(path) {
                    Ok(found) => copy.on_found(found),
                    Err(error) if error.is_not_found() => copy.on_found(0),
                    Err(error) => return Err(error),
                },
                CopyStep::Append { offset, len } => {
                    let mut bytes = vec![0; len as usize];
                    file.read_exact_at(&mut bytes, offset).map_err(unreadable)?;
                    let request = Request::Append { path: path.to_owned(), offset, bytes };
                    self.send(len as usize, &request, path, action)?;
                    copy.on_appended();
                }
                CopyStep::Durable => return Ok(()),
            }
        }
    }
}

impl Storage for MemberStorage {
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let action = "write it";
        if bytes.len() <= PIECE_BYTES {
            let request = Request::Put { path: path.to_owned(), bytes: bytes.to_vec() };
            return self.send(bytes.len(), &request, path, action);
        }
        // What has gigabytes would be several times in memory as one message, and its answer late.
        self.delete(path)?;
        let mut offset = 0;
        for piece in bytes.chunks(PIECE_BYTES) {
            let path_here = path.to_owned();
            let request = Request::Append { path: path_here, offset, bytes: piece.to_vec() };
            self.send(piece.len(), &request, path, action)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn create_if_absent(&self, path: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let request = Request::Create { path: path.to_owned(), bytes: bytes.to_vec() };
        self.done(&request, path, "write it")
    }

    fn copy_from_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        self.delete(path)?;
        self.send_missing(local, len, path)
    }

    fn follow_local(&self, local: &Path, len: u64, path: &str) -> Result<(), StorageError> {
        if self.confirmed().get(path).is_some_and(|confirmed| *confirmed >= len) {
            return Ok(());
        }
        let sent = self.send_missing(local, len, path);
        sent.inspect(|()| {
            self.confirmed().insert(path.to_owned(), len);
        })
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, StorageError> {
        let len = self.len(path)?;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let part = (len - bytes.len() as u64).min(CHUNK_BYTES);
            bytes.extend(self.read_range(path, bytes.len() as u64, part as usize)?);
        }
        Ok(bytes)
    }

    fn read_range(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
        let request = Request::Read { path: path.to_owned(), offset, len: len as u64 };
        match self.call(&request, path, "read it")? {
            Answer::Bytes(bytes) if bytes.len() == len => Ok(bytes),
            _ => Err(self.failed(path, "read it", "an answer to something else")),
        }
    }

    fn len(&self, path: &str) -> Result<u64, StorageError> {
        match self.call(&Request::Len { path: path.to_owned() }, path, "look at it")? {
            Answer::Number(len) => Ok(len),
            _ => Err(self.failed(path, "look at it", "an answer to something else")),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StorageError> {
        match self.call(&Request::List { folder: folder.to_owned() }, folder, "list it")? {
            Answer::Listing(files) => {
                Ok(files.into_iter().map(|(path, len)| Listed { path, len }).collect())
            }
            _ => Err(self.failed(folder, "list it", "an answer to something else")),
        }
    }

    fn delete(&self, path: &str) -> Result<(), StorageError> {
        self.confirmed().remove(path);
        self.done(&Request::Delete { path: path.to_owned() }, path, "delete it")
    }

    fn delete_folder(&self, folder: &str) -> Result<(), StorageError> {
        let request = Request::DeleteFolder { folder: folder.to_owned() };
        self.done(&request, folder, "delete it")
    }

    fn title(&self, path: &str) -> String {
        format!("{path} on {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::admit;
    use super::*;
    use crate::checkpoint::{Damaged, RestoreInto, newest};
    use crate::error::JobError;
    use millstream_state::HeapBackend;
    use millstream_storage::CheckpointDirectory;
    use std::net::TcpListener;
    use tempfile::TempDir;

    fn identity() -> Identity {
        Identity::new("job", 1, 2, None)
    }

    /// A member that serves this folder to whoever connects, so many times.
    fn member(folder: &TempDir, connections: usize) -> MemberStorage {
        limited_member(folder, connections, BandwidthLimit::new(None, Arc::default()))
    }

    fn limited_member(
        folder: &TempDir,
        connections: usize,
        limit: BandwidthLimit,
    ) -> MemberStorage {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let directory = LocalDirectory::open(folder.path()).unwrap();
        let all = Connections::default();
        std::thread::spawn(move || {
            for _ in 0..connections {
                let (stream, _) = listener.accept().unwrap();
                let (hello, stream) = admit(stream, &identity()).unwrap().unwrap();
                assert_eq!(hello.purpose, Purpose::Files { member: 3 });
                serve(&stream, &directory, &all);
            }
        });
        MemberStorage::new("b".into(), address, identity(), 3, Arc::new(limit))
    }

    #[test]
    fn a_members_directory_is_a_storage() {
        let (theirs, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let storage = member(&theirs, 1);
        storage.put("chk-1/a", b"state").unwrap();
        storage.create_if_absent("chk-1/manifest", b"all").unwrap();
        let again = storage.create_if_absent("chk-1/manifest", b"other").unwrap_err();
        assert!(matches!(again, StorageError::AlreadyExists { .. }), "{again}");
        assert_eq!(storage.get("chk-1/a").unwrap(), b"state");
        assert_eq!(storage.read_range("chk-1/a", 1, 3).unwrap(), b"tat");
        assert!(storage.read_range("chk-1/a", 1, 30).is_err());
        assert!(storage.get("chk-1/b").unwrap_err().is_not_found());
        assert!(storage.len("chk-1/b").unwrap_err().is_not_found());
        assert_eq!(storage.list("chk-1").unwrap().len(), 2);
        // Nobody gets out of the directory.
        std::fs::write(theirs.path().parent().unwrap().join("millstream-outside"), b"x").unwrap();
        for path in ["../millstream-outside", "/etc/passwd", "chk-1/../../x", ""] {
            assert!(storage.get(path).is_err() && storage.put(path, b"x").is_err(), "{path}");
        }
        std::fs::remove_file(theirs.path().parent().unwrap().join("millstream-outside")).unwrap();
        // A file that grows, in several messages; and one that the other side has in part.
        let log = here.path().join("log");
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 77).map(|n| (n / 7) as u8).collect();
        std::fs::write(&log, &bytes).unwrap();
        storage.follow_local(&log, 10, "state/log").unwrap();
        assert_eq!(storage.get("state/log").unwrap(), bytes[..10]);
        storage.follow_local(&log, bytes.len() as u64, "state/log").unwrap();
        assert_eq!(storage.get("state/log").unwrap(), bytes);
        let short = storage.follow_local(&log, bytes.len() as u64 + 1, "state/log").unwrap_err();
        assert!(matches!(short, StorageError::TooShort { .. }), "{short}");
        storage.delete("state/log").unwrap();
        // What is long goes piece by piece, and leaves nothing of what was there.
        for len in [PIECE_BYTES * 2 + 5, PIECE_BYTES + 1] {
            let snapshot: Vec<u8> = (0..len).map(|n| (n / 7 + len) as u8).collect();
            storage.put("chk-1/a", &snapshot).unwrap();
            assert!(storage.len("chk-1/a").unwrap() == len as u64);
            assert!(std::fs::read(theirs.path().join("chk-1/a")).unwrap() == snapshot);
        }
        storage.delete_folder("chk-1").unwrap();
        assert_eq!(storage.list("").unwrap(), []);
    }

    #[test]
    fn a_member_that_came_back_is_asked_anew_and_one_that_is_gone_is_an_error_in_words() {
        let theirs = tempfile::tempdir().unwrap();
        let storage = member(&theirs, 2);
        storage.put("a", b"1").unwrap();
        let connection = storage.stream.lock().unwrap();
        connection.as_ref().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
        drop(connection);
        assert_eq!(storage.get("a").unwrap(), b"1");
        // Nobody listens there.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let limit = Arc::new(BandwidthLimit::new(None, Arc::default()));
        let storage = MemberStorage::new("c".into(), gone, identity(), 3, limit);
        let error = storage.len("a").unwrap_err().to_string();
        assert_eq!(error, "a on c: cannot look at it; is that host up?");
        // Nor is it known that there is no checkpoint.
        let directory = CheckpointDirectory::on(Arc::new(storage));
        let into = RestoreInto { uids: &[], max_parallelism: 1, backend: &HeapBackend, owned: &[] };
        let found = newest(&directory, &into, false, &Damaged::new(), None).map(|_| ());
        assert!(matches!(found, Err(JobError::Host(_))), "{found:?}");
    }

    #[test]
    fn who_is_given_up_keeps_nobody_waiting_and_can_be_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let theirs = tempfile::tempdir().unwrap();
        let directory = LocalDirectory::open(theirs.path()).unwrap();
        let limit = Arc::new(BandwidthLimit::new(None, Arc::default()));
        let storage = MemberStorage::new("b".into(), address, identity(), 3, limit);
        let let_in = || {
            let (hello, stream) =
                admit(listener.accept().unwrap().0, &identity()).unwrap().unwrap();
            assert_eq!(hello.purpose, Purpose::Files { member: 3 });
            stream
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| storage.len("a"));
            let silent = let_in();
            // What was asked is there, and is not answered.
            message::read::<Request>(&silent).unwrap();
            let begun = Instant::now();
            storage.give_up();
            let error = waiting.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("a on b"), "{error}");
            assert!(storage.put("b", b"1").is_err());
            assert!(begun.elapsed() < DIAL_TIMEOUT, "it took {:?}", begun.elapsed());
            storage.take_up();
            scope.spawn(|| serve(&let_in(), &directory, &Connections::default()));
            storage.put("b", b"1").unwrap();
            // So that whoever serves ends.
            storage.give_up();
        });
    }

    #[test]
    fn what_was_given_up_is_done_before_anything_else_is_or_never() {
        let folder = tempfile::tempdir().unwrap();
        let directory = LocalDirectory::open(folder.path()).unwrap();
        let connections = Connections::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ask = |stream: &TcpStream, request: Request| {
            message::write(&request, stream)?;
            message::read::<Answer>(stream)
        };
        let create = |path: &str| Request::Create { path: path.into(), bytes: b"all".to_vec() };
        std::thread::scope(|scope| {
            let connect = || {
                let stream = TcpStream::connect(address).unwrap();
                let (theirs, _) = listener.accept().unwrap();
                let (directory, connections) = (&directory, &connections);
                scope.spawn(move || serve(&theirs, directory, connections));
                stream
            };
            let old = connect();
            assert_eq!(ask(&old, create("manifest-1")).unwrap(), Answer::Done);
            let new = connect();
            let found = ask(&new, Request::Len { path: "manifest-1".into() }).unwrap();
            assert_eq!(found, Answer::Number(3));
            // It was on its way all the time.
            let late = ask(&old, create("manifest-2")).unwrap_err();
            assert_eq!(late.kind(), io::ErrorKind::UnexpectedEof);
            let found = ask(&new, Request::Len { path: "manifest-2".into() }).unwrap();
            assert_eq!(found, Answer::NotFound);
        });
        // What is being done when a new one comes.
        let (begun, doing) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel();
        let connection = connections.begin();
        std::thread::scope(|scope| {
            let connections = &connections;
            let slow = scope.spawn(move || {
                connections.perform(connection, || {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                    directory.create_if_absent("manifest-3", b"all")
                })
            });
            doing.recv().unwrap();
            let seen = scope.spawn(|| {
                connections.begin();
                folder.path().join("manifest-3").exists()
            });
            end.send(()).unwrap();
            assert!(seen.join().unwrap());
            slow.join().unwrap().unwrap().unwrap();
        });
    }

    #[test]
    fn a_limit_is_kept_within_a_tenth() {
        const BYTES: u64 = 4 << 20;
        const RATE: u64 = 4 << 20;
        let here = tempfile::tempdir().unwrap();
        let log = here.path().join("log");
        std::fs::write(&log, vec![7; BYTES as usize]).unwrap();
        let mut rate = 0.0;
        // A busy machine may be slower now and then, and never faster.
        for _ in 0..5 {
            let theirs = tempfile::tempdir().unwrap();
            let (begun, counters) = (Instant::now(), Arc::<JobCounters>::default());
            let limit = BandwidthLimit::new(Some(RATE), Arc::clone(&counters));
            let storage = limited_member(&theirs, 1, limit);
            storage.follow_local(&log, BYTES, "state/log").unwrap();
            assert_eq!(counters.replicated_bytes(), BYTES);
            rate = BYTES as f64 / begun.elapsed().as_secs_f64() / RATE as f64;
            assert!(rate < 1.1, "{rate} of the limit");
            if rate > 0.9 {
                return;
            }
        }
        panic!("only {rate} of the limit");
    }
}
