//! Where the processes of jobs speak with their agent: one JSON object per line, both ways.

use crate::Settings;
use crate::agent::Input;
use millstream_protocol::{Order, Told};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// A process is to say who it is within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const LINE_BYTES_MAX: u64 = 64 * 1024;
const ORDERS_MAX: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The end of a connection that the agent writes to. Dropped, the connection is closed.
pub(crate) type Orders = mpsc::Sender<Order>;

pub(crate) fn path(data_directory: &Path) -> PathBuf {
    data_directory.join("agent")
}

/// Listens until the agent is gone.
pub(crate) fn listen(settings: &Settings, inputs: mpsc::Sender<Input>) -> io::Result<()> {
    let path = path(&settings.data_directory);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Who may connect is checked by the user of the peer.
    let mode = if settings.run_as.is_some() { 0o666 } else { 0o600 };
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    let own = rustix::process::geteuid().as_raw();
    let user = settings.run_as.map_or(own, |(user, _)| user);
    tokio::spawn(async move {
        let mut connections = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = inputs.closed() => return,
            };
            match accepted {
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == user) => {
                    connections += 1;
                    tokio::spawn(serve(stream, connections, inputs.clone()));
                }
                Ok(_) => tracing::warn!("a process of another user is not listened to"),
                Err(error) => {
                    tracing::warn!("a process could not be listened to: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, connection: u64, inputs: mpsc::Sender<Input>) {
    let (reads, mut writes) = stream.into_split();
    let mut reads = BufReader::new(reads);
    let hello = tokio::time::timeout(HELLO_TIMEOUT, line(&mut reads)).await;
    let Ok(Ok(Some(hello @ Told::Hello { .. }))) = hello else {
        tracing::warn!("a process has connected and has not said who it is");
        return;
    };
    let (orders, mut ordered) = mpsc::channel::<Order>(ORDERS_MAX);
    if inputs.send(Input::Hello { connection, hello, orders }).await.is_err() {
        return;
    }
    let told = async {
        loop {
            match line(&mut reads).await {
                Ok(Some(told)) => {
                    if inputs.send(Input::Told { connection, told }).await.is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("what a process has told is not understood: {error}");
                    return;
                }
            }
        }
    };
    let order = async {
        while let Some(order) = ordered.recv().await {
            let Ok(mut text) = serde_json::to_vec(&order) else { return };
            text.push(b'\n');
            if writes.write_all(&text).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = told => {}
        () = order => {}
    }
    let _ = inputs.send(Input::Hung { connection }).await;
}

/// The next line; none at the end.
async fn line(reads: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Told>> {
    let mut text = Vec::new();
    let mut bounded = reads.take(LINE_BYTES_MAX);
    if bounded.read_until(b'\n', &mut text).await? == 0 {
        return Ok(None);
    }
    if text.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_end() {
        let restarting = b"{\"told\":\"restarting\",\"error\":\"boom\"}\n".as_slice();
        let mut reads = BufReader::new(restarting);
        let expected = Told::Restarting { error: "boom".into() };
        assert_eq!(line(&mut reads).await.unwrap(), Some(expected));
        assert_eq!(line(&mut reads).await.unwrap(), None);
        let endless = vec![b' '; LINE_BYTES_MAX as usize + 1];
        assert!(line(&mut BufReader::new(endless.as_slice())).await.is_err());
        assert!(line(&mut BufReader::new(&restarting[..20])).await.is_err());
    }
}
