//! A slot's connections to slots of other hosts, and the ends of channels that go by them.
//!
//! A connection carries channels between two slots, or between one and others of the other's host, both ways, and
//! what each says to the other about credits. It is made for one attempt of a job: it is not mended when it breaks, as nobody could say what
//! was received. Then the attempt fails, and the next has connections of its own.
//!
//! # Invariants
//! - A frame goes to the channel that both ends have under its number, or the connection fails.
//! - A connection that ends before all its channels have is a failure.

use super::frame::{FrameError, FrameHeader, FrameKind};
use super::incoming::{ChannelError, Feed, Incoming};
use super::outbox::{Envelope, Outbox};
use super::outgoing::{Outgoing, RemoteSender};
use super::reader::{FramePayload, FrameReader};
use super::{Codec, CodecError};
use crate::Sender;
use crate::transport::{Alarm, ConnectionId, Received, Transport, TransportEvent, TransportStats};
use millstream_protocol::{CreditViolation, SendCredits};
use millstream_types::Batch;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::ops::Add;
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;

/// Bytes of a credit: two totals.
const CREDIT_BYTES: usize = 16;

/// A connection of [`Links`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId(usize);

/// How much may be on its way by a channel, as both its ends have set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Batches.
    pub data: u32,
    /// Signals.
    pub control: u32,
}

/// What links have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Of the transport.
    pub transport: TransportStats,
    /// Bytes of payloads that were used where they were received.
    pub bytes_in_place: u64,
    /// Bytes of payloads that were copied, as they came in two parts or as memory was short.
    pub bytes_copied: u64,
}

impl Add for LinkStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            transport: self.transport + other.transport,
            bytes_in_place: self.bytes_in_place + other.bytes_in_place,
            bytes_copied: self.bytes_copied + other.bytes_copied,
        }
    }
}

/// Why links cannot go on.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The ring of the slot has failed.
    #[error("the slot's io_uring has failed")]
    Ring(#[source] io::Error),
    /// A connection has ended before its time.
    #[error("the connection to {peer} is lost{}", .error.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
    Lost {
        /// To whom.
        peer: String,
        /// What was seen; `None` if the peer has closed it.
        error: Option<io::Error>,
    },
    /// What came is no frame.
    #[error("from {peer}: {error}")]
    Frame {
        /// From whom.
        peer: String,
        /// What is wrong.
        error: FrameError,
    },
    /// A frame does not fit its channel.
    #[error("from {peer}, channel {channel}: {error}")]
    Channel {
        /// From whom.
        peer: String,
        /// By which channel.
        channel: u32,
        /// What is wrong.
        error: ChannelError,
    },
    /// There is no such channel.
    #[error(
        "{peer} sends by channel {channel}, which this host does not have; all hosts must run the same executable, with the same flags"
    )]
    UnknownChannel {
        /// From whom.
        peer: String,
        /// By which channel.
        channel: u32,
    },
    /// A batch could not be written.
    #[error("a batch for {peer}, channel {channel}, cannot be written: {error}")]
    Write {
        /// For whom.
        peer: String,
        /// By which channel.
        channel: u32,
        /// Why.
        error: CodecError,
    },
}

struct Peer {
    name: String,
    connection: ConnectionId,
    outbox: Rc<RefCell<Outbox>>,
    reader: FrameReader,
    incoming: HashMap<u32, Box<dyn Incoming>>,
    outgoing: HashMap<u32, Rc<Outgoing>>,
    is_closed: bool,
}

/// The connections of one slot. See the documentation of the module.
pub struct Links {
    transport: Transport,
    attempt: u64,
    receive_buffers: u16,
    peers: Vec<Peer>,
    /// What has happened in a turn; empty between turns.
    events: Vec<(ConnectionId, TransportEvent)>,
}

impl Links {
    /// Links by this transport, for an attempt of a job. `receive_buffers` are those that each connection
    /// of the transport has.
    pub fn new(transport: Transport, attempt: u64, receive_buffers: u16) -> Self {
        Self { transport, attempt, receive_buffers, peers: Vec::new(), events: Vec::new() }
    }

