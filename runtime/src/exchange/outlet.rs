//! The sending end of a channel: to a slot of this process, or of another host.

use crate::rows::{Rows, RowsCodec};
use millstream_network::Sender;
use millstream_network::remote::{LinkError, LinkStats, Links, PeerId, RemoteSender, Window};
use millstream_network::transport::{Alarm, Transport, TransportFeatures, TransportSettings};
use millstream_state::Data;
use millstream_types::{Barrier, Element, SlotIndex};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Once;
use std::time::Duration;

/// A channel to or from another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteChannel {
    /// Its number, the same on both hosts.
    pub number: u32,
    /// The slot of the other host with which the connection is by which it goes.
    pub slot: SlotIndex,
}

/// Where a subtask's records leave to, before its slot has opened it.
pub enum Outbound<T: Send + 'static> {
    /// To a slot of this process.
    Here(Sender<Rows<T>>),
    /// To a slot of another host.
    Elsewhere(RemoteChannel),
}

/// The sending end of a channel.
pub(crate) enum Outlet<T: Data> {
    Here(Sender<Rows<T>>),
    Elsewhere(RemoteSender<Rows<T>, RowsCodec<T>>),
}

/// Calls the method of this name of either kind.
macro_rules! either {
    ($self:ident, $sender:ident => $call:expr) => {
        match $self {
            Outlet::Here($sender) => $call,
            Outlet::Elsewhere($sender) => $call,
        }
    };
}

impl<T: Data> Outlet<T> {
    /// See [`Sender::acquire`].
    #[inline]
    pub(crate) fn acquire(&mut self, make: impl FnOnce() -> Rows<T>) -> Option<Rows<T>> {
        either!(self, sender => sender.acquire(make))
    }

    /// See [`Sender::send`].
    #[inline]
    pub(crate) fn send(&mut self, element: Element<Rows<T>>) {
        either!(self, sender => sender.send(element));
    }

    /// See [`Sender::overtake`]; `each` is shown what the barrier has overtaken on this side.
    pub(crate) fn overtake(&mut self, barrier: Barrier, each: impl FnMut(&Element<Rows<T>>)) {
        either!(self, sender => sender.overtake(barrier).for_each(each));
    }

    /// See [`Sender::flush_overflow`].
    #[inline]
    pub(crate) fn flush_overflow(&mut self) -> bool {
        either!(self, sender => sender.flush_overflow())
    }

    /// See [`Sender::notify`]. What goes to another host leaves when the slot turns its links over.
    #[inline]
    pub(crate) fn notify(&mut self) {
        if let Self::Here(sender) = self {
            sender.notify();
        }
    }
}

/// A connection to a slot of another host.
pub(crate) struct SlotStream {
    pub(crate) slot: SlotIndex,
    /// What people call it.
    pub(crate) name: String,
    pub(crate) stream: TcpStream,
}

/// Says what the kernel can do for connections, which is the same for all slots.
fn log_once(features: TransportFeatures) {
    static LOGGED: Once = Once::new();
    LOGGED.call_once(|| {
        let TransportFeatures { deferred, incremental_buffers, registered_buffers } = features;
        tracing::info!(
            deferred,
            incremental_buffers,
            registered_buffers,
            "slots are connected with other hosts by io_uring"
        );
        if !registered_buffers {
            tracing::warn!(
                "buffers to send from are not registered, so that all that is sent is copied: raise the \
                 limit of locked memory (ulimit -l)"
            );
        }
    });
}

/// A slot's connections to slots of other hosts.
pub(crate) struct SlotLinks {
    links: Links,
    peers: BTreeMap<SlotIndex, PeerId>,
    window: Window,
}

impl SlotLinks {
    /// Opens the links of a slot, on its thread.
    pub(crate) fn open(streams: Vec<SlotStream>, attempt: u64, credits: usize) -> io::Result<Self> {
        let settings = TransportSettings::for_connections(streams.len());
        let transport = Transport::open(settings)?;
        log_once(transport.features());
        let mut links = Links::new(transport, attempt, settings.receive_buffers);
        let mut peers = BTreeMap::new();
        for SlotStream { slot, name, stream } in streams {
            peers.insert(slot, links.connect(name, stream)?);
        }
        let credits = u32::try_from(credits).unwrap_or(u32::MAX);
        let window = Window { data: credits, control: credits };
        Ok(Self { links, peers, window })
    }

    /// See [`Links::alarm`].
    pub(crate) fn alarm(&mut self) -> io::Result<Alarm> {
        self.links.alarm()
    }

    fn peer(&self, channel: RemoteChannel) -> PeerId {
        // Channels go where the routes lead, by which the connections were made.
        *self.peers.get(&channel.slot).expect("a slot has a connection where its routes lead")
    }

    /// Opens the sending end of a channel.
    pub(crate) fn outlet<T: Data>(&mut self, channel: RemoteChannel) -> Outlet<T> {
        let (peer, codec) = (self.peer(channel), RowsCodec::default());
        Outlet::Elsewhere(self.links.sender(peer, channel.number, self.window, codec))
    }

    /// What comes by a channel goes into one within the host.
    pub(crate) fn receive_into<T: Data>(&mut self, channel: RemoteChannel, into: Sender<Rows<T>>) {
        let (peer, codec) = (self.peer(channel), RowsCodec::default());
        self.links.receive_into(peer, channel.number, self.window, codec, into);
    }

    /// See [`Links::tick`].
    pub(crate) fn tick(&mut self) -> Result<bool, LinkError> {
        self.links.tick()
    }

    /// See [`Links::stats`].
    pub(crate) fn stats(&self) -> LinkStats {
        self.links.stats()
    }

    /// See [`Links::wait`].
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<bool, LinkError> {
        self.links.wait(timeout)
    }
}

impl fmt::Debug for SlotLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.links.fmt(f)
    }
}
