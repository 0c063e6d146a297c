//! What a job counts while it runs.
//!
//! Each subtask writes its own counters, once per batch, with plain stores to a cache line that
//! nobody else writes; whoever reports reads them from another thread.

use hdrhistogram::Histogram;
pub use millstream_network::remote::LinkStats;
use millstream_state::StoreFigure;
use millstream_types::CheckpointId;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Counters of a whole job that are touched rarely, so that all slots can share them.
#[derive(Debug)]
pub struct JobCounters {
    malformed: AtomicU64,
    late: AtomicU64,
    restarts: AtomicU64,
    region_restarts: AtomicU64,
    rollbacks: AtomicU64,
    replicated_bytes: AtomicU64,
    checkpoints_completed: AtomicU64,
    checkpoints_failed: AtomicU64,
    in_flight_bytes: AtomicU64,
    last_checkpoint: AtomicU64,
    last_checkpoint_nanos: AtomicU64,
    snapshot_nanos: Mutex<Histogram<u64>>,
}

impl Default for JobCounters {
    fn default() -> Self {
        Self {
            malformed: AtomicU64::default(),
            late: AtomicU64::default(),
            restarts: AtomicU64::default(),
            region_restarts: AtomicU64::default(),
            rollbacks: AtomicU64::default(),
            replicated_bytes: AtomicU64::default(),
            checkpoints_completed: AtomicU64::default(),
            checkpoints_failed: AtomicU64::default(),
            in_flight_bytes: AtomicU64::default(),
            last_checkpoint: AtomicU64::default(),
            last_checkpoint_nanos: AtomicU64::default(),
            snapshot_nanos: Mutex::new(nanos_histogram()),
        }
    }
}

fn nanos_histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three significant digits are within its bounds")
}

impl JobCounters {
    /// Counts records that a source could not parse and skipped.
    pub fn add_malformed(&self, count: u64) {
        self.malformed.fetch_add(count, Ordering::Relaxed);
    }

    /// Records that sources could not parse and skipped.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Counts records that came after their window had closed.
    pub fn add_late(&self, count: u64) {
        self.late.fetch_add(count, Ordering::Relaxed);
    }

