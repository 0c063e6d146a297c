//! What the tests share.

use millstream_hosts::{Host, Hosts};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long anything may take before it counts as hanging: far beyond what it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long a silence is listened to.
pub const SILENCE: Duration = Duration::from_millis(250);

/// So many hosts; none, with the reason printed, where they cannot be had.
pub fn hosts(count: usize) -> Result<Option<Hosts>> {
    if let Err(missing) = Hosts::available() {
        println!("skipped: {missing}");
        return Ok(None);
    }
    Ok(Some(Hosts::new(count)?))
}

/// A socket for datagrams on a host.
pub fn datagrams(host: &Host) -> Result<UdpSocket> {
    Ok(host.within(|| UdpSocket::bind((host.address(), 0)))??)
}

/// The next datagram; none if there is none in this time.
pub fn receive(socket: &UdpSocket, within: Duration) -> Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + within;
    let mut datagram = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // No time at all would mean for ever.
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.recv(&mut datagram) {
            Ok(length) => return Ok(Some(datagram[..length].to_vec())),
            // Unlike others, a call with a time limit is not begun again after a signal.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// True if a datagram arrives, false if there is silence instead.
pub fn reaches(hosts: &Hosts, from: usize, to: usize, within: Duration) -> Result<bool> {
    let (sender, receiver) = (datagrams(hosts.host(from))?, datagrams(hosts.host(to))?);
    sender.send_to(b"hello", receiver.local_addr()?)?;
    Ok(receive(&receiver, within)?.is_some())
}
