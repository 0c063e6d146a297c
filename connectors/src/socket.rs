//! TCP sockets.

use crate::block_reader::{Input, Inputs, Origin};
use crate::emission::{Emission, Records, Results};
use crate::error::ReadError;
use crate::format::{Format, OnMalformed};
use crate::io_thread::{Stop, StoppableRead, Wait};
use crate::record_reader::{ReadOptions, RecordReader};
use millstream::connector::{BoxError, Source, SourceContext};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads records from a TCP connection, with one subtask, as they come.
///
/// A connection that the other side closes ends the input. One that breaks off fails the job: what
/// was lost with it cannot be asked for again, so it is not opened anew. For the same reason a job
/// that is resumed from a checkpoint goes on with what comes next.
#[derive(Debug)]
pub struct SocketSource<F, E = Records> {
    side: Side,
    options: ReadOptions<F>,
    emission: PhantomData<fn() -> E>,
}

/// Which side opens the connection.
#[derive(Clone, Debug)]
enum Side {
    Connect {
        address: String,
    },
    Listen {
        address: String,
        /// Connections to accept before the input ends.
        connections: Option<u64>,
        /// Bound by `validate`, taken by `open`.
        listener: Arc<Mutex<Option<TcpListener>>>,
    },
}

impl<F: Clone, E> Clone for SocketSource<F, E> {
    fn clone(&self) -> Self {
        Self { side: self.side.clone(), options: self.options.clone(), emission: PhantomData }
    }
}

impl<F: Format> SocketSource<F> {
    /// Connects to a server at `HOST:PORT` when the job starts.
    pub fn connect(address: impl Into<String>, format: F) -> Self {
        Self::new(Side::Connect { address: address.into() }, format)
    }

    /// Listens at `HOST:PORT` (`0.0.0.0:PORT` for all interfaces) and reads one connection after
    /// the other, without end unless [`SocketSource::connections`] sets one.
    pub fn listen(address: impl Into<String>, format: F) -> Self {
        let address = address.into();
        Self::new(Side::Listen { address, connections: None, listener: Arc::default() }, format)
    }

    fn new(side: Side, format: F) -> Self {
        let options = ReadOptions { format, on_malformed: OnMalformed::Fail, limit: None };
        Self { side, options, emission: PhantomData }
    }

    /// Says what becomes of malformed records; [`OnMalformed::Fail`] if never called.
    pub fn on_malformed(mut self, policy: OnMalformed) -> Self {
        self.options.on_malformed = policy;
        self
    }

    /// Emits `Result<record, Malformed>`, so that malformed records can be processed too.
    pub fn with_malformed(self) -> SocketSource<F, Results> {
        SocketSource { side: self.side, options: self.options, emission: PhantomData }
    }
}

impl<F: Format, E> SocketSource<F, E> {
    /// Ends a listening source after this many connections; no change to one that connects.
    pub fn connections(mut self, count: u64) -> Self {
        if let Side::Listen { connections, .. } = &mut self.side {
            *connections = Some(count);
        }
        self
    }

    /// Where a listening source listens, once it has been validated: tells the port that the
    /// system chose for port 0.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.side {
            Side::Connect { .. } => None,
            Side::Listen { listener, .. } => {
                let listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
                listener.as_ref()?.local_addr().ok()
            }
        }
    }
}

impl<F: Format, E: Emission<F::Record>> Source for SocketSource<F, E> {
    type Out = E::Out;
    type Reader = RecordReader<F, E>;

    fn validate(&self) -> Result<(), BoxError> {
        match &self.side {
            Side::Connect { address } => {
                resolve(address)?;
            }
            Side::Listen { address, listener, .. } => {
                let bound = bind(address)?;
                *listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(bound);
            }
        }
        Ok(())
    }

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn is_replayable(&self) -> bool {
        false
    }

    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError> {
        if context.subtask.0 > 0 {
            // A subtask too many reads nothing.
            return RecordReader::open(Connecting(None), "socket", self.options, context);
        }
        match self.side {
            Side::Connect { address } => {
                let name = address.clone();
                RecordReader::open(Connecting(Some(address)), &name, self.options, context)
            }
            Side::Listen { address, connections, listener } => {
                let bound = listener.lock().unwrap_or_else(PoisonError::into_inner).take();
                let inputs = Accepting {
                    listener: bound.map_or_else(|| bind(&address), Ok)?,
                    left: connections.unwrap_or(u64::MAX),
                    name: address.as_str().into(),
                };
                RecordReader::open(inputs, &address, self.options, context)
            }
        }
    }
}

fn failed(name: &str, action: &'static str, error: io::Error) -> ReadError {
    ReadError::Io { name: name.to_owned(), action, error }
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>, ReadError> {
    address
        .to_socket_addrs()
        .map(Iterator::collect)
        .map_err(|error| failed(address, "find this host and port (HOST:PORT)", error))
}

fn bind(address: &str) -> Result<TcpListener, ReadError> {
    let listener = TcpListener::bind(resolve(address)?.as_slice())
        .map_err(|error| failed(address, "listen there", error))?;
    // Whoever accepts waits for the owner's stop signal too.
    listener.set_nonblocking(true).map_err(|error| failed(address, "listen there", error))?;
    Ok(listener)
}

fn input(name: Arc<str>, stream: TcpStream, stop: &Stop) -> Input {
    Input {
        origin: Arc::new(Origin { name, path: None }),
        read: Box::new(StoppableRead::new(stream, stop.clone())),
        start: 0,
        end: None,
        lines_before: Some(0),
        head: None,
        is_interactive: true,
        explain: |name, error| failed(name, "read from the connection", error),
    }
}

/// Opens the one connection.
struct Connecting(Option<String>);

impl Inputs for Connecting {
    fn next(&mut self, stop: &Stop) -> Option<Result<Input, ReadError>> {
        let address = self.0.take()?;
        let addresses = match resolve(&address) {
            Ok(addresses) => addresses,
            Err(error) => return Some(Err(error)),
        };
        let mut last = io::Error::other("no address");
        for candidate in addresses {
            match connect(candidate, stop) {
                Ok(Some(stream)) => return Some(Ok(input(address.as_str().into(), stream, stop))),
                Ok(None) => return None,
                Err(error) => last = error,
            }
        }
        Some(Err(failed(&address, "connect", last)))
    }
}

/// Connects; `None` if the owner went away meanwhile.
fn connect(address: SocketAddr, stop: &Stop) -> io::Result<Option<TcpStream>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            match stop.wait(&socket, PollFlags::OUT, Some(CONNECT_TIMEOUT))? {
                Wait::Ready => rustix::net::sockopt::socket_error(&socket)??,
                Wait::Stopped => return Ok(None),
                Wait::TimedOut => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Some(socket.into()))
}

/// Accepts connections one after the other.
struct Accepting {
    listener: TcpListener,
    left: u64,
    name: Arc<str>,
}

impl Inputs for Accepting {
    fn next(&mut self, stop: &Stop) -> Option<Result<Input, ReadError>> {
        self.left = self.left.checked_sub(1)?;
        loop {
            match stop.wait(&self.listener, PollFlags::IN, None) {
                Ok(Wait::Ready) => {}
                Ok(_) => return None,
                Err(error) => return Some(Err(failed(&self.name, "accept connections", error))),
            }
            match self.listener.accept() {
                Ok((stream, _)) => return Some(Ok(input(self.name.clone(), stream, stop))),
                // Gone again before it was accepted: wait for the next.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Some(Err(failed(&self.name, "accept connections", error))),
            }
        }
    }
}