    /// Records that came after their window had closed.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    pub(crate) fn add_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the job has failed, whole or in part, and was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn add_region_restart(&self) {
        self.region_restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// How often only a part of the job was started again, while the rest went on.
    pub fn region_restarts(&self) -> u64 {
        self.region_restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn add_rollback(&self) {
        self.rollbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// How often a slot of this process went back to a checkpoint in place after a failure, and so read
    /// none of its state from files.
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks.load(Ordering::Relaxed)
    }

    pub(crate) fn add_replicated(&self, bytes: usize) {
        self.replicated_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of checkpoints that this process has sent to other members for a copy.
    pub fn replicated_bytes(&self) -> u64 {
        self.replicated_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add_completed_checkpoint(&self, checkpoint: CheckpointId, took: Duration) {
        self.last_checkpoint.store(checkpoint.0, Ordering::Relaxed);
        self.last_checkpoint_nanos.store(took.as_nanos() as u64, Ordering::Relaxed);
        self.checkpoints_completed.fetch_add(1, Ordering::Relaxed);
    }

    /// Checkpoints that have completed in this run.
    pub fn checkpoints_completed(&self) -> u64 {
        self.checkpoints_completed.load(Ordering::Relaxed)
    }

    pub(crate) fn add_failed_checkpoint(&self) {
        self.checkpoints_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Checkpoints that have failed in this run.
    pub fn checkpoints_failed(&self) -> u64 {
        self.checkpoints_failed.load(Ordering::Relaxed)
    }

    pub(crate) fn add_in_flight_bytes(&self, bytes: u64) {
        self.in_flight_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of records in flight that barriers have overtaken in this run, and that became part of
    /// snapshots.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes.load(Ordering::Relaxed)
    }

    /// Records how long a subtask's snapshot held up its slot.
    pub(crate) fn record_snapshot(&self, took: Duration) {
        // Uncontended but while a report is made: there are a few per checkpoint.
        if let Ok(mut histogram) = self.snapshot_nanos.lock() {
            // It grows as needed, which `saturating_record` would not do.
            let _ = histogram.record((took.as_nanos() as u64).max(1));
        }
    }

    /// How long snapshots of subtasks have held up their slots in this run, in nanoseconds: the
    /// synchronous part of checkpoints, one value for each subtask and checkpoint.
    pub fn snapshot_nanos(&self) -> Histogram<u64> {
        self.snapshot_nanos.lock().map_or_else(|_| nanos_histogram(), |all| all.clone())
    }

    /// The newest completed checkpoint of this run, and how long it took from its announcement to its
    /// commit.
    pub fn last_checkpoint(&self) -> Option<(CheckpointId, Duration)> {
        (self.checkpoints_completed() > 0).then(|| {
            let nanos = self.last_checkpoint_nanos.load(Ordering::Relaxed);
            let id = CheckpointId(self.last_checkpoint.load(Ordering::Relaxed));
            (id, Duration::from_nanos(nanos))
        })
    }
}

/// What a slot has last told about its store and its connections: at most a quarter of a second old while
/// the slot works; what it did in the last hundredth of a second before it went to sleep may be missing.
#[derive(Debug, Default)]
pub struct SlotMetrics {
    store: Mutex<Vec<StoreFigure>>,
    links: Mutex<LinkStats>,
}

impl SlotMetrics {
    pub(crate) fn set_store(&self, figures: Vec<StoreFigure>) {
        if let Ok(mut last) = self.store.lock() {
            *last = figures;
        }
    }

    /// Figures of its store; none if the backend has none.
    pub fn store(&self) -> Vec<StoreFigure> {
        self.store.lock().map_or_else(|_| Vec::new(), |last| last.clone())
    }

    pub(crate) fn set_links(&self, stats: LinkStats) {
        if let Ok(mut last) = self.links.lock() {
            *last = stats;
        }
    }

    /// What its connections to other hosts have counted, in all attempts of this process; zeros without
    /// any, and for slots of other hosts.
    pub fn links(&self) -> LinkStats {
        self.links.lock().map_or_else(|_| LinkStats::default(), |last| *last)
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn add(&self, n: u64) {
        // A load and a store, not a fetch_add: there is one writer, and no locked instruction.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one subtask.
#[derive(Debug)]
#[repr(align(128))]
pub struct SubtaskMetrics {
    records_in: Counter,
    records_out: Counter,
    records_written: Counter,
    polls_busy: Counter,
    polls_blocked: Counter,
    watermark: AtomicI64,
    latency_nanos: Mutex<Histogram<u64>>,
}

impl Default for SubtaskMetrics {
    fn default() -> Self {
        Self {
            records_in: Counter::default(),
            records_out: Counter::default(),
            records_written: Counter::default(),
            polls_busy: Counter::default(),
            polls_blocked: Counter::default(),
            watermark: AtomicI64::new(i64::MIN),
            latency_nanos: Mutex::new(nanos_histogram()),
        }
    }
}

/// The counters of a subtask at one moment, as another member tells them.
#[derive(Clone, Copy, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Counters {
    records_in: u64,
    records_out: u64,
    records_written: u64,
    polls_busy: u64,
    polls_blocked: u64,
    watermark_nanos: i64,
}

impl SubtaskMetrics {
    /// The counters now.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            records_in: self.records_in.get(),
            records_out: self.records_out.get(),
            records_written: self.records_written.get(),
            polls_busy: self.polls_busy.get(),
            polls_blocked: self.polls_blocked.get(),
            watermark_nanos: self.watermark.load(Ordering::Relaxed),
        }
    }

    /// Takes over the counters of a subtask that runs elsewhere.
    pub(crate) fn set(&self, counters: Counters) {
        self.records_in.set(counters.records_in);
        self.records_out.set(counters.records_out);
        self.records_written.set(counters.records_written);
        self.polls_busy.set(counters.polls_busy);
        self.polls_blocked.set(counters.polls_blocked);
        self.watermark.store(counters.watermark_nanos, Ordering::Relaxed);
    }

    /// Counts records that came in.
    #[inline]
    pub fn add_in(&self, records: u64) {
        self.records_in.add(records);
    }

    /// Counts records that went out.
    #[inline]
    pub fn add_out(&self, records: u64) {
        self.records_out.add(records);
    }

    /// Counts records that a sink has taken.
    #[inline]
    pub fn add_written(&self, records: u64) {
        self.records_written.add(records);
    }

    /// Records that came in so far.
    pub fn records_in(&self) -> u64 {
        self.records_in.get()
    }

    /// Records that went out so far, to other subtasks or, by a sink, out of the job.
    pub fn records_out(&self) -> u64 {
        self.records_out.get() + self.records_written.get()
    }

    /// Records that the chain's sinks have taken so far.
    pub fn records_written(&self) -> u64 {
        self.records_written.get()
    }

    #[inline]
    pub(crate) fn count_busy(&self) {
        self.polls_busy.add(1);
    }

    #[inline]
    pub(crate) fn count_blocked(&self) {
        self.polls_blocked.add(1);
    }

    /// The share of polls, among those that had work, in which outputs had no credit.
    pub fn backpressure(&self) -> f64 {
        let (busy, blocked) = (self.polls_busy.get() as f64, self.polls_blocked.get() as f64);
        if blocked == 0.0 { 0.0 } else { blocked / (busy + blocked) }
    }

    #[inline]
    pub(crate) fn set_watermark(&self, watermark: millstream_types::Timestamp) {
        self.watermark.store(watermark.as_nanos(), Ordering::Relaxed);
    }

    /// The subtask's event time.
    pub fn watermark(&self) -> millstream_types::Timestamp {
        millstream_types::Timestamp::from_nanos(self.watermark.load(Ordering::Relaxed))
    }

    /// Records how long a latency marker was on its way to this sink.
    pub fn record_latency(&self, nanos: u64) {
        // Uncontended but while a report is made: markers come a few times a second.
        if let Ok(mut histogram) = self.latency_nanos.lock() {
            // It grows as needed, which `saturating_record` would not do.
            let _ = histogram.record(nanos.max(1));
        }
    }

    /// Adds the latencies seen so far to `total`.
    pub fn add_latency_to(&self, total: &mut Histogram<u64>) {
        if let Ok(histogram) = self.latency_nanos.lock() {
            // Both have three digits and grow by need, so the addition cannot fail.
            let _ = total.add(&*histogram);
        }
    }
}
