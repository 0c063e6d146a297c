//! The transport: connections to other hosts, driven by a ring of the slot's own.
//!
//! A slot has one [`Transport`] and turns it over once per batch ([`Transport::tick`]); nothing of it
//! depends on the slot's executor. It moves bytes; what they mean is said by [`crate::remote`].
//!
//! Sending goes from [registered buffers](SendBuffer), one operation at a time for each connection, so
//! that bytes keep their order. Where a buffer is large, the kernel is asked to send it without copying
//! (`SEND_ZC`), and asked to say whether it did: on loopback and veth it copies all the same, and more
//! slowly than a plain send, so that a connection gives it up then. A buffer that the kernel may still
//! read comes back when the kernel says that it is done, which nobody waits for.
//!
//! Receiving is one operation for all that will come on a connection (multishot), into its own buffers.
//! [`Received`] bytes are used where they lie; while they are, their buffer is not filled again, and when
//! all buffers of a connection are in use its peer's sends wait. So who waits for something that comes by
//! a connection must not hold on to all that has come by it, such as credits:
//! [`Transport::free_buffers`] tells.
//!
//! # Invariants
//! - What is sent on a connection arrives in that order, or the connection is closed.
//! - A connection is reported closed once. If it was in order until its end, that is after all that
//!   came on it; what had come and was not received when a send failed is lost with it.
//! - No memory that the kernel may write is given back before the kernel has let go of it.

mod alarm;
mod engine;
mod receive;
mod send;

#[cfg(test)]
mod tests;

pub use alarm::Alarm;
pub use receive::Received;
pub use send::{SendBuffer, SendBuffers};

use engine::{Completion, Engine};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Add;
use std::rc::Rc;
use std::time::Duration;

/// A connection of which so many sends in a row were copied gives up zero copy.
const COPIED_MAX: u32 = 4;
/// What all connections of a slot may receive into together, as long as each has room for small frames.
const RECEIVE_BYTES_MAX: usize = 64 << 20;
/// Of a buffer to send from or to receive into: room for four batches of 64 KiB with all that goes with them.
const BUFFER_BYTES: usize = 264 << 10;
/// Buffers to receive into are not made smaller than this.
const RECEIVE_BUFFER_BYTES_MIN: usize = 16 << 10;

/// When the kernel is asked not to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// For buffers of so many bytes or more, until it shows that the kernel copies nevertheless.
    From(usize),
    /// Never.
    Never,
}

/// The sizes that a transport keeps to.
#[derive(Clone, Copy, Debug)]
pub struct TransportSettings {
    /// Buffers to send from.
    pub send_buffers: u16,
    /// Bytes of each.
    pub send_buffer_bytes: usize,
    /// Buffers to receive into for each connection, a power of two.
    pub receive_buffers: u16,
    /// Bytes of each, a multiple of 4,096.
    pub receive_buffer_bytes: usize,
    /// When the kernel is asked not to copy.
    pub zero_copy: ZeroCopy,
}

impl Default for TransportSettings {
    /// About 4 MiB to send from, 1 for each connection to receive into, zero copy from 16 KiB on.
    fn default() -> Self {
        Self {
            send_buffers: 16,
            send_buffer_bytes: BUFFER_BYTES,
            receive_buffers: 4,
            receive_buffer_bytes: BUFFER_BYTES,
            zero_copy: ZeroCopy::From(16 << 10),
        }
    }
}

impl TransportSettings {
    /// For so many connections: where they are many, each has smaller buffers, so that a slot has at most
    /// 64 MiB to receive into up to 1,024 connections.
    pub fn for_connections(connections: usize) -> Self {
        let default = Self::default();
        let share = RECEIVE_BYTES_MAX / connections.max(1) / usize::from(default.receive_buffers);
        // A power of two, and so a multiple of what it must be one of.
        let share = 1 << share.max(1).ilog2();
        let receive_buffer_bytes =
            share.clamp(RECEIVE_BUFFER_BYTES_MIN, default.receive_buffer_bytes);
        Self { receive_buffer_bytes, ..default }
    }

    /// The bytes of all buffers with so many connections.
    pub fn buffer_bytes(&self, connections: usize) -> usize {
        let of_connection = usize::from(self.receive_buffers) * self.receive_buffer_bytes;
        usize::from(self.send_buffers) * self.send_buffer_bytes + connections * of_connection
    }
}

/// What the host allows, to be logged once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportFeatures {
    /// The kernel works on completions only when it is asked to (`DEFER_TASKRUN`, Linux 6.1).
    pub deferred: bool,
    /// Buffers are filled little by little (`IOU_PBUF_RING_INC`, Linux 6.12).
    pub incremental_buffers: bool,
    /// What is sent from is registered: the limit of locked memory is high enough.
    pub registered_buffers: bool,
}

/// What a transport has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Bytes that the kernel has taken to be sent.
    pub bytes_sent: u64,
    /// Bytes that were received.
    pub bytes_received: u64,
    /// Sends without copying that the kernel has reported on.
    pub notifications: u64,
    /// Those of them that it has copied nevertheless.
    pub copied: u64,
}

