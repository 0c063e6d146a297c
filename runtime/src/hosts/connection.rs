//! A connection between two members, until both know that they mean the same.
//!
//! After the handshake by which both prove that they know the secret, the one who has connected says
//! [hello](Hello), in a fixed number of bytes, and the other answers with a [verdict](Verdict).

use super::LOOK_INTERVAL;
use millstream_network::remote::handshake::{
    Accepting, Connecting, HandshakeError, Nonce, Purpose as Proven, Secret,
};
use millstream_types::hash_key;
use rustix::net::sockopt;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const MAGIC: [u8; 4] = *b"MSJ\x01";
pub(super) const HELLO_BYTES: usize = 64;
const VERDICT_BYTES: usize = 8;
/// How long a stranger may take to show who he is.
const INTRODUCTION_MAX: Duration = Duration::from_secs(5);
/// How long a slot may not read what another has sent. To the system one that is busy with a long
/// operation looks like a host that is gone, if its buffers are full; the links between members tell of that
/// sooner.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// From one try to connect to the next.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a process says of itself, and expects of others.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    job: u64,
    pub(super) generation: u64,
    fingerprint: u64,
    secret: Option<Secret>,
}

impl Identity {
    /// Of another deployment of the same job.
    pub(super) fn of_generation(&self, generation: u64) -> Self {
        Self { generation, ..self.clone() }
    }

    pub(super) fn new(
        job: &str,
        generation: u64,
        fingerprint: u64,
        secret: Option<Secret>,
    ) -> Self {
        Self { job: hash_key(job), generation, fingerprint, secret }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Orders and reports of a member.
    Control { member: u32 },
    /// What two slots have to say to each other.
    Slot { attempt: u64, from: u32, to: u32 },
    /// Files of checkpoints, as a member wants them.
    Files { member: u32 },
    /// Signs of life of a member, for another that does not control the job either.
    Peer { attempt: u64, member: u32 },
}

impl Purpose {
    /// The attempt that it belongs to.
    pub(super) fn attempt(&self) -> Option<u64> {
        match *self {
            Self::Slot { attempt, .. } | Self::Peer { attempt, .. } => Some(attempt),
            Self::Control { .. } | Self::Files { .. } => None,
        }
    }
}

/// The first thing that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    job: u64,
    generation: u64,
    fingerprint: u64,
    pub(super) purpose: Purpose,
}

impl Hello {
    pub(super) fn new(identity: &Identity, purpose: Purpose) -> Self {
        let Identity { job, generation, fingerprint, .. } = *identity;
        Self { job, generation, fingerprint, purpose }
    }

    pub(super) fn encode(&self) -> [u8; HELLO_BYTES] {
        let (kind, attempt, from, to) = match self.purpose {
            Purpose::Control { member } => (1, 0, member, 0),
            Purpose::Slot { attempt, from, to } => (2, attempt, from, to),
            Purpose::Files { member } => (3, 0, member, 0),
            Purpose::Peer { attempt, member } => (4, attempt, member, 0),
        };
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        for (at, number) in
            [self.job, self.generation, self.fingerprint, attempt].iter().enumerate()
        {
            bytes[8 + 8 * at..16 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&from.to_le_bytes());
        bytes[44..48].copy_from_slice(&to.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let (attempt, from, to) = (u64_at(32), u32_at(40), u32_at(44));
        let purpose = match bytes[4] {
            1 => Purpose::Control { member: from },
            2 => Purpose::Slot { attempt, from, to },
            3 => Purpose::Files { member: from },
            4 => Purpose::Peer { attempt, member: from },
            _ => return None,
        };
        (bytes[..4] == MAGIC).then_some(Self {
            job: u64_at(8),
            generation: u64_at(16),
            fingerprint: u64_at(24),
            purpose,
        })
    }

    /// What the one who was connected to thinks of it.
    fn judge(&self, own: &Identity) -> Verdict {
        if self.job != own.job {
            Verdict::OtherJob
        } else if self.generation != own.generation {
            Verdict::OtherGeneration
        } else if self.fingerprint != own.fingerprint {
            Verdict::OtherGraph
        } else {
            Verdict::Welcome
        }
    }
}

/// The answer to a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Welcome,
    OtherJob,
    OtherGeneration,
    OtherGraph,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Welcome, Self::OtherJob, Self::OtherGeneration, Self::OtherGraph];

    fn encode(self) -> [u8; VERDICT_BYTES] {
        let code = Self::ALL.iter().position(|one| *one == self).unwrap_or_default();
        [b'M', b'S', b'J', b'V', code as u8, 0, 0, 0]
    }

