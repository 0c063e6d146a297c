//! The way to the agent that has started this process, if one has: see
//! [`Deployment`](millstream_protocol::Deployment) for what both may count on.
//!
//! The job goes on while the agent is away, for a while: it may be started again. What has happened
//! meanwhile is told then, as far as it still matters.

use crate::job::JobMetrics;
use millstream_protocol::{Deployment, Order, Told};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the job goes on without an agent.
const ALONE_MAX: Duration = Duration::from_secs(30);
/// An agent that listens for so long knows the process.
const WANTED_MIN: Duration = Duration::from_secs(1);
/// From one try to reach it to the next.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often it is told how far the job is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last words may take.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);
/// What it has not been told is forgotten from then on, but for the newest.
const UNTOLD_MAX: usize = 64;
/// The longest order: a deployment names all members.
const ORDER_BYTES_MAX: u64 = 1 << 20;

/// What an agent's order means for the process.
pub(crate) type OnOrder = Box<dyn Fn(Order) + Send + Sync>;

/// The link to the agent.
pub(crate) struct Agent {
    state: Arc<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    path: PathBuf,
    on_order: OnOrder,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    hello: Told,
    /// The first member tells of the whole job.
    progress: Option<JobMetrics>,
    untold: VecDeque<Told>,
    is_over: bool,
    /// Nobody listens on the present connection any more.
    is_cut: bool,
}

impl Inner {
    fn of(deployment: &Deployment, metrics: &JobMetrics) -> Self {
        let hello = Told::Hello {
            job: deployment.job.clone(),
            generation: deployment.generation,
            member: deployment.member,
            pid: std::process::id(),
        };
        let progress = (deployment.member == 0).then(|| metrics.clone());
        Self { hello, progress, untold: VecDeque::new(), is_over: false, is_cut: false }
    }
}

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Begins to talk to the agent of a deployment; `None` if it has none.
    pub(crate) fn attach(
        deployment: &Deployment,
        metrics: &JobMetrics,
        on_order: OnOrder,
    ) -> io::Result<Option<Self>> {
        let Some(path) = deployment.agent.clone() else { return Ok(None) };
        let inner = Inner::of(deployment, metrics);
        let state = State { path, on_order, inner: Mutex::new(inner), changed: Condvar::new() };
        let state = Arc::new(state);
        let talking = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || talk_until_over(&talking))?;
        Ok(Some(Self { state, thread: Mutex::new(Some(thread)) }))
    }

    /// From now on the process follows another deployment, of which the agent is told first. What it has not
    /// been told of the one before does not matter any more.
    pub(crate) fn follow(&self, deployment: &Deployment, metrics: &JobMetrics) {
        let mut inner = self.state.inner();
        let mut new = Inner::of(deployment, metrics);
        // One that is not there is told when it comes.
        new.untold.push_back(new.hello.clone());
        (new.is_over, new.is_cut) = (inner.is_over, inner.is_cut);
        *inner = new;
        self.state.changed.notify_all();
    }

    /// Tells the agent, when it is there.
    pub(crate) fn tell(&self, told: Told) {
        let mut inner = self.state.inner();
        if inner.untold.len() >= UNTOLD_MAX {
            inner.untold.pop_front();
        }
        inner.untold.push_back(told);
        self.state.changed.notify_all();
    }

    /// The last thing that it is told. Waits until it has been, or cannot be.
    pub(crate) fn end(&self, told: Told) {
        self.tell(told);
        self.state.inner().is_over = true;
        self.state.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has said what it could.
            let _ = thread.join();
        }
    }
}

fn talk_until_over(state: &State) {
    let mut alone_since = Instant::now();
    loop {
        let connected = Instant::now();
        match UnixStream::connect(&state.path).and_then(|stream| talk(state, &stream)) {
            Ok(()) => return,
            Err(error) => tracing::debug!("the agent is away: {error}"),
        }
        // What was told to one that went away may not have been heard; what matters is told again.
        let over_since = state.inner().is_over.then(Instant::now);
        // One that hangs up at once does not want this process.
        if connected.elapsed() >= WANTED_MIN {
            alone_since = Instant::now();
        }
        let most = if over_since.is_some() { LAST_WORDS_MAX } else { ALONE_MAX };
        if alone_since.elapsed() >= most {
            if over_since.is_none() {
                tracing::error!("nobody has asked for this process for {ALONE_MAX:?}: it ends");
                (state.on_order)(Order::Exit);
            }
            return;
        }
        std::thread::park_timeout(RETRY_PAUSE);
    }
}

/// Talks to an agent until there is nothing more to say, which is no error, or it goes away.
fn talk(state: &State, stream: &UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(LAST_WORDS_MAX))?;
    let hello = state.inner().hello.clone();
    write_line(stream, &hello)?;
    state.inner().is_cut = false;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let error = hear(state, stream);
            tracing::debug!("the agent says nothing more: {error:?}");
            state.inner().is_cut = true;
            state.changed.notify_all();
        });
        let result = tell_all(state, stream);
        // So that whoever hears stops.
        let _ = stream.shutdown(Shutdown::Both);
        result
    })
}

