//! Who may open a connection: `docs/formats/frames.md`.
//!
//! Both ends prove that they know the cluster's secret, each to a challenge of the other's, and for what
//! the connection is meant (ISO/IEC 9798-4, mutual authentication with keyed checks; HMAC, RFC 2104, of
//! SHA-256). All messages have a fixed length, so nothing a stranger sends is parsed: it is compared.
//!
//! It keeps strangers out. It does not keep what follows secret, nor from being changed by who sits in
//! between: that takes TLS.
//!
//! # Invariants
//! - The one who is connected to proves nothing before the other has.
//! - A proof is good for one connection, one end of it, and one purpose.
//! - Proofs are compared in constant time.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use thiserror::Error;

/// Bytes of the first message of either end.
pub const GREETING_BYTES: usize = 40;
/// Bytes of the second.
pub const PROOF_BYTES: usize = 32;
/// The version that is spoken.
pub const VERSION: u8 = 1;

const MAGIC: [u8; 3] = *b"MSH";
const NONCE_BYTES: usize = 32;
/// A secret has at least so many bytes.
const SECRET_BYTES_MIN: usize = 16;

/// The first message of either end.
pub type Greeting = [u8; GREETING_BYTES];
/// The second message of either end.
pub type Proof = [u8; PROOF_BYTES];

/// What all processes of a cluster know and nobody else does. It is not shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl Secret {
    /// A secret of these bytes.
    ///
    /// # Errors
    /// If they are fewer than 16, which can be guessed.
    pub fn new(bytes: &[u8]) -> Result<Self, HandshakeError> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(HandshakeError::ShortSecret { bytes: bytes.len() });
        }
        // HMAC takes a key of any length.
        let keyed = Hmac::new_from_slice(bytes);
        keyed.map(Self).map_err(|_| HandshakeError::ShortSecret { bytes: bytes.len() })
    }

    /// What proves that an end knows the secret, not yet finished.
    fn proof(
        &self,
        end: &[u8],
        purpose: Purpose,
        hello: &Greeting,
        challenge: &Greeting,
    ) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // All parts have a fixed length, so that no two lists of parts give the same bytes.
        mac.update(end);
        mac.update(&[purpose.code()]);
        mac.update(hello);
        mac.update(challenge);
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Batches between task slots.
    Exchange,
    /// Files of checkpoints to other hosts.
    Replication,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Exchange => 1,
            Self::Replication => 2,
        }
    }
}

/// A number that is used once.
#[derive(Clone, Copy)]
pub struct Nonce([u8; NONCE_BYTES]);

impl Nonce {
    /// From the system's source of randomness.
    ///
    /// # Errors
    /// If the system has none.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; NONCE_BYTES];
        let mut filled = 0;
        while filled < NONCE_BYTES {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
        }
        Ok(Self(bytes))
    }

    /// One that is made up: for tests and the simulation, where everything follows from a seed.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn greeting(self) -> Greeting {
        let mut greeting = [0; GREETING_BYTES];
        greeting[..3].copy_from_slice(&MAGIC);
        greeting[3] = VERSION;
        greeting[GREETING_BYTES - NONCE_BYTES..].copy_from_slice(&self.0);
        greeting
    }
}

fn check(greeting: &Greeting) -> Result<(), HandshakeError> {
    if greeting[..3] != MAGIC {
        return Err(HandshakeError::NoGreeting);
    }
    if greeting[3] != VERSION {
        return Err(HandshakeError::Version { found: greeting[3], known: VERSION });
    }
    if greeting[4..GREETING_BYTES - NONCE_BYTES] != [0; 4] {
        return Err(HandshakeError::NoGreeting);
    }
    Ok(())
}

/// The end that has connected, after its greeting.
#[derive(Debug)]
pub struct Connecting<'a> {
    secret: &'a Secret,
    purpose: Purpose,
    hello: Greeting,
}

