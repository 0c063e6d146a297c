//! Signs of life between members of which neither controls the job.
//!
//! Such members know of each other by the connections of their slots alone. There a peer that does not
//! read, because it is busy, looks like one that is gone; so that waits for long. A link of its own, off the
//! slots' threads, tells the two apart soon.

use super::RESTORE_TIMEOUT;
use super::control_link::{hear, speak};
use super::message::Told;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;

/// A link to another member, for one attempt.
pub(crate) struct Peer {
    /// Its number.
    pub(super) member: usize,
    pub(super) stream: TcpStream,
}

/// Called once with a member that is lost, and why. From any thread.
type OnLost = Arc<dyn Fn(usize, String) + Send + Sync>;

/// The links of an attempt. They end with this value.
pub(super) struct PeerLinks(Vec<PeerLink>);

struct PeerLink {
    stream: TcpStream,
    /// Nothing is ever sent: without words a link speaks of itself.
    words: Option<Sender<Told>>,
    threads: Vec<JoinHandle<()>>,
}

impl PeerLinks {
    /// Begins to say that this process is there, and to listen whether the others are.
    ///
    /// # Errors
    /// If there are no threads for it.
    pub(super) fn open(
        peers: Vec<Peer>,
        on_lost: impl Fn(usize, String) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let on_lost: OnLost = Arc::new(on_lost);
        let mut links = Self(Vec::new());
        for peer in peers {
            links.0.push(PeerLink::open(peer, &on_lost)?);
        }
        Ok(links)
    }
}

impl PeerLink {
    fn open(Peer { member, stream }: Peer, on_lost: &OnLost) -> io::Result<Self> {
        let (words, spoken) = channel();
        let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
        // On failure the drop of the link ends the threads that have started.
        let mut link = Self { stream, words: Some(words), threads: Vec::new() };
        let on_lost = Arc::clone(on_lost);
        let once = Once::new();
        let on_end = move |error: io::Error| {
            if !is_closed(&error) {
                once.call_once(|| on_lost(member, error.to_string()));
            }
        };
        let on_end = Arc::new(on_end);
        let on_written = Arc::clone(&on_end);
        let mut spawn = |f: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name("peer".into()).spawn(f)?;
            link.threads.push(thread);
            Ok::<_, io::Error>(())
        };
        spawn(Box::new(move || {
            if let Err(error) = speak(&spoken, &writing, &Told::Heartbeat) {
                on_written(error);
            }
        }))?;
        spawn(Box::new(move || {
            // Who has more to restore begins to speak later.
            on_end(hear(&reading, RESTORE_TIMEOUT, |_: Told| {}));
        }))?;
        Ok(link)
    }
}

/// The other side has ended the link, or its process has ended: of that the connections of its slots tell
/// whether it is what was to come.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.words = None;
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            // What it had to say it has said.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SILENCE_MAX;
    use super::super::message;
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, RecvTimeoutError};
    use std::time::{Duration, Instant};

    /// A link to member 2, what is said when it is lost, and its end.
    fn link() -> (PeerLinks, Receiver<(usize, String)>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let (lost, words) = channel();
        let peers = vec![Peer { member: 2, stream }];
        let on_lost = move |member, error| lost.send((member, error)).unwrap();
        let links = PeerLinks::open(peers, on_lost).unwrap();
        (links, words, theirs)
    }

    #[test]
    fn who_falls_silent_is_lost_and_who_has_not_begun_is_not() {
        let (links, lost, theirs) = link();
        let longer = SILENCE_MAX + Duration::from_millis(500);
        assert_eq!(lost.recv_timeout(longer), Err(RecvTimeoutError::Timeout));
        // This side has spoken all the time.
        for _ in 0..4 {
            assert_eq!(message::read::<Told>(&theirs).unwrap(), Told::Heartbeat);
        }
        message::write(&Told::Heartbeat, &theirs).unwrap();
        let begun = Instant::now();
        let (member, words) = lost.recv_timeout(2 * SILENCE_MAX).unwrap();
        assert!(begun.elapsed() >= SILENCE_MAX - Duration::from_millis(100));
        assert_eq!((member, &*words), (2, "it has said nothing for 3s"));
        drop(links);
    }

    #[test]
    fn who_ends_the_link_is_not_lost() {
        let (links, lost, theirs) = link();
        message::write(&Told::Heartbeat, &theirs).unwrap();
        drop(theirs);
        drop(links);
        assert_eq!(lost.recv(), Err(std::sync::mpsc::RecvError));
        let (links, lost, theirs) = link();
        drop(links);
        assert_eq!(lost.recv(), Err(std::sync::mpsc::RecvError));
        drop(theirs);
    }
}
