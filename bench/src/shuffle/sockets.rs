//! Plain sockets, as fast as they go.

use super::{LinkFigures, Told};
use crate::BenchError;
use crate::process::tell;
use crate::two_hosts::{CountingTime, Place, wait_for_the_end};
use std::io::{self, Read, Write};
use std::time::Duration;

/// Of a call.
const BYTES: usize = 128 << 10;

/// Sends and receives at once, and tells what has arrived. It ends when it is killed.
pub(super) fn exchange(place: &Place, duration: Duration) -> Result<(), BenchError> {
    let mut stream = place.connect()?;
    let (from, mut into) = (vec![7; BYTES], vec![0; BYTES]);
    let mut received = 0;
    let mut time = CountingTime::start(duration);
    while time.lasts(received) {
        count(stream.write(&from))?;
        received += count(stream.read(&mut into))?;
    }
    tell(&Told { bytes_per_second: time.per_second(), links: LinkFigures::default() })?;
    wait_for_the_end()
}

/// How far it went, if only to nothing for now.
fn count(done: io::Result<usize>) -> Result<u64, BenchError> {
    match done {
        Ok(bytes) => Ok(bytes as u64),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(BenchError::Different(format!("a socket has failed: {error}"))),
    }
}
