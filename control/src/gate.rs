//! Connections between workers and the coordinator, before gRPC has a byte of them.

use crate::rpc::coordinator_client::CoordinatorClient;
use crate::secret::{ClusterSecret, SecretError, check_address};
use hyper_util::rt::TokioIo;
use millstream_network::remote::handshake::{
    Accepting, Connecting, GREETING_BYTES, HandshakeError, Nonce, PROOF_BYTES, Purpose,
};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint};

/// A connection is to be let in within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are open at once, let in or not.
const CONNECTIONS_MAX: usize = 4096;
/// After a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a connection is not let in.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The peer has not proven itself.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer is on another host, where nobody could prove anything.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The connection is broken.
    #[error(
        "the peer has closed the connection before it was let in; do both know the same secret, or \
         neither one?"
    )]
    Closed,
    /// The connection is broken otherwise.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// It takes too long.
    #[error("the peer has not proven itself within {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
}

impl From<io::Error> for GateError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// A connection that was let in. It counts until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
}

/// Lets connections in, one by one. The stream ends when it is dropped.
///
/// Without a secret everybody is let in: the address must be of the loopback interface.
pub fn admit(
    listener: TcpListener,
    secret: Option<ClusterSecret>,
) -> ReceiverStream<io::Result<Admitted>> {
    let (sender, receiver) = mpsc::channel(16);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            let permit = Arc::clone(&permits).acquire_owned();
            let Ok(permit) = permit.await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("a worker's connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (sender, secret) = (sender.clone(), secret.clone());
            // Aside, so that one that says nothing holds up nobody.
            tokio::spawn(async move {
                match with_timeout(accept(stream, secret.as_ref())).await {
                    Ok(stream) => {
                        let _ = sender.send(Ok(Admitted { stream, _permit: permit })).await;
                    }
                    Err(error) => tracing::warn!("{peer} is not let in: {error}"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

/// Connects to the coordinator at `HOST:PORT`.
///
/// # Errors
/// If it is not there, or one of both does not know the secret.
pub async fn connect(
    coordinator: &str,
    secret: Option<ClusterSecret>,
) -> Result<CoordinatorClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{coordinator}"))?
        .connect_timeout(2 * HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true);
    let address = coordinator.to_owned();
    let connector = tower::service_fn(move |_| {
        let (address, secret) = (address.clone(), secret.clone());
        async move {
            let stream = async { Ok(TcpStream::connect(&address).await?) };
            let stream: TcpStream = with_timeout(stream).await?;
            // Whoever answers may give orders.
            check_address(stream.peer_addr()?.ip(), secret.as_ref())?;
            let stream = with_timeout(introduce(stream, secret.as_ref())).await?;
            Ok::<_, GateError>(TokioIo::new(stream))
        }
    });
    Ok(CoordinatorClient::new(endpoint.connect_with_connector(connector).await?))
}

async fn with_timeout<T>(done: impl Future<Output = Result<T, GateError>>) -> Result<T, GateError> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, done).await.unwrap_or(Err(GateError::Timeout))
}

async fn accept(
    mut stream: TcpStream,
    secret: Option<&ClusterSecret>,
) -> Result<TcpStream, GateError> {
    stream.set_nodelay(true)?;
    let Some(secret) = secret else { return Ok(stream) };
    let key = secret.control_key()?;
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting).await?;
    // The key is for the control plane alone, so no purpose of its own is needed.
    let (end, challenge) =
        Accepting::greeted(&key, Purpose::Exchange, Nonce::random()?, &greeting)?;
    stream.write_all(&challenge).await?;
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof).await?;
    stream.write_all(&end.proven(&proof)?).await?;
    Ok(stream)
}

async fn introduce(
    mut stream: TcpStream,
    secret: Option<&ClusterSecret>,
) -> Result<TcpStream, GateError> {
    stream.set_nodelay(true)?;
    let Some(secret) = secret else { return Ok(stream) };
    let key = secret.control_key()?;
    let (end, greeting) = Connecting::begin(&key, Purpose::Exchange, Nonce::random()?);
    stream.write_all(&greeting).await?;
    let mut challenge = [0; GREETING_BYTES];
    stream.read_exact(&mut challenge).await?;
    let (end, proof) = end.challenged(&challenge)?;
    stream.write_all(&proof).await?;
    let mut proof = [0; PROOF_BYTES];
    stream.read_exact(&mut proof).await?;
    end.proven(&proof)?;
    Ok(stream)
}

impl Connected for Admitted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    fn secret(text: &str) -> Option<ClusterSecret> {
        Some(ClusterSecret::new(text.as_bytes()).unwrap())
    }

    /// How the end that connects fares.
    async fn meet(
        accepts: Option<ClusterSecret>,
        connects: Option<ClusterSecret>,
    ) -> Result<(), GateError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut admitted = admit(listener, accepts);
        let stream = TcpStream::connect(address).await?;
        introduce(stream, connects.as_ref()).await?;
        assert!(admitted.next().await.unwrap().is_ok());
        Ok(())
    }

    #[tokio::test]
    async fn those_with_the_same_secret_meet() {
        meet(secret("a secret of the cluster"), secret("a secret of the cluster")).await.unwrap();
        meet(None, None).await.unwrap();
        let other = secret("not the one of the cluster");
        let refused = meet(secret("a secret of the cluster"), other).await.unwrap_err();
        assert!(matches!(refused, GateError::Closed), "{refused}");
    }

    #[tokio::test]
    async fn who_does_not_greet_is_not_let_in() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _admitted = admit(listener, secret("a secret of the cluster"));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n0123456789abcdef").await.unwrap();
        let mut answer = Vec::new();
        // Closed, or reset as there were bytes that nobody has read.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
}