impl Add for TransportStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes_sent: self.bytes_sent + other.bytes_sent,
            bytes_received: self.bytes_received + other.bytes_received,
            notifications: self.notifications + other.notifications,
            copied: self.copied + other.copied,
        }
    }
}

/// A connection of a [`Transport`]. The number of one that is closed is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u32);

/// What has happened on a connection.
pub enum TransportEvent {
    /// Bytes have come.
    Received(Received),
    /// The connection is closed: if there is no error by this end, or by the peer while nothing was
    /// being sent to it.
    Closed(Option<io::Error>),
}

struct Connection {
    stream: Rc<TcpStream>,
    /// What is to be sent after what is being sent.
    queue: VecDeque<SendBuffer>,
    is_sending: bool,
    is_receiving: bool,
    /// It sends and receives no more.
    is_ending: bool,
    /// This end has closed it, so that what fails from then on is no failure.
    is_closed: bool,
    failure: Option<io::Error>,
    /// Sends in a row that were meant not to be copied and were.
    copied: u32,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream: Rc::new(stream),
            queue: VecDeque::new(),
            is_sending: false,
            is_receiving: false,
            is_ending: false,
            is_closed: false,
            failure: None,
            copied: 0,
        }
    }

    /// No more from here on. An end of the peer's is followed by the failure of what was being sent,
    /// if anything was: then that is the reason.
    fn end(&mut self, failure: Option<io::Error>) {
        if self.failure.is_none() && !self.is_closed {
            self.failure = failure;
        }
        if !self.is_ending {
            self.is_ending = true;
            if self.failure.is_none() && !self.is_closed && !self.queue.is_empty() {
                self.failure = Some(io::ErrorKind::BrokenPipe.into());
            }
            self.queue.clear();
            // What is under way ends with it. It may be gone already.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// A slot's connections to other hosts. See the documentation of the module.
pub struct Transport {
    engine: Engine,
    zero_copy: ZeroCopy,
    connections: Vec<Option<Connection>>,
    stats: TransportStats,
    completions: Vec<Completion>,
}

impl Transport {
    /// Opens a ring and makes its buffers, on the thread that will use them.
    ///
    /// # Errors
    /// If the host forbids `io_uring`, as the seccomp filters of containers do, or memory cannot be had.
    ///
    /// # Panics
    /// If the number of buffers to receive into is not a power of two up to 32,768.
    pub fn open(settings: TransportSettings) -> io::Result<Self> {
        Ok(Self {
            engine: Engine::open(&settings)?,
            zero_copy: settings.zero_copy,
            connections: Vec::new(),
            stats: TransportStats::default(),
            completions: Vec::new(),
        })
    }

    /// What the host allows.
    pub fn features(&self) -> TransportFeatures {
        self.engine.features()
    }

    /// What was counted so far.
    pub fn stats(&self) -> TransportStats {
        self.stats
    }

    /// Adds a connection, of which nothing is read or written elsewhere any more. A socket of another
    /// kind that is connected does as well: what goes by it are its own messages, one per buffer.
    ///
    /// # Errors
    /// If there is no memory to receive into.
    pub fn add(&mut self, stream: TcpStream) -> io::Result<ConnectionId> {
        let free = self.connections.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.engine.add(at as u32)?;
        self.connections[at] = Some(Connection::new(stream));
        Ok(ConnectionId(at as u32))
    }

    /// How many of a connection's buffers the kernel has to receive into. With none, nothing more comes
    /// until something that was received is dropped.
    pub fn free_buffers(&mut self, connection: ConnectionId) -> u16 {
        self.engine.can_receive(connection.0)
    }

    /// A buffer to fill and [send](Self::send); `None` while all are on their way.
    pub fn buffer(&self) -> Option<SendBuffer> {
        self.engine.buffers().take()
    }

    /// Where buffers come from, for who fills them elsewhere.
    pub fn buffers(&self) -> SendBuffers {
        self.engine.buffers()
    }

    /// How many buffers wait to be sent on a connection, with the one that is being sent.
    pub fn queued(&self, connection: ConnectionId) -> usize {
        let place = self.connections.get(connection.0 as usize);
        place
            .and_then(Option::as_ref)
            .map_or(0, |one| one.queue.len() + usize::from(one.is_sending))
    }

    /// Something by which other threads end a [wait](Self::wait).
    ///
    /// # Errors
    /// If the system gives out no more files.
    pub fn alarm(&mut self) -> io::Result<Alarm> {
        self.engine.alarm()
    }

    /// Sends a buffer after those before, from the next [tick](Self::tick) on. It is dropped if the
    /// connection is closed, which was or will be reported, or if it is empty.
    pub fn send(&mut self, connection: ConnectionId, buffer: SendBuffer) {
        if let Some(one) = self.connection(connection.0)
            && !one.is_ending
            && !buffer.is_empty()
        {
            one.queue.push_back(buffer);
        }
    }

    /// Closes a connection, with all that waits to be sent on it. It is reported when it is done.
    pub fn close(&mut self, connection: ConnectionId) {
        if let Some(one) = self.connection(connection.0) {
            one.is_closed = true;
            one.end(None);
        }
    }

    /// Begins what is to be done, and tells what has happened; true if anything has. Waits for nothing.
    ///
    /// Complexity: a system call if there is something to begin or to be told, and a look at each connection.
    ///
    /// # Errors
    /// If the ring fails.
    pub fn tick(
        &mut self,
        on_event: &mut dyn FnMut(ConnectionId, TransportEvent),
    ) -> io::Result<bool> {
        self.begin()?;
        self.engine.submit()?;
        self.complete(on_event)
    }

    /// As [`Self::tick`], but waits for something to happen, for ever or so long at the most, or for an
    /// [`Alarm`].
    ///
    /// # Errors
    /// If the ring fails.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        on_event: &mut dyn FnMut(ConnectionId, TransportEvent),
    ) -> io::Result<bool> {
        // What was closed with nothing under way gives nothing to wait for.
        let any = self.report_closed(on_event);
        self.begin()?;
        if any {
            self.engine.submit()?;
        } else {
            self.engine.submit_and_wait(timeout)?;
        }
        Ok(self.complete(on_event)? || any)
    }

    fn connection(&mut self, tag: u32) -> Option<&mut Connection> {
        self.connections.get_mut(tag as usize)?.as_mut()
    }

    /// Queues what each connection can do.
    fn begin(&mut self) -> io::Result<()> {
        for (tag, connection) in (0..).zip(&mut self.connections) {
            let Some(connection) = connection.as_mut().filter(|one| !one.is_ending) else {
                continue;
            };
            let can_receive = self.engine.can_receive(tag) > 0;
            if !connection.is_receiving && can_receive {
                self.engine.receive(tag, &connection.stream)?;
                connection.is_receiving = true;
            }
            if !connection.is_sending
                && let Some(buffer) = connection.queue.pop_front()
            {
                let zero_copy = match self.zero_copy {
                    ZeroCopy::From(least) => {
                        buffer.len() >= least && connection.copied < COPIED_MAX
                    }
                    ZeroCopy::Never => false,
                };
                self.engine.send(tag, &connection.stream, buffer, zero_copy)?;
                connection.is_sending = true;
            }
        }
        Ok(())
    }

    /// Takes note of what is done.
    fn complete(
        &mut self,
        on_event: &mut dyn FnMut(ConnectionId, TransportEvent),
    ) -> io::Result<bool> {
        let mut completions = std::mem::take(&mut self.completions);
        self.engine.completions(&mut completions)?;
        let any = !completions.is_empty();
        for completion in completions.drain(..) {
            match completion {
                Completion::Received { tag, result, is_over } => {
                    let Some(connection) = self.connection(tag) else { continue };
                    connection.is_receiving = !is_over;
                    match result {
                        Ok(Some(bytes)) => {
                            self.stats.bytes_received += bytes.len() as u64;
                            on_event(ConnectionId(tag), TransportEvent::Received(bytes));
                        }
                        Ok(None) => connection.end(None),
                        // All buffers are in use. It goes on when one comes back.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                        Err(error) => connection.end(Some(error)),
                    }
                }
                Completion::Sent { tag, result } => {
                    let Some(connection) = self.connection(tag) else { continue };
                    connection.is_sending = false;
                    match result {
                        Ok(bytes) => self.stats.bytes_sent += bytes as u64,
                        Err(error) => connection.end(Some(error)),
                    }
                }
                Completion::Notified { tag, copied } => {
                    self.stats.notifications += 1;
                    self.stats.copied += u64::from(copied);
                    let Some(connection) = self.connection(tag) else { continue };
                    connection.copied = if copied { connection.copied + 1 } else { 0 };
                }
            }
        }
        self.completions = completions;
        Ok(self.report_closed(on_event) || any)
    }

    /// Forgets connections that have ended, when nothing of them is under way; true if there are any.
    /// Buffers that the kernel may still read come back later.
    fn report_closed(&mut self, on_event: &mut dyn FnMut(ConnectionId, TransportEvent)) -> bool {
        let mut any = false;
        for (tag, place) in (0..).zip(&mut self.connections) {
            let is_over =
                |one: &mut Connection| one.is_ending && !one.is_receiving && !one.is_sending;
            if let Some(connection) = place.take_if(is_over) {
                any = true;
                self.engine.forget(tag);
                on_event(ConnectionId(tag), TransportEvent::Closed(connection.failure));
            }
        }
        any
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // So that what is being sent ends at once.
        self.connections.iter_mut().flatten().for_each(|connection| connection.end(None));
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("features", &self.features())
            .field("connections", &self.connections.iter().flatten().count())
            .field("pending", &self.engine.pending())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