    fn decode(bytes: &[u8; VERDICT_BYTES]) -> Option<Self> {
        let found = Self::ALL.get(usize::from(bytes[4])).copied();
        found.filter(|verdict| verdict.encode() == *bytes)
    }
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("it belongs to another job; give each job ports of its own")]
    OtherJob,
    #[error("it follows another deployment of the job")]
    OtherGeneration,
    #[error(
        "its job has other operators, or another number of slots; run the same executable with the same flags on all hosts"
    )]
    OtherGraph,
    #[error(
        "whoever listens there is no member of a job, or knows no secret where this host has one, or the other way round"
    )]
    Stranger,
}

impl ConnectError {
    /// True if it may be otherwise in a moment.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Io(_) | Self::OtherGeneration)
    }
}

/// Connects, again and again until the deadline if nobody is there yet, as long as `goes_on`.
pub(super) fn dial(
    address: SocketAddr,
    identity: &Identity,
    hello: &Hello,
    deadline: Instant,
    goes_on: &dyn Fn() -> bool,
) -> Result<TcpStream, ConnectError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(RETRY_PAUSE);
        match dial_once(address, identity, hello, left.min(INTRODUCTION_MAX), goes_on) {
            Err(error)
                if error.may_pass() && goes_on() && Instant::now() + RETRY_PAUSE < deadline =>
            {
                std::thread::park_timeout(RETRY_PAUSE);
            }
            result => return result,
        }
    }
}

fn dial_once(
    address: SocketAddr,
    identity: &Identity,
    hello: &Hello,
    timeout: Duration,
    goes_on: &dyn Fn() -> bool,
) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + timeout;
    let mut stream = connect(address, deadline, goes_on)?;
    set_up(&stream, timeout)?;
    if let Some(secret) = &identity.secret {
        let (connecting, greeting) = Connecting::begin(secret, Proven::Exchange, Nonce::random()?);
        stream.write_all(&greeting)?;
        let (awaiting, proof) = connecting.challenged(&receive(&mut stream, deadline)?)?;
        stream.write_all(&proof)?;
        awaiting.proven(&receive(&mut stream, deadline)?)?;
    }
    stream.write_all(&hello.encode())?;
    match Verdict::decode(&receive(&mut stream, deadline)?) {
        Some(Verdict::Welcome) => {}
        Some(Verdict::OtherJob) => return Err(ConnectError::OtherJob),
        Some(Verdict::OtherGeneration) => return Err(ConnectError::OtherGeneration),
        Some(Verdict::OtherGraph) => return Err(ConnectError::OtherGraph),
        None => return Err(ConnectError::Stranger),
    }
    settle(&stream, hello.purpose)?;
    Ok(stream)
}

/// Connects as long as it `goes_on`: a host that is gone does not even refuse.
fn connect(
    address: SocketAddr,
    deadline: Instant,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<TcpStream> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(LOOK_INTERVAL);
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) if left.is_zero() || !goes_on() => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break sockopt::socket_error(&socket)??,
                Err(error) => return Err(error.into()),
            }
        },
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Lets somebody in who has connected; `None` if it is a stranger or means another job.
pub(super) fn admit(
    stream: TcpStream,
    identity: &Identity,
) -> io::Result<Option<(Hello, TcpStream)>> {
    admit_within(INTRODUCTION_MAX, stream, identity)
}

fn admit_within(
    timeout: Duration,
    mut stream: TcpStream,
    identity: &Identity,
) -> io::Result<Option<(Hello, TcpStream)>> {
    let deadline = Instant::now() + timeout;
    set_up(&stream, timeout)?;
    if let Some(secret) = &identity.secret {
        let greeting = receive(&mut stream, deadline)?;
        let greeted = Accepting::greeted(secret, Proven::Exchange, Nonce::random()?, &greeting);
        let Ok((accepting, challenge)) = greeted else { return Ok(None) };
        stream.write_all(&challenge)?;
        let Ok(proof) = accepting.proven(&receive(&mut stream, deadline)?) else { return Ok(None) };
        stream.write_all(&proof)?;
    }
    let Some(hello) = Hello::decode(&receive(&mut stream, deadline)?) else { return Ok(None) };
    let verdict = hello.judge(identity);
    stream.write_all(&verdict.encode())?;
    if verdict != Verdict::Welcome {
        tracing::debug!("a connection was refused: {verdict:?}");
        return Ok(None);
    }
    settle(&stream, hello.purpose)?;
    Ok(Some((hello, stream)))
}

/// All of it until the deadline: who says one byte now and then takes up a place for no longer than others.
fn receive<const N: usize>(stream: &mut TcpStream, deadline: Instant) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// For the introduction.
fn set_up(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(timeout))
}

