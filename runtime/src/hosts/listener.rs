//! The port of a member: lets the others in.

use super::LOOK_INTERVAL;
use super::connection::{Identity, Purpose, admit};
use super::files::{self, Connections};
use millstream_storage::LocalDirectory;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So many may introduce themselves at once. When one more comes, the oldest has had its time: members
/// take a moment, so that strangers who say nothing keep nobody out.
const INTRODUCTIONS_MAX: usize = 64;
/// How long an address may be in use that this process is to have.
const BIND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a member may take to know where its files are.
const FILES_TIMEOUT: Duration = Duration::from_secs(10);

/// Listens until it is dropped.
pub(super) struct Listener {
    door: Arc<Door>,
    thread: Option<JoinHandle<()>>,
}

struct Door {
    is_over: AtomicBool,
    /// Where it leads.
    hall: Mutex<Arc<Hall>>,
}

impl Door {
    fn hall(&self) -> MutexGuard<'_, Arc<Hall>> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where those wait who were let in, for one deployment of the job.
pub(super) struct Hall {
    identity: Identity,
    introductions: Mutex<Introductions>,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

/// Connections of those who have not shown yet who they are, oldest first.
#[derive(Default)]
struct Introductions {
    begun: u64,
    streams: VecDeque<(u64, TcpStream)>,
}

#[derive(Default)]
struct Waiting {
    /// Nobody is let in any more.
    is_closed: bool,
    /// Older attempts are over.
    attempt: u64,
    of_attempts: HashMap<Purpose, TcpStream>,
    controls: Vec<(u32, TcpStream)>,
    /// What is served, as soon as it is known.
    files: Option<Arc<LocalDirectory>>,
    /// Of each member that has asked for files.
    connections: HashMap<u32, Arc<Connections>>,
}

impl Hall {
    fn new(identity: Identity) -> Arc<Self> {
        let (introductions, waiting) = (Mutex::default(), Mutex::default());
        Arc::new(Self { identity, introductions, waiting, arrived: Condvar::new() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn introductions(&self) -> MutexGuard<'_, Introductions> {
        self.introductions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an introduction its number.
    fn begin_introduction(&self, stream: &TcpStream) -> io::Result<u64> {
        let stream = stream.try_clone()?;
        let mut introductions = self.introductions();
        if introductions.streams.len() >= INTRODUCTIONS_MAX
            && let Some((_, oldest)) = introductions.streams.pop_front()
        {
            // It may be gone already.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        introductions.begun += 1;
        let number = introductions.begun;
        introductions.streams.push_back((number, stream));
        Ok(number)
    }

    fn end_introduction(&self, number: u64) {
        self.introductions().streams.retain(|(other, _)| *other != number);
    }

    fn introduce(&self, number: u64, stream: TcpStream) {
        let admitted = admit(stream, &self.identity);
        self.end_introduction(number);
        match admitted {
            Ok(Some((hello, stream))) => {
                let mut waiting = self.waiting();
                match hello.purpose {
                    late if waiting.is_closed => tracing::debug!("too late: {late}"),
                    Purpose::Control { member } => {
                        // One that connects anew has given its older links up.
                        waiting.controls.retain(|(other, _)| *other != member);
                        waiting.controls.push((member, stream));
                    }
                    Purpose::Files { member } => {
                        let connections =
                            Arc::clone(waiting.connections.entry(member).or_default());
                        drop(waiting);
                        return self.serve_files(stream, connections);
                    }
                    of_attempt if of_attempt.attempt() >= Some(waiting.attempt) => {
                        waiting.of_attempts.insert(of_attempt, stream);
                    }
                    late => tracing::debug!("too late: {late}"),
                }
                self.arrived.notify_all();
            }
            Ok(None) => tracing::warn!("somebody connected who is no member of this job"),
            Err(error) => tracing::debug!("a connection that came to nothing: {error}"),
        }
    }

    /// On a thread of its own, as long as the other member has something to ask.
    fn serve_files(&self, stream: TcpStream, connections: Arc<Connections>) {
        let deadline = Instant::now() + FILES_TIMEOUT;
        let Some(files) = self.wait_for(deadline, |waiting| waiting.files.clone()) else { return };
        let serving = std::thread::Builder::new().name("files".into());
        if let Err(error) = serving.spawn(move || files::serve(&stream, &files, &connections)) {
            tracing::warn!("files of checkpoints are not served: {error}");
        }
    }

    fn wait_for<T>(
        &self,
        deadline: Instant,
        mut take: impl FnMut(&mut Waiting) -> Option<T>,
    ) -> Option<T> {
        let mut waiting = self.waiting();
        loop {
            if waiting.is_closed {
                return None;
            }
            if let Some(found) = take(&mut waiting) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.arrived.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From now on only connections of this attempt are of use, or of later ones.
    pub(super) fn expect(&self, attempt: u64) {
        let mut waiting = self.waiting();
        waiting.attempt = attempt;
        waiting.of_attempts.retain(|purpose, _| purpose.attempt() >= Some(attempt));
    }

    /// From now on connections of any attempt may be of use, if they come anew.
    pub(super) fn expect_any(&self) {
        let mut waiting = self.waiting();
        waiting.attempt = 0;
        waiting.of_attempts.clear();
    }

    /// A connection that another member has made for an attempt.
    pub(super) fn take(&self, purpose: Purpose, deadline: Instant) -> Option<TcpStream> {
        self.wait_for(deadline, |waiting| waiting.of_attempts.remove(&purpose))
    }

    /// From now on other members can use this directory.
    pub(super) fn serve(&self, directory: Arc<LocalDirectory>) {
        self.waiting().files = Some(directory);
        self.arrived.notify_all();
    }

    /// The next control link of another member, unless it is `enough` without: of that it is looked again at
    /// each [`Hall::look_again`].
    pub(super) fn take_control(
        &self,
        deadline: Instant,
        enough: &dyn Fn() -> bool,
    ) -> Option<(u32, TcpStream)> {
        let take = |waiting: &mut Waiting| match waiting.controls.pop() {
            None => enough().then_some(None),
            link => Some(link),
        };
        self.wait_for(deadline, take)?
    }

    /// Has whoever waits here look again at what he waits for.
    pub(super) fn look_again(&self) {
        // Not between his look and his wait.
        drop(self.waiting());
        self.arrived.notify_all();
    }

    /// Lets nobody in any more. Who waits here for others does not do so any longer.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.arrived.notify_all();
        for (_, stream) in self.introductions().streams.drain(..) {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits for what is being done for those who use the directory; nothing is done for them any more.
    fn serve_no_more(&self) {
        let connections = std::mem::take(&mut self.waiting().connections);
        connections.into_values().for_each(|connections| connections.close());
    }
}

impl Listener {
    /// Listens at an address, for who is of this identity.
    pub(super) fn bind(address: SocketAddr, identity: Identity) -> io::Result<(Self, Arc<Hall>)> {
        let listener = bind(address)?;
        listener.set_nonblocking(true)?;
        let hall = Hall::new(identity);
        let door = Door { is_over: AtomicBool::new(false), hall: Mutex::new(Arc::clone(&hall)) };
        let door = Arc::new(door);
        let listening = Arc::clone(&door);
        let thread = std::thread::Builder::new()
            .name("listener".into())
            .spawn(move || listen(&listener, &listening))?;
        Ok((Self { door, thread: Some(thread) }, hall))
    }

    /// From now on those come who are of this identity. Whoever came before has no part in anything any more.
    pub(super) fn expect_others(&self, identity: Identity) -> Arc<Hall> {
        let hall = Hall::new(identity);
        let before = std::mem::replace(&mut *self.door.hall(), Arc::clone(&hall));
        before.close();
        before.serve_no_more();
        hall
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.door.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked: it does nothing but accept.
            let _ = thread.join();
        }
    }
}

/// A process that was killed a moment ago may still have the address.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + BIND_TIMEOUT;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::park_timeout(LOOK_INTERVAL);
            }
            result => return result,
        }
    }
}

fn listen(listener: &TcpListener, door: &Door) {
    while !door.is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = let_in(stream, &door.hall().clone()) {
                    tracing::warn!("somebody who connected is not let in: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_readable(listener, LOOK_INTERVAL);
            }
            Err(error) => {
                tracing::debug!("a connection was not accepted: {error}");
                // Such as for want of files: whoever waits is still there in a moment.
                std::thread::park_timeout(LOOK_INTERVAL);
            }
        }
    }
}

/// Begins an introduction, on a thread of its own.
fn let_in(stream: TcpStream, hall: &Arc<Hall>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let number = hall.begin_introduction(&stream)?;
    let guest = Arc::clone(hall);
    let introduce = move || guest.introduce(number, stream);
    let spawned = std::thread::Builder::new().name("introduction".into()).spawn(introduce);
    spawned.map(drop).inspect_err(|_| hall.end_introduction(number))
}

fn wait_readable(listener: &TcpListener, timeout: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
    // Whatever comes of it, it is looked again.
    let _ = poll(&mut fds, Some(&timeout));
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Hello, dial};
    use super::*;

