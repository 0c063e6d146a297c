//! Ping-pong by sockets that spin.

use super::Recorder;
use crate::BenchError;
use crate::latency::Percentiles;
use crate::two_hosts::Place;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const BYTES: usize = 64;

/// The first process's figures; the second plays until the first has gone.
pub(super) fn play(place: &Place, duration: Duration) -> Result<Option<Percentiles>, BenchError> {
    let mut stream = place.connect()?;
    let failed = |error| BenchError::Different(format!("a socket has failed: {error}"));
    if place.member > 0 {
        loop {
            match pass(&mut stream, false).map_err(failed)? {
                true => pass(&mut stream, true).map_err(failed)?,
                false => return Ok(None),
            };
        }
    }
    let mut recorder = Recorder::start(duration);
    loop {
        let sent = Instant::now();
        pass(&mut stream, true).map_err(failed)?;
        if !pass(&mut stream, false).map_err(failed)? {
            return Err(BenchError::Different("the other process has ended".to_owned()));
        }
        if !recorder.record(sent) {
            return Ok(Some(recorder.percentiles()));
        }
    }
}

/// Sends or receives all of it; false at the end.
fn pass(stream: &mut TcpStream, send: bool) -> io::Result<bool> {
    let (mut buffer, mut done) = ([7; BYTES], 0);
    while done < BYTES {
        let step = match send {
            true => stream.write(&buffer[done..]),
            false => stream.read(&mut buffer[done..]),
        };
        match step {
            Ok(0) => return Ok(false),
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
