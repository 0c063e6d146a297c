//! Ends a job that hangs, and says where it stood.

use millstream::{Canceller, JobMetrics};
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Far more than any of these jobs takes, also where many things run at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a job that was cancelled may take to stop.
const GRACE: Duration = Duration::from_secs(20);

/// Watches one job, from a thread of its own.
///
/// A job that does not end is cancelled, so that the test can fail in an orderly way; one that does
/// not even stop then takes the process down.
pub struct Watchdog {
    news: Sender<(JobMetrics, Canceller)>,
    thread: JoinHandle<Option<String>>,
}

impl Watchdog {
    /// Starts before the job does. `title` is printed with whatever goes wrong.
    pub fn new(title: String) -> Self {
        let (news, job) = channel();
        let thread = std::thread::spawn(move || watch(&title, &job));
        Self { news, thread }
    }

    /// The job has started.
    pub fn started(&self, metrics: &JobMetrics, canceller: Canceller) {
        self.news.send((metrics.clone(), canceller)).expect("the watchdog waits for the end");
    }

    /// The job has ended: says how it hung if it did.
    pub fn ended(self) -> Option<String> {
        drop(self.news);
        self.thread.join().expect("the watchdog does not panic")
    }
}

fn watch(title: &str, job: &Receiver<(JobMetrics, Canceller)>) -> Option<String> {
    let (metrics, canceller) = match job.recv_timeout(PATIENCE) {
        Ok(job) => job,
        Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => abort(&format!("{title}\nthe job does not start")),
    };
    match job.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Disconnected) => return None,
        Ok(_) | Err(RecvTimeoutError::Timeout) => {}
    }
    let report = describe(&metrics);
    canceller.cancel();
    match job.recv_timeout(GRACE) {
        Err(RecvTimeoutError::Disconnected) => Some(report),
        _ => abort(&format!("{title}\nthe job hangs and cannot be cancelled\n{report}")),
    }
}

/// Past the harness, which would keep the words for the end of a test that does not end.
fn abort(words: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "{words}");
    std::process::abort()
}

fn describe(metrics: &JobMetrics) -> String {
    let vertices = metrics.vertices.iter().map(|vertex| {
        let subtasks: Vec<_> = vertex
            .subtasks
            .iter()
            .map(|s| {
                let (read, wrote) = (s.records_in(), s.records_out());
                format!("{read}>{wrote} at {:?} pressed {:.2}", s.watermark(), s.backpressure())
            })
            .collect();
        format!("  {}: {}\n", vertex.name, subtasks.join(", "))
    });
    vertices.collect()
}