    /// Adds a connection to a slot of this name.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn connect(&mut self, name: String, stream: TcpStream) -> io::Result<PeerId> {
        let connection = self.transport.add(stream)?;
        let outbox = Outbox::new(self.attempt, self.transport.buffers());
        self.peers.push(Peer {
            name,
            connection,
            outbox: Rc::new(RefCell::new(outbox)),
            reader: FrameReader::new(self.attempt),
            incoming: HashMap::new(),
            outgoing: HashMap::new(),
            is_closed: false,
        });
        for peer in &self.peers {
            peer.outbox.borrow_mut().share_with(self.peers.len());
        }
        Ok(PeerId(self.peers.len() - 1))
    }

    /// Something by which other threads end a [wait](Self::wait).
    ///
    /// # Errors
    /// If the system gives out no more files.
    pub fn alarm(&mut self) -> io::Result<Alarm> {
        self.transport.alarm()
    }

    /// Opens the sending end of a channel.
    pub fn sender<B: Batch, C: Codec<B>>(
        &mut self,
        peer: PeerId,
        channel: u32,
        window: Window,
        codec: C,
    ) -> RemoteSender<B, C> {
        let peer = &mut self.peers[peer.0];
        let shared = Rc::new(Outgoing {
            data: Cell::new(SendCredits::new(window.data)),
            control: Cell::new(SendCredits::new(window.control)),
            failure: RefCell::default(),
            has_ended: Cell::new(false),
        });
        peer.outgoing.insert(channel, Rc::clone(&shared));
        RemoteSender::new(channel, codec, shared, Rc::clone(&peer.outbox))
    }

    /// Opens the receiving end of a channel: what comes goes `into` a channel within the host, which has
    /// as many credits as the greater of the windows.
    pub fn receive_into<B: Batch + Default, C: Codec<B>>(
        &mut self,
        peer: PeerId,
        channel: u32,
        window: Window,
        codec: C,
        into: Sender<B>,
    ) {
        let feed = Feed::new(into, codec, window.data, window.control);
        self.peers[peer.0].incoming.insert(channel, Box::new(feed));
    }

    /// Sends what is to be sent and hands on what has come; true if anything has. Waits for nothing.
    ///
    /// Complexity: a system call if there is something to send or to be told, and a look at each incoming
    /// channel.
    ///
    /// # Errors
    /// If a connection is lost, or a peer does not keep to the protocol: the attempt must end.
    pub fn tick(&mut self) -> Result<bool, LinkError> {
        self.turn(|transport, on_event| transport.tick(on_event))
    }

    /// As [`Self::tick`], but waits for something to happen, for ever or so long at the most, or for the
    /// [alarm](Self::alarm).
    ///
    /// # Errors
    /// As [`Self::tick`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, LinkError> {
        self.turn(|transport, on_event| transport.wait(timeout, on_event))
    }

    fn turn(
        &mut self,
        turn: impl FnOnce(
            &mut Transport,
            &mut dyn FnMut(ConnectionId, TransportEvent),
        ) -> io::Result<bool>,
    ) -> Result<bool, LinkError> {
        self.send()?;
        let Self { transport, peers, receive_buffers, events, .. } = self;
        let mut failure = None;
        let any = turn(transport, &mut |connection, event| events.push((connection, event)))
            .map_err(LinkError::Ring)?;
        for (connection, event) in events.drain(..) {
            let Some(peer) = peers.iter_mut().find(|peer| peer.connection == connection) else {
                continue;
            };
            let result = match event {
                TransportEvent::Received(bytes) => {
                    let free = transport.free_buffers(connection);
                    peer.receive(bytes, free * 2 > *receive_buffers)
                }
                TransportEvent::Closed(error) => peer.close(error),
            };
            if let Err(error) = result {
                failure.get_or_insert(error);
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(any),
        }
    }

    /// Grants what was consumed, and hands to the transport what is to be sent.
    fn send(&mut self) -> Result<(), LinkError> {
        for peer in self.peers.iter_mut().filter(|peer| !peer.is_closed) {
            if peer.reader.is_amid_a_frame() && self.transport.free_buffers(peer.connection) == 0 {
                peer.reader
                    .let_go()
                    .map_err(|error| LinkError::Frame { peer: peer.name.clone(), error })?;
            }
            peer.grant()?;
            let mut outbox = peer.outbox.borrow_mut();
            while let Some(buffer) = outbox.next(self.transport.queued(peer.connection)) {
                self.transport.send(peer.connection, buffer);
            }
        }
        Ok(())
    }

    /// What was counted so far.
    pub fn stats(&self) -> LinkStats {
        let mut stats = LinkStats { transport: self.transport.stats(), ..LinkStats::default() };
        for peer in &self.peers {
            let of_peer = peer.reader.stats();
            stats.bytes_in_place += of_peer.bytes_in_place;
            stats.bytes_copied += of_peer.bytes_copied;
        }
        stats
    }
}

