//! Metrics over HTTP, for Prometheus to scrape.
//!
//! One thread answers one connection after another: a scraper comes every few seconds, and nobody
//! waits longer than [`REQUEST_DURATION_MAX`] for one that does not speak.

use crate::{Usage, prometheus};
use millstream::JobMetrics;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The bytes of a request that are read at the most.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// How long a request may take to arrive, and its answer to leave.
const REQUEST_DURATION_MAX: Duration = Duration::from_secs(2);

/// Serves metrics until it is dropped.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    job: Mutex<Option<(String, JobMetrics)>>,
    started: Instant,
    stopped: AtomicBool,
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsServerError {
    /// The text is no address.
    #[error(
        "--metrics: \"{address}\" is no address; write HOST:PORT, for example 127.0.0.1:9249: {source}"
    )]
    Address {
        /// As it was given.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error(
        "--metrics: {address} is in use by another program; choose another port, or port 0 for any \
         that is free"
    )]
    InUse {
        /// As it was given.
        address: String,
    },
    /// The system refuses to listen there.
    #[error("--metrics: cannot listen at {address}: {source}")]
    Listen {
        /// As it was given.
        address: String,
        /// What it said.
        source: io::Error,
    },
}

impl MetricsServer {
    /// Listens at `address`, `HOST:PORT`. Port 0 is any that is free; the address is logged.
    ///
    /// # Errors
    /// If the address is none, is in use, or is not allowed.
    pub fn bind(address: &str) -> Result<Self, MetricsServerError> {
        let given = || address.to_owned();
        let addresses: Vec<SocketAddr> = address
            .to_socket_addrs()
            .map_err(|source| MetricsServerError::Address { address: given(), source })?
            .collect();
        let listen = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => MetricsServerError::InUse { address: given() },
            _ => MetricsServerError::Listen { address: given(), source },
        };
        let listener = TcpListener::bind(&*addresses).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared {
            job: Mutex::new(None),
            started: Instant::now(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("metrics".into())
            .spawn(move || serving.serve(&listener))
            .map_err(listen)?;
        eprintln!("metrics at http://{address}/metrics");
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the counters of this job from now on, instead of those of any before it.
    pub fn watch(&self, name: &str, metrics: &JobMetrics) {
        let mut job = self.shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        *job = Some((name.to_owned(), metrics.clone()));
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // The thread waits for a connection: make it one.
        let mut own = self.address;
        match own.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => own.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => own.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let woken = TcpStream::connect_timeout(&own, REQUEST_DURATION_MAX).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // It does not panic; and if it did, nobody would miss it now.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, listener: &TcpListener) {
        for connection in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            // A scraper that went away is its own affair; the next one gets its answer.
            let answered = connection.and_then(|connection| self.answer(connection));
            if let Err(error) = answered {
                tracing::debug!("a request for metrics failed: {error}");
            }
        }
    }

    fn answer(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_write_timeout(Some(REQUEST_DURATION_MAX))?;
        let request = read_head(&mut connection)?;
        let mut words = request.split(|byte| byte.is_ascii_whitespace());
        let (method, target) = (words.next().unwrap_or(b""), words.next().unwrap_or(b""));
        let path = target.split(|byte| *byte == b'?').next().unwrap_or(b"");
        let (status, content_type, body) = match (method, path) {
            (b"GET" | b"HEAD", b"/metrics") => ("200 OK", prometheus::CONTENT_TYPE, self.render()),
            (b"GET" | b"HEAD", _) => {
                ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned())
            }
            _ => ("405 Method Not Allowed", "text/plain", "only GET is answered\n".to_owned()),
        };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        if method != b"HEAD" {
            answer.push_str(&body);
        }
        connection.write_all(answer.as_bytes())
    }

    fn render(&self) -> String {
        // Cloned, so that the job that starts next does not wait for the text.
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let job = job.as_ref().map(|(name, metrics)| (name.as_str(), metrics));
        prometheus::render(job, self.started.elapsed(), &Usage::now())
    }
}

/// Reads up to the blank line behind a request's headers.
fn read_head(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + REQUEST_DURATION_MAX;
    let mut request = Vec::new();
    let mut block = [0; 1_024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(left))?;
        let read = connection.read(&mut block)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&block[..read]);
        if request.len() > REQUEST_BYTES_MAX {
            return Err(io::Error::other("the request is too long"));
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::{Config, Environment};

    fn ask(server: &MetricsServer, request: &str) -> String {
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // A connection closed on what was not read may be reset; what came before it counts.
        let _ = connection.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn a_running_job_can_be_watched() {
        let server = MetricsServer::bind("127.0.0.1:0").unwrap();
        let env = Environment::new(Config::default());
        env.from_iterator("numbers", |_, _| 0u64..).discard();
        let job = env.start("endless").unwrap();
        server.watch("endless", job.metrics());
        let records = || {
            ask(&server, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .lines()
                .find_map(|line| line.strip_prefix("millstream_records_in_total{job=\"endless\""))
                .and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .expect("the job's counters are served")
        };
        let first = records();
        let deadline = Instant::now() + Duration::from_secs(30);
        while records() <= first {
            assert!(Instant::now() < deadline, "a running job's counters go up");
        }
        job.canceller().cancel();
        job.wait().unwrap();
    }

    #[test]
    fn other_requests_are_refused_in_words() {
        let server = MetricsServer::bind("127.0.0.1:0").unwrap();
        let found = ask(&server, "GET /metrics?x=1 HTTP/1.1\r\n\r\n");
        assert!(found.starts_with("HTTP/1.1 200 OK\r\n"), "{found}");
        assert!(found.contains("process_threads"), "{found}");
        let head = ask(&server, "HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        let missing = ask(&server, "GET / HTTP/1.1\r\n\r\n");
        assert!(missing.contains("404") && missing.contains("at /metrics"), "{missing}");
        let method = ask(&server, "POST /metrics HTTP/1.1\r\n\r\n");
        assert!(method.contains("405"), "{method}");
        let long = ask(&server, &"x".repeat(REQUEST_BYTES_MAX + 1));
        assert_eq!(long, "", "a request without end gets no answer");
        let after = ask(&server, "GET /metrics HTTP/1.1\r\n\r\n");
        assert!(after.contains("200 OK"), "the server goes on");
    }

    #[test]
    fn an_address_in_use_is_refused_in_words() {
        let server = MetricsServer::bind("127.0.0.1:0").unwrap();
        let again = MetricsServer::bind(&server.address().to_string()).unwrap_err().to_string();
        assert!(again.contains("is in use") && again.contains("choose another port"), "{again}");
        let none = MetricsServer::bind("nine").unwrap_err().to_string();
        assert!(none.contains("HOST:PORT"), "{none}");
    }
}