    const SOON: Duration = Duration::from_secs(60);
    const CONTROL: Purpose = Purpose::Control { member: 1 };

    fn identity(generation: u64) -> Identity {
        Identity::new("job", generation, 2, None)
    }

    /// Connects as a member of a generation, if it is let in.
    fn knock(address: SocketAddr, generation: u64) -> Option<TcpStream> {
        let identity = identity(generation);
        let hello = Hello::new(&identity, CONTROL);
        dial(address, &identity, &hello, Instant::now() + SOON, &|| false).ok()
    }

    #[test]
    fn who_belongs_to_the_deployment_before_has_no_part_in_the_next() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let address = TcpListener::bind(any).unwrap().local_addr().unwrap();
        let (listener, before) = Listener::bind(address, identity(1)).unwrap();
        let never = || false;
        let _first = knock(address, 1).unwrap();
        assert_eq!(before.take_control(Instant::now() + SOON, &never).unwrap().0, 1);
        assert!(knock(address, 2).is_none());

        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(LocalDirectory::open(folder.path()).unwrap());
        before.serve(Arc::clone(&files));
        let other = Identity::new("job", 1, 2, None);
        let storage = files::MemberStorage::new(
            "a".into(),
            address,
            other,
            3,
            Arc::new(files::BandwidthLimit::new(None, Arc::default())),
        );
        millstream_storage::Storage::put(&storage, "of-the-first", b"1").unwrap();

        let waits = std::thread::scope(|scope| {
            let waits = scope.spawn(|| before.take_control(Instant::now() + SOON, &never));
            let after = listener.expect_others(identity(2));
            assert!(knock(address, 1).is_none());
            let _second = knock(address, 2).unwrap();
            assert_eq!(after.take_control(Instant::now() + SOON, &never).unwrap().0, 1);
            waits.join().unwrap()
        });
        assert!(waits.is_none());
        // Its connection is still there.
        millstream_storage::Storage::put(&storage, "too-late", b"1").unwrap_err();
        assert!(folder.path().join("of-the-first").exists());
        assert!(!folder.path().join("too-late").exists());
    }

    #[test]
    fn who_waits_for_members_hears_when_there_are_enough() {
        let (_listener, hall) =
            Listener::bind("127.0.0.1:0".parse().unwrap(), identity(1)).unwrap();
        let enough = AtomicBool::new(false);
        let is_enough = || enough.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| hall.take_control(Instant::now() + SOON, &is_enough));
            enough.store(true, Ordering::SeqCst);
            hall.look_again();
            assert!(waits.join().unwrap().is_none());
        });
    }
}
