//! Whoever does not know a secret, and what is answered to him.

use anyhow::{Context, Result, ensure};
use millstream_hosts::Host;
use millstream_network::remote::handshake::{Connecting, Nonce, Purpose, Secret};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anybody is listened to who says nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the handshake: `docs/formats/frames.md`.
const GREETING_BEGIN: &[u8] = b"MSH\x01\0\0\0\0";
const GREETING_BYTES: usize = 40;
const HELLO_BYTES: usize = 64;
const NOISE_BYTES_MAX: usize = 4_096;

/// Somebody on a host who does not know a secret.
#[derive(Debug)]
pub struct Stranger<'a> {
    host: &'a Host,
    rng: SmallRng,
}

impl<'a> Stranger<'a> {
    /// On this host. The seed decides what he says.
    pub fn new(host: &'a Host, seed: u64) -> Self {
        Self { host, rng: SmallRng::seed_from_u64(seed) }
    }

    /// What decides what he says.
    pub fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }

    /// Connects, and says nothing.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let stream = self.host.within(|| TcpStream::connect(address))??;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(stream)
    }

    /// Sends bytes and no more; what is answered until the other side ends the connection.
    ///
    /// # Errors
    /// If nobody listens there, or the connection is not ended.
    pub fn send(&self, address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.connect(address)?;
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        answer(stream)
    }

    /// Sends bytes to where a handshake is expected. Nothing may be answered, but for the challenge to what
    /// happens to be a greeting.
    ///
    /// # Errors
    /// If there is another answer.
    pub fn send_to_gate(&self, address: SocketAddr, bytes: &[u8]) -> Result<()> {
        let answer = self.send(address, bytes)?;
        let is_challenge = answer.len() == GREETING_BYTES && answer.starts_with(GREETING_BEGIN);
        ensure!(
            answer.is_empty() || (is_challenge && bytes.starts_with(GREETING_BEGIN)),
            "{} bytes were answered to a stranger",
            answer.len()
        );
        Ok(())
    }

    /// Tries another secret; there may be a challenge, and nothing behind it.
    ///
    /// # Errors
    /// If there is another answer.
    pub fn prove_wrongly(&self, address: SocketAddr) -> Result<()> {
        let secret = Secret::new(b"a guess that is long enough")?;
        let (connecting, greeting) =
            Connecting::begin(&secret, Purpose::Exchange, Nonce::random()?);
        let mut stream = self.connect(address)?;
        stream.write_all(&greeting)?;
        let mut challenge = [0; GREETING_BYTES];
        stream.read_exact(&mut challenge)?;
        let (_, proof) = connecting.challenged(&challenge)?;
        stream.write_all(&proof)?;
        let answer = answer(stream)?;
        ensure!(answer.is_empty(), "{} bytes were answered to a wrong secret", answer.len());
        Ok(())
    }

    /// Any bytes.
    pub fn noise(&mut self) -> Vec<u8> {
        let mut noise = vec![0; self.rng.gen_range(1..NOISE_BYTES_MAX)];
        self.rng.fill_bytes(&mut noise);
        noise
    }

    /// The first thing that comes in a handshake.
    pub fn greeting(&mut self) -> Vec<u8> {
        let mut greeting = [0; GREETING_BYTES];
        greeting[..GREETING_BEGIN.len()].copy_from_slice(GREETING_BEGIN);
        self.rng.fill_bytes(&mut greeting[GREETING_BEGIN.len()..]);
        greeting.to_vec()
    }

    /// The first thing that members of a job say to each other, without the proofs before it.
    pub fn hello(&mut self) -> Vec<u8> {
        let mut hello = [0; HELLO_BYTES];
        self.rng.fill_bytes(&mut hello[8..40]);
        hello[..4].copy_from_slice(b"MSJ\x01");
        hello[4] = self.rng.gen_range(1..5);
        hello[40] = self.rng.gen_range(0..3);
        hello.to_vec()
    }

    /// Damages what makes sense, in a few places.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.rng.gen_range(1..4) {
            let at = self.rng.gen_range(0..bytes.len());
            match self.rng.gen_range(0..4) {
                0 => bytes[at] = self.rng.r#gen(),
                1 => bytes.truncate(at + 1),
                2 => {
                    let noise = self.noise();
                    bytes.splice(at..at, noise);
                }
                _ => bytes.extend_from_within(at..),
            }
        }
    }
}

/// What is answered until the other side ends the connection.
fn answer(mut stream: TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        // It did not want to hear all of it.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(answer),
        Err(error) => Err(error).context("a stranger is still connected"),
    }
}