fn tell_all(state: &State, stream: &UnixStream) -> io::Result<()> {
    let mut newest = None;
    loop {
        let mut inner = state.inner();
        if let Some(told) = inner.untold.front().cloned() {
            drop(inner);
            write_line(stream, &told)?;
            let mut inner = state.inner();
            if inner.untold.front() == Some(&told) {
                inner.untold.pop_front();
            }
            continue;
        }
        if inner.is_over {
            return Ok(());
        }
        if inner.is_cut {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let waited = state.changed.wait_timeout(inner, PROGRESS_INTERVAL);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        let has_news = !inner.untold.is_empty() || inner.is_over || inner.is_cut;
        let progress = inner.progress.clone().filter(|_| !has_news);
        drop(inner);
        if let Some(metrics) = progress {
            write_line(
                stream,
                &Told::Counters {
                    records_in: metrics.source_records(),
                    records_out: metrics.sink_records(),
                },
            )?;
            let checkpoint = metrics.counters.last_checkpoint();
            if checkpoint != newest
                && let Some((id, took)) = checkpoint
            {
                let took_us = took.as_micros() as u64;
                write_line(stream, &Told::Checkpoint { id: id.0, took_us })?;
            }
            newest = checkpoint;
        }
    }
}

fn hear(state: &State, stream: &UnixStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let read = lines.by_ref().take(ORDER_BYTES_MAX).read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        match serde_json::from_str(&line) {
            Ok(order) => (state.on_order)(order),
            Err(error) => tracing::warn!("the agent says what makes no sense: {error}"),
        }
    }
}

fn write_line(mut stream: &UnixStream, told: &Told) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_protocol::{EndStatus, Member};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::channel;

    fn deployment(agent: PathBuf) -> Deployment {
        let (name, address) = ("a".into(), "127.0.0.1:1".into());
        let member = Member { name, address, slots: 1, rack: None };
        Deployment {
            job: "job".into(),
            generation: 2,
            members: vec![member],
            member: 0,
            cores: Vec::new(),
            secret_file: None,
            parallelism: None,
            from_checkpoint: None,
            data_directory: None,
            agent: Some(agent),
        }
    }

    fn metrics() -> JobMetrics {
        JobMetrics { vertices: Vec::new(), slots: Vec::new(), counters: Arc::default() }
    }

    /// The next thing that is told, but for counters.
    fn next(lines: &mut impl BufRead) -> Told {
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            let told: Told = serde_json::from_str(&line).unwrap();
            if !matches!(told, Told::Counters { .. }) {
                return told;
            }
        }
    }

    #[test]
    fn an_agent_that_was_away_is_told_who_is_there_and_gives_orders_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        let (orders, ordered) = channel();
        let on_order = Box::new(move |order| orders.send(order).unwrap());
        let agent = Agent::attach(&deployment(path), &metrics(), on_order).unwrap().unwrap();
        for round in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let hello = next(&mut lines);
            assert!(matches!(hello, Told::Hello { generation: 2, member: 0, .. }), "{hello:?}");
            stream.write_all(b"{\"order\":\"stop\"}\n{\"what\":1}\n").unwrap();
            assert_eq!(ordered.recv().unwrap(), Order::Stop);
            let told = Told::Running { attempt: round, restored: None };
            agent.tell(told.clone());
            assert_eq!(next(&mut lines), told);
        }
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream);
        next(&mut lines);
        let last = Told::Ended { status: EndStatus::Finished, error: None };
        agent.end(last.clone());
        assert_eq!(next(&mut lines), last);
    }

    #[test]
    fn an_agent_hears_first_that_another_deployment_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let before = deployment(path.clone());
        let agent = Agent::attach(&before, &metrics(), Box::new(|_| ())).unwrap().unwrap();
        agent.tell(Told::Running { attempt: 7, restored: None });
        agent.follow(&Deployment { generation: 3, ..before }, &metrics());
        // Nobody has heard anything before.
        let listener = UnixListener::bind(&path).unwrap();
        let running = Told::Running { attempt: 1, restored: None };
        agent.tell(running.clone());
        let mut lines = BufReader::new(listener.accept().unwrap().0);
        let mut told = next(&mut lines);
        // Who connects introduces himself, and who follows another does.
        for _ in 0..2 {
            assert!(matches!(told, Told::Hello { generation: 3, .. }), "{told:?}");
            told = next(&mut lines);
        }
        assert_eq!(told, running);
        let last = Told::Ended { status: EndStatus::Finished, error: None };
        agent.end(last.clone());
        assert_eq!(next(&mut lines), last);
    }
}