impl<'a> Connecting<'a> {
    /// Begins; what is returned is to be sent.
    pub fn begin(secret: &'a Secret, purpose: Purpose, nonce: Nonce) -> (Self, Greeting) {
        let hello = nonce.greeting();
        (Self { secret, purpose, hello }, hello)
    }

    /// The other end has answered with its challenge; what is returned is to be sent.
    ///
    /// # Errors
    /// If it is none, or one of another version.
    pub fn challenged(
        self,
        challenge: &Greeting,
    ) -> Result<(AwaitingProof<'a>, Proof), HandshakeError> {
        check(challenge)?;
        let Self { secret, purpose, hello } = self;
        let proof = secret.proof(CONNECTING, purpose, &hello, challenge);
        let proof = proof.finalize().into_bytes().into();
        Ok((AwaitingProof { secret, purpose, hello, challenge: *challenge }, proof))
    }
}

/// The end that has connected, after its proof.
#[derive(Debug)]
pub struct AwaitingProof<'a> {
    secret: &'a Secret,
    purpose: Purpose,
    hello: Greeting,
    challenge: Greeting,
}

impl AwaitingProof<'_> {
    /// The other end has proven itself: the connection may be used.
    ///
    /// # Errors
    /// If it has not: the connection must be closed.
    pub fn proven(self, proof: &Proof) -> Result<(), HandshakeError> {
        let Self { secret, purpose, hello, challenge } = self;
        let expected = secret.proof(ACCEPTING, purpose, &hello, &challenge);
        expected.verify_slice(proof).map_err(|_| HandshakeError::Unproven)
    }
}

/// The end that was connected to, after its challenge.
#[derive(Debug)]
pub struct Accepting<'a> {
    secret: &'a Secret,
    purpose: Purpose,
    hello: Greeting,
    challenge: Greeting,
}

impl<'a> Accepting<'a> {
    /// Somebody has connected, and greeted; what is returned is to be sent.
    ///
    /// # Errors
    /// If it is no greeting, or one of another version: the connection must be closed.
    pub fn greeted(
        secret: &'a Secret,
        purpose: Purpose,
        nonce: Nonce,
        hello: &Greeting,
    ) -> Result<(Self, Greeting), HandshakeError> {
        check(hello)?;
        let challenge = nonce.greeting();
        Ok((Self { secret, purpose, hello: *hello, challenge }, challenge))
    }

    /// The one who has connected has proven himself; what is returned is to be sent, and then the
    /// connection may be used.
    ///
    /// # Errors
    /// If he has not: the connection must be closed.
    pub fn proven(self, proof: &Proof) -> Result<Proof, HandshakeError> {
        let Self { secret, purpose, hello, challenge } = self;
        let expected = secret.proof(CONNECTING, purpose, &hello, &challenge);
        expected.verify_slice(proof).map_err(|_| HandshakeError::Unproven)?;
        let own = secret.proof(ACCEPTING, purpose, &hello, &challenge);
        Ok(own.finalize().into_bytes().into())
    }
}

/// Who proves.
const CONNECTING: &[u8] = b"millstream connects";
const ACCEPTING: &[u8] = b"millstream accepts!";

