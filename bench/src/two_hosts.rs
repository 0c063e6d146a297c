//! Two hosts on this machine, with one process of this program on each, which keeps to a core of its own.
//!
//! Hosts are network namespaces that a bridge joins, as `millstream-hosts` makes them.

use crate::process::Teller;
use crate::scratch::ScratchFolder;
use crate::{BenchError, Format, files, host};
use millstream_hosts::Hosts;
use millstream_tuning::pin_current_thread;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Where the first process waits for the second.
const PORT: u16 = 7801;
/// How long the processes wait for each other.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How two sides are compared.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program.
    pub ours: PathBuf,
    /// Its arguments, with which it is started again on the hosts.
    pub arguments: Vec<OsString>,
    /// How often each side has its turn.
    pub pairs: u32,
    /// How long a turn is measured.
    pub duration: Duration,
    /// How figures are written.
    pub format: Format,
}

/// What the processes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// They do without what is measured.
    Plain,
    /// They do what is measured.
    Ours,
}

impl FromStr for Side {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "plain" => Ok(Self::Plain),
            "ours" => Ok(Self::Ours),
            _ => Err("a side is plain or ours".to_owned()),
        }
    }
}

/// What a process is told about its place, by arguments that people need not see.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which of the two it is.
    pub member: usize,
    /// Where the first one is reached.
    pub first: SocketAddr,
    /// For files of its own, which go with the hosts.
    pub folder: PathBuf,
}

impl Place {
    /// Keeps this thread, and those that it starts, to the process's core.
    pub(crate) fn pin(&self) -> Result<(), BenchError> {
        pin_current_thread(host::core(self.member))
            .map_err(|error| BenchError::Usage(error.to_string()))
    }

    /// The connection between the two processes, which never waits.
    pub(crate) fn connect(&self) -> Result<TcpStream, BenchError> {
        let stream = self.meet().map_err(|error| {
            BenchError::Different(format!("the processes do not reach each other: {error}"))
        })?;
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(|error| {
            BenchError::Different(format!("a socket cannot be set up: {error}"))
        })?;
        Ok(stream)
    }

    fn meet(&self) -> std::io::Result<TcpStream> {
        let begun = Instant::now();
        if self.member == 0 {
            let listener = TcpListener::bind(self.first)?;
            listener.set_nonblocking(true)?;
            loop {
                match listener.accept() {
                    Err(_) if begun.elapsed() > CONNECT_MAX => {
                        return Err(std::io::Error::new(
                            ErrorKind::TimedOut,
                            "the other did not come",
                        ));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::yield_now();
                    }
                    accepted => return Ok(accepted?.0),
                }
            }
        }
        loop {
            match TcpStream::connect(self.first) {
                Err(error) if begun.elapsed() > CONNECT_MAX => return Err(error),
                // The first one is about to listen.
                Err(_) => std::thread::yield_now(),
                connected => return connected,
            }
        }
    }
}

/// The hosts, and how processes are started on them.
pub(crate) struct TwoHosts {
    ours: PathBuf,
    arguments: Vec<OsString>,
    scratch: ScratchFolder,
    hosts: Hosts,
}

impl TwoHosts {
    /// Makes the hosts.
    ///
    /// # Errors
    /// If there can be none, as without root.
    pub(crate) fn new(options: &Options) -> Result<Self, BenchError> {
        let hosts = make_hosts(2)?;
        let scratch = ScratchFolder::create(None, "hosts")?;
        let Options { ours, arguments, .. } = options.clone();
        let one = Self { ours, arguments, scratch, hosts };
        let secret = one.scratch.path().join("secret");
        files::write(&secret, "only for as long as it is measured")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).map_err(|source| {
            BenchError::write(&secret.display().to_string(), "restrict it", source)
        })?;
        let mut lines = format!("secret_file = {:?}\n", secret.display().to_string());
        for (number, host) in one.hosts.all().iter().enumerate() {
            let address = SocketAddr::from((host.address(), PORT));
            lines += &format!(
                "[[host]]\nname = \"{}\"\naddress = \"{address}\"\nslots = 1\n",
                name(number)
            );
        }
        files::write(&one.cluster_file(), &lines)?;
        Ok(one)
    }

    /// Where the process of a host has its files.
    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        self.scratch.path().join(name(number))
    }

    fn cluster_file(&self) -> PathBuf {
        self.scratch.path().join("hosts.toml")
    }

    /// Starts a process on each host. They end when they are dropped.
    pub(crate) fn start<T: DeserializeOwned>(
        &self,
        side: Side,
    ) -> Result<[Teller<T>; 2], BenchError> {
        let first = SocketAddr::from((self.hosts.host(0).address(), PORT));
        let start = |number: usize| {
            let mut command = self.hosts.host(number).command(&self.ours);
            let side = match side {
                Side::Plain => "plain",
                Side::Ours => "ours",
            };
            command.args(&self.arguments).args(["--side", side]);
            command.args(["--member", &number.to_string(), "--first", &first.to_string()]);
            command.arg("--folder").arg(self.folder(number));
            command.arg("--cluster").arg(self.cluster_file()).args(["--host", name(number)]);
            Teller::start(command, format!("the process of host {}", name(number)))
        };
        Ok([start(0)?, start(1)?])
    }
}

/// So many hosts.
///
/// # Errors
/// If there can be none here; what to do about it.
pub(crate) fn make_hosts(count: usize) -> Result<Hosts, BenchError> {
    Hosts::available()
        .map_err(|missing| BenchError::Usage(format!("no hosts can be made here: {missing}")))?;
    Hosts::new(count).map_err(|error| BenchError::Different(error.to_string()))
}

fn name(number: usize) -> &'static str {
    ["a", "b"][number]
}

/// For how long something is counted: first nothing is, so that it is under way, and after the end it
/// goes on for a while, as the other process may not be through.
pub(crate) struct CountingTime {
    begin: Instant,
    end: Instant,
    at_begin: Option<(Instant, u64)>,
    at_end: Option<(Instant, u64)>,
}

/// How long nothing is counted, before and after.
const MARGIN: Duration = Duration::from_millis(300);

impl CountingTime {
    pub(crate) fn start(duration: Duration) -> Self {
        let begin = Instant::now() + MARGIN;
        Self { begin, end: begin + duration, at_begin: None, at_end: None }
    }

    /// False when it is over. `count` is what has been counted so far.
    #[inline]
    pub(crate) fn lasts(&mut self, count: u64) -> bool {
        let now = Instant::now();
        if now >= self.begin && self.at_begin.is_none() {
            self.at_begin = Some((now, count));
        }
        if now >= self.end && self.at_end.is_none() {
            self.at_end = Some((now, count));
        }
        now < self.end + MARGIN
    }

    /// The count of a second.
    ///
    /// # Panics
    /// If it lasts.
    pub(crate) fn per_second(&self) -> f64 {
        let (Some((begin, before)), Some((end, after))) = (self.at_begin, self.at_end) else {
            panic!("it is asked for after the end");
        };
        (after - before) as f64 / (end - begin).as_secs_f64()
    }
}

/// Waits to be killed: what has been told is told.
pub(crate) fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}