impl Peer {
    fn receive(&mut self, bytes: Received, may_stay: bool) -> Result<(), LinkError> {
        let Self { name, reader, incoming, outgoing, .. } = self;
        let mut on_frame = |header: FrameHeader, payload: FramePayload| {
            let channel = header.channel;
            let unknown = || LinkError::UnknownChannel { peer: name.clone(), channel };
            let result = match header.kind {
                FrameKind::Credit => {
                    let outgoing = outgoing.get(&channel).ok_or_else(unknown)?;
                    on_credit(outgoing, &payload)
                }
                _ => {
                    let incoming = incoming.get_mut(&channel).ok_or_else(unknown)?;
                    incoming.on_frame(&header, payload)
                }
            };
            let in_channel = |error| LinkError::Channel { peer: name.clone(), channel, error };
            result.map_err(|error| Failure::Link(in_channel(error)))
        };
        reader.read(bytes, may_stay, &mut on_frame).map_err(|failure| match failure {
            Failure::Frame(error) => LinkError::Frame { peer: name.clone(), error },
            Failure::Link(error) => error,
        })
    }

    /// Tells the senders of channels what they may send.
    fn grant(&mut self) -> Result<(), LinkError> {
        let mut outbox = self.outbox.borrow_mut();
        for (channel, incoming) in &mut self.incoming {
            let Some((data, control)) = incoming.grants() else { continue };
            let envelope =
                Envelope { kind: FrameKind::Credit, channel: *channel, schema: 0, number: 0 };
            outbox.frame(envelope, CREDIT_BYTES, |out| {
                out[..8].copy_from_slice(&data.to_le_bytes());
                out[8..].copy_from_slice(&control.to_le_bytes());
            });
        }
        for (channel, outgoing) in &self.outgoing {
            if let Some(error) = outgoing.failure.borrow_mut().take() {
                return Err(LinkError::Write { peer: self.name.clone(), channel: *channel, error });
            }
        }
        Ok(())
    }

    fn close(&mut self, error: Option<io::Error>) -> Result<(), LinkError> {
        self.is_closed = true;
        let all_in = self.incoming.values().all(|incoming| incoming.has_ended());
        let all_out = self.outgoing.values().all(|outgoing| outgoing.has_ended.get());
        if all_in && all_out && !self.reader.is_amid_a_frame() {
            return Ok(());
        }
        Err(LinkError::Lost { peer: self.name.clone(), error })
    }
}

/// Either is the end of a connection.
enum Failure {
    Frame(FrameError),
    Link(LinkError),
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

fn on_credit(outgoing: &Outgoing, payload: &[u8]) -> Result<(), ChannelError> {
    let (totals, []) = payload.as_chunks::<8>() else {
        return Err(ChannelError::Content(FrameKind::Credit));
    };
    let [data, control] = *totals else {
        return Err(ChannelError::Content(FrameKind::Credit));
    };
    let grant = |credits: &Cell<SendCredits>, total: [u8; 8]| -> Result<(), CreditViolation> {
        let mut now = credits.get();
        now.grant(u64::from_le_bytes(total))?;
        credits.set(now);
        Ok(())
    };
    grant(&outgoing.data, data)?;
    Ok(grant(&outgoing.control, control)?)
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers: Vec<_> = self.peers.iter().map(|peer| &peer.name).collect();
        f.debug_struct("Links")
            .field("attempt", &self.attempt)
            .field("peers", &peers)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}