/// Why a peer is not let in, or this process could not try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// It does not begin as a connection of a cluster does.
    #[error("what was received is no greeting; is the peer a process of this cluster?")]
    NoGreeting,
    /// The peer speaks another version.
    #[error("the peer speaks version {found}, this program {known}; run one version everywhere")]
    Version {
        /// The peer's.
        found: u8,
        /// The one that is known.
        known: u8,
    },
    /// The proof is wrong.
    #[error("the peer does not know the cluster's secret; give all processes the same one")]
    Unproven,
    /// The secret can be guessed.
    #[error(
        "the cluster's secret has {bytes} bytes; give it {SECRET_BYTES_MIN} at least, at random"
    )]
    ShortSecret {
        /// How many it has.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 32]).unwrap()
    }

    fn nonce(byte: u8) -> Nonce {
        Nonce::from_bytes([byte; 32])
    }

    /// How both ends fare.
    fn meet(
        (connecting, for_purpose): (&Secret, Purpose),
        (accepting, of_purpose): (&Secret, Purpose),
    ) -> Result<(), HandshakeError> {
        let (client, hello) = Connecting::begin(connecting, for_purpose, nonce(1));
        let (server, challenge) = Accepting::greeted(accepting, of_purpose, nonce(2), &hello)?;
        let (client, proof) = client.challenged(&challenge)?;
        client.proven(&server.proven(&proof)?)
    }

    #[test]
    fn those_with_the_same_secret_and_purpose_meet() {
        let (one, other) = (secret(1), secret(2));
        let (exchange, replication) = (Purpose::Exchange, Purpose::Replication);
        let unproven = Err(HandshakeError::Unproven);
        assert_eq!(meet((&one, exchange), (&one, exchange)), Ok(()));
        assert_eq!(meet((&one, exchange), (&other, exchange)), unproven);
        assert_eq!(meet((&one, exchange), (&one, replication)), unproven);
    }

    #[test]
    fn a_proof_is_good_for_one_connection_and_one_end() {
        let secret = secret(7);
        let (client, hello) = Connecting::begin(&secret, Purpose::Exchange, nonce(1));
        let accept = |byte| Accepting::greeted(&secret, Purpose::Exchange, nonce(byte), &hello);
        let (server, challenge) = accept(2).unwrap();
        let (client, proof) = client.challenged(&challenge).unwrap();
        // What was overheard does not answer another challenge.
        let (later, _) = accept(3).unwrap();
        assert_eq!(later.proven(&proof), Err(HandshakeError::Unproven));
        // Nor does what was said come back as an answer.
        assert_eq!(client.proven(&proof), Err(HandshakeError::Unproven));
        assert!(server.proven(&proof).is_ok());
    }

    #[test]
    fn a_forged_proof_is_found_out_at_either_end() {
        let secret = secret(7);
        for bit in 0..PROOF_BYTES * 8 {
            let forge = |mut proof: Proof| {
                proof[bit / 8] ^= 1 << (bit % 8);
                proof
            };
            let begin = || {
                let (client, hello) = Connecting::begin(&secret, Purpose::Exchange, nonce(1));
                let (server, challenge) =
                    Accepting::greeted(&secret, Purpose::Exchange, nonce(2), &hello).unwrap();
                let (client, proof) = client.challenged(&challenge).unwrap();
                (client, server, proof)
            };
            let (_, server, proof) = begin();
            assert_eq!(server.proven(&forge(proof)), Err(HandshakeError::Unproven));
            let (client, server, proof) = begin();
            let own = server.proven(&proof).unwrap();
            assert_eq!(client.proven(&forge(own)), Err(HandshakeError::Unproven));
        }
    }

    #[test]
    fn secrets_are_long_and_not_shown() {
        let short = Secret::new(b"guess me").err();
        assert_eq!(short, Some(HandshakeError::ShortSecret { bytes: 8 }));
        let shown = format!("{:?}", Secret::new(b"a secret of the cluster").unwrap());
        assert_eq!(shown, "Secret(..)");
    }

    #[test]
    fn nonces_differ() {
        let (one, other) = (Nonce::random().unwrap(), Nonce::random().unwrap());
        assert_ne!(one.greeting(), other.greeting());
        assert_ne!(one.0, [0; 32]);
    }

    proptest! {
        #[test]
        fn strangers_are_refused(hello: [u8; GREETING_BYTES], proof: [u8; PROOF_BYTES]) {
            let secret = secret(7);
            let mut greeting = nonce(1).greeting();
            let greeted = Accepting::greeted(&secret, Purpose::Exchange, nonce(2), &hello);
            prop_assert!(greeted.is_err());
            // With a greeting that is right.
            greeting[8..].copy_from_slice(&hello[8..]);
            let (server, _) =
                Accepting::greeted(&secret, Purpose::Exchange, nonce(2), &greeting).unwrap();
            prop_assert_eq!(server.proven(&proof), Err(HandshakeError::Unproven));
        }
    }
}