/// For what comes after it. A host that is gone is noticed even if nothing is sent to it, and what was
/// sent and is not confirmed does not wait for minutes.
fn settle(stream: &TcpStream, purpose: Purpose) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    let timeout = match purpose {
        Purpose::Control { .. } | Purpose::Files { .. } | Purpose::Peer { .. } => {
            super::SILENCE_MAX
        }
        Purpose::Slot { .. } => UNREAD_MAX,
    };
    Ok(sockopt::set_tcp_user_timeout(stream, timeout.as_millis() as u32)?)
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control { member } => write!(f, "control of member {member}"),
            Self::Slot { attempt, from, to } => {
                write!(f, "slot {from} to slot {to}, attempt {attempt}")
            }
            Self::Files { member } => write!(f, "files for member {member}"),
            Self::Peer { attempt, member } => {
                write!(f, "signs of life of member {member}, attempt {attempt}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    fn identity(secret: Option<&[u8]>) -> Identity {
        let secret = secret.map(|bytes| Secret::new(bytes).unwrap());
        Identity::new("job", 3, 17, secret)
    }

    #[test]
    fn a_slot_that_does_not_read_for_a_while_is_not_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        settle(&sender, Purpose::Slot { attempt: 1, from: 2, to: 3 }).unwrap();
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(bytes) = sender.write(&[0; 65_536]) {
            sent += bytes;
        }
        // An error would end the wait, and nothing else.
        sender.set_nonblocking(false).unwrap();
        sender.set_read_timeout(Some(super::super::SILENCE_MAX + Duration::from_secs(2))).unwrap();
        let error = sender.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        drop(sender);
        assert_eq!(receiver.read_to_end(&mut Vec::new()).unwrap(), sent);
    }

    proptest! {
        #[test]
        fn a_hello_is_what_it_was(attempt: u64, from: u32, to: u32) {
            let slot = Purpose::Slot { attempt, from, to };
            let peer = Purpose::Peer { attempt, member: from };
            let files = Purpose::Files { member: from };
            for purpose in [Purpose::Control { member: from }, slot, files, peer] {
                let hello = Hello::new(&identity(None), purpose);
                prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
            }
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: [u8; HELLO_BYTES], verdict: [u8; VERDICT_BYTES]) {
            let _ = Hello::decode(&bytes);
            let _ = Verdict::decode(&verdict);
        }
    }

    /// How the two get along.
    fn meet(there: &Identity, here: &Identity) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let purpose = Purpose::Slot { attempt: 1, from: 2, to: 3 };
        std::thread::scope(|scope| {
            let admitted = scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                admit(stream, there)
            });
            let dialed =
                dial_once(address, here, &Hello::new(here, purpose), INTRODUCTION_MAX, &|| true);
            let result = dialed.map(drop).map_err(|error| error.to_string());
            let admitted = admitted.join().unwrap();
            assert_eq!(matches!(admitted, Ok(Some(_))), result.is_ok());
            if let Ok(Some((hello, _))) = admitted {
                assert_eq!(hello.purpose, purpose);
            }
            result
        })
    }

    #[test]
    fn whoever_speaks_too_slowly_is_not_listened_to_for_longer_than_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let admitted = std::thread::spawn(move || {
            admit_within(Duration::from_millis(200), stream, &identity(None))
        });
        // A byte each time that it might think of giving up. The hello is longer than it may last.
        let purpose = Purpose::Control { member: 1 };
        for byte in Hello::new(&identity(None), purpose).encode() {
            if admitted.is_finished() || slow.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        admitted.join().unwrap().unwrap_err();
    }

    #[test]
    fn only_those_who_mean_the_same_job_and_know_the_secret_meet() {
        let secret: &[u8] = b"sixteen bytes or more";
        meet(&identity(None), &identity(None)).unwrap();
        meet(&identity(Some(secret)), &identity(Some(secret))).unwrap();
        let other: &[u8] = b"another secret of some length";
        for (there, here) in [(Some(secret), Some(other)), (None, Some(secret))] {
            meet(&identity(there), &identity(here)).unwrap_err();
        }
        let with = |change: fn(&mut Identity)| {
            let mut other = identity(Some(secret));
            change(&mut other);
            meet(&identity(Some(secret)), &other).unwrap_err()
        };
        assert!(with(|other| other.job += 1).contains("another job"));
        assert!(with(|other| other.generation -= 1).contains("another deployment"));
        assert!(with(|other| other.fingerprint += 1).contains("same executable"));
    }
}
