//! The cluster's secret, and the keys that are made of it.
//!
//! What is proven to whom takes a key of its own, so that nothing said in one place is of use in another.

use hmac::{Hmac, KeyInit, Mac};
use millstream_network::remote::handshake::{HandshakeError, Secret};
use sha2::Sha256;
use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The variable of the environment that holds a secret, where there is no file for it.
pub const SECRET_VARIABLE: &str = "MILLSTREAM_SECRET";

const SECRET_BYTES_MAX: u64 = 4096;
const SECRET_BYTES_MIN: usize = 16;

/// Why a secret cannot be used, or is missing.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("the secret file {} cannot be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error(
        "the secret file {} can be read by others (mode {mode:03o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("the secret file {} belongs to another user; make it your own", path.display())]
    Owner {
        /// Which.
        path: PathBuf,
    },
    /// It is no secret.
    #[error(
        "the cluster's secret has {bytes} bytes; give it 16 to 4096, at random, for example by: \
         openssl rand -hex 32"
    )]
    Length {
        /// How many bytes it has.
        bytes: usize,
    },
    /// An address can be reached by others and there is no secret.
    #[error(
        "{address} can be reached from other hosts, which takes a secret; write one to a file that \
         only you can read (openssl rand -hex 32 > FILE; chmod 600 FILE), give it to all processes \
         of the cluster with --secret-file FILE, or use an address of the loopback interface"
    )]
    Missing {
        /// The address.
        address: IpAddr,
    },
}

/// The cluster's secret. It is not shown by `Debug`.
#[derive(Clone)]
pub struct ClusterSecret(Vec<u8>);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

impl ClusterSecret {
    /// Reads a file that only its owner can read. White space around the secret is no part of it.
    ///
    /// # Errors
    /// If it cannot be read, others can read it, or it is too short.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let io = |source| SecretError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Open { path: path.to_owned(), mode });
        }
        let user = rustix::process::geteuid().as_raw();
        if user != 0 && about.uid() != user {
            return Err(SecretError::Owner { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
        Self::new(&bytes)
    }

    /// A secret of these bytes, without the white space around them.
    ///
    /// # Errors
    /// If they are too few, which can be guessed, or too many.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        let bytes = bytes.trim_ascii();
        if bytes.len() < SECRET_BYTES_MIN || bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(SecretError::Length { bytes: bytes.len() });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// From a file if there is one, else from the environment; none if neither is given.
    ///
    /// # Errors
    /// If what is given does not work.
    pub fn find(file: Option<&Path>) -> Result<Option<Self>, SecretError> {
        match (file, std::env::var_os(SECRET_VARIABLE)) {
            (Some(path), _) => Self::read(path).map(Some),
            (None, Some(text)) => Self::new(text.as_encoded_bytes()).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The key of the handshake between workers and the coordinator.
    pub fn control_key(&self) -> Result<Secret, HandshakeError> {
        Secret::new(&self.derive("millstream control", ""))
    }

    /// The token that clients send.
    pub fn token(&self) -> Token {
        Token(self.derive("millstream rest", ""))
    }

    /// What the members of a job prove to each other, as text for a file. Who has it can speak for that
    /// job and for nothing else.
    pub fn job_secret(&self, job: &str) -> String {
        hex(&self.derive("millstream job", job))
    }

    fn derive(&self, purpose: &str, of: &str) -> [u8; 32] {
        let mut mac = keyed(&self.0);
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(of.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// HMAC takes a key of any length.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    match Hmac::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length"),
    }
}

/// What clients send to prove that they know the secret. It is not shown by `Debug`.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The value of the header `Authorization`.
    pub fn header(&self) -> String {
        format!("Bearer {}", hex(&self.0))
    }

    /// Whether the header has this value. Takes as long wherever they differ.
    pub fn matches(&self, header: &[u8]) -> bool {
        // Two checks of texts under a key are equal if the texts are; `verify` takes constant time.
        let mut expected = keyed(&self.0);
        expected.update(header);
        let mut own = keyed(&self.0);
        own.update(self.header().as_bytes());
        expected.verify(&own.finalize().into_bytes()).is_ok()
    }
}

/// Checks that an address may be listened on.
///
/// # Errors
/// If other hosts can reach it, and there is no secret.
pub fn check_address(address: IpAddr, secret: Option<&ClusterSecret>) -> Result<(), SecretError> {
    if address.is_loopback() || secret.is_some() {
        Ok(())
    } else {
        Err(SecretError::Missing { address })
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> ClusterSecret {
        ClusterSecret::new(b"a secret of the cluster\n").unwrap()
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "a secret of the cluster\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o640);
        let error = ClusterSecret::read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
        mode(0o600);
        let read = ClusterSecret::read(&path).unwrap();
        assert_eq!(read.token().header(), secret().token().header(), "without the line's end");
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(ClusterSecret::read(&path), Err(SecretError::Length { bytes: 5 })));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let shown = format!("{:?} {:?}", secret(), secret().token());
        assert_eq!(shown, "ClusterSecret(..) Token(..)");
    }

    #[test]
    fn a_token_matches_itself_alone() {
        let token = secret().token();
        assert!(token.matches(token.header().as_bytes()));
        let other = ClusterSecret::new(b"another secret of 23 bytes").unwrap().token();
        assert!(!token.matches(other.header().as_bytes()));
        assert!(!token.matches(b"Bearer "));
        assert!(!token.matches(b""));
    }

    #[test]
    fn each_job_has_a_secret_of_its_own() {
        let secret = secret();
        assert_ne!(secret.job_secret("a"), secret.job_secret("b"));
        assert_eq!(secret.job_secret("a").len(), 64);
    }

    #[test]
    fn without_a_secret_only_loopback_is_allowed() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(check_address(address("127.0.0.1"), None).is_ok());
        assert!(check_address(address("::1"), None).is_ok());
        assert!(check_address(address("0.0.0.0"), Some(&secret())).is_ok());
        let error = check_address(address("10.0.0.1"), None).unwrap_err().to_string();
        assert!(error.starts_with("10.0.0.1 can be reached from other hosts"), "{error}");
        assert!(error.contains("--secret-file"), "{error}");
    }
}
