//! One slot's part in checkpoints: collects the snapshots of its subtasks and hands them over.
//!
//! # Invariants
//! - A slot's part of a checkpoint is handed over once, when each of its subtasks has added to it.
//! - It is durable when the coordinator has stored its bytes, the store has persisted what it keeps
//!   by itself, and every sink has prepared its transaction.

use super::{Beginning, Report, SealedSnapshot, Transaction, in_words};
use crate::error::BoxError;
use crate::exchange::{ChannelId, EdgeId, End, encode};
use crate::metrics::JobCounters;
use crate::operator::fail;
use crate::rows::Rows;
use crate::sink::Prepared;
use millstream_protocol::{Aligner, CheckpointMode, CheckpointSettings, SubtaskId};
use millstream_state::{Data, SharedStore, SnapshotWriter, StateFile, StoreFigure, SubtaskState};
use millstream_types::{Barrier, CheckpointId, OperatorId, SlotIndex};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The checkpoints of one slot.
pub(crate) struct SlotCheckpoints {
    slot: SlotIndex,
    store: SharedStore,
    settings: CheckpointSettings,
    beginning: Beginning,
    /// The number of the slot's subtasks.
    members: u32,
    pending: RefCell<BTreeMap<CheckpointId, PendingSnapshot>>,
    completed: Cell<CheckpointId>,
    reports: Sender<Report>,
    counters: Arc<JobCounters>,
}

/// What a slot has of a checkpoint so far.
struct PendingSnapshot {
    out: SnapshotWriter,
    missing: u32,
    transactions: Vec<Transaction>,
    parts: Parts,
}

impl SlotCheckpoints {
    pub(crate) fn new(
        slot: SlotIndex,
        store: SharedStore,
        settings: CheckpointSettings,
        beginning: Beginning,
        members: u32,
        reports: Sender<Report>,
        counters: Arc<JobCounters>,
    ) -> Self {
        Self {
            slot,
            store,
            settings,
            beginning,
            members,
            pending: RefCell::default(),
            completed: Cell::new(beginning.checkpoint),
            reports,
            counters,
        }
    }

    /// The coordinator has completed a checkpoint; no checkpoint before `oldest` will be restored.
    pub(crate) fn on_complete(&self, checkpoint: CheckpointId, oldest: CheckpointId) {
        self.completed.set(checkpoint);
        self.forget(checkpoint);
        self.store.borrow_mut().completed(checkpoint, oldest);
    }

    /// Lets the store tidy up; true if it has more to do.
    pub(crate) fn maintain(&self, budget: Duration) -> bool {
        self.store.borrow_mut().maintain(budget)
    }

    /// What the store tells about itself.
    pub(crate) fn store_figures(&self) -> Vec<StoreFigure> {
        self.store.borrow().figures()
    }

    /// The coordinator has given up a checkpoint.
    pub(crate) fn on_abort(&self, checkpoint: CheckpointId) {
        self.pending.borrow_mut().remove(&checkpoint);
        self.store.borrow_mut().aborted(checkpoint);
    }

    /// Drops what there is of checkpoints up to this one: they are over.
    fn forget(&self, checkpoint: CheckpointId) {
        self.pending.borrow_mut().retain(|pending, _| *pending > checkpoint);
    }

    fn with_pending<R>(
        &self,
        checkpoint: CheckpointId,
        f: impl FnOnce(&mut PendingSnapshot) -> R,
    ) -> R {
        let mut pending = self.pending.borrow_mut();
        f(pending.entry(checkpoint).or_insert_with(|| PendingSnapshot {
            out: SnapshotWriter::new(),
            missing: self.members,
            transactions: Vec::new(),
            parts: Parts::new(self.slot, checkpoint, self.reports.clone()),
        }))
    }

    /// The last subtask has added its part.
    fn hand_over(&self, checkpoint: CheckpointId) {
        let Some(pending) = self.pending.borrow_mut().remove(&checkpoint) else { return };
        let PendingSnapshot { out, transactions, parts, .. } = pending;
        // An error means that the job is at its end.
        let _ = self.reports.send(Report::Sealed(SealedSnapshot {
            slot: self.slot,
            checkpoint,
            bytes: Some(out.finish()),
            transactions,
        }));
        let part = parts.one_more();
        let done = Box::new(move |files: Result<Vec<StateFile>, _>| match files {
            Ok(files) => part.done(files),
            Err(error) => part.failed(&error),
        });
        self.store.borrow_mut().persist(checkpoint, done);
        parts.close();
    }
}

/// What the operators and the head of one subtask know of checkpoints.
pub struct SubtaskCheckpoints {
    slot: Rc<SlotCheckpoints>,
    subtask: SubtaskId,
    state: Rc<SubtaskState>,
    /// The stable name of each operator, by id.
    uids: Arc<[String]>,
    sinks: RefCell<Vec<(OperatorId, SinkTransactions)>>,
    /// What barriers have overtaken at the ends of the subtask's channels, for snapshots that are not
    /// whole yet.
    in_flight: RefCell<BTreeMap<CheckpointId, Captured>>,
}

/// Items of batches that barriers have overtaken, and the edges that they were in flight on.
type Captured = Vec<(EdgeId, Vec<u8>)>;

/// The transactions of one sink's writer that are not known to be committed, each with the checkpoint
/// that it is part of; `None` for the last, after the end of the input.
pub type SinkTransactions = Rc<RefCell<Vec<(Option<CheckpointId>, Vec<u8>)>>>;

impl SubtaskCheckpoints {
    pub(crate) fn new(
        slot: Rc<SlotCheckpoints>,
        subtask: SubtaskId,
        state: Rc<SubtaskState>,
        uids: Arc<[String]>,
    ) -> Self {
        let (sinks, in_flight) = (RefCell::default(), RefCell::default());
        Self { slot, subtask, state, uids, sinks, in_flight }
    }

    /// Of a subtask that nobody coordinates, whose first operator is "operator"; and what it reports.
    #[cfg(test)]
    pub(crate) fn of_no_job(
        settings: CheckpointSettings,
        beginning: Beginning,
    ) -> (Rc<Self>, std::sync::mpsc::Receiver<Report>) {
        use millstream_state::{HeapBackend, MemberIndex, StateBackend, StoreScope};
        use millstream_types::{SubtaskIndex, VertexId};
        let store = HeapBackend.open(StoreScope::default()).expect("memory can be had");
        let store: SharedStore = Rc::new(RefCell::new(store));
        let subtask = SubtaskId { vertex: VertexId(0), subtask: SubtaskIndex(0) };
        let state = SubtaskState::new(Rc::clone(&store), MemberIndex(0), SubtaskIndex(0), None);
        let (reporter, reports) = std::sync::mpsc::channel();
        let slot = SlotCheckpoints::new(
            SlotIndex(0),
            store,
            settings,
            beginning,
            1,
            reporter,
            Arc::default(),
        );
        let uids = Arc::new(["operator".to_owned()]);
        (Rc::new(Self::new(Rc::new(slot), subtask, Rc::new(state), uids)), reports)
    }

    /// An aligner for this subtask's channels.
    pub(crate) fn aligner(&self, channels: usize) -> Aligner {
        let Beginning { checkpoint, rounds, .. } = self.slot.beginning;
        Aligner::recovering(self.slot.settings.mode, channels, checkpoint, rounds)
    }

    /// True if the job began with a checkpoint.
    pub(crate) fn is_restored(&self) -> bool {
        self.slot.beginning.checkpoint > CheckpointId(0)
    }

    /// What ends a round of what was in flight, and how many rounds there are.
    pub(crate) fn recovery(&self) -> (Barrier, u32) {
        let Beginning { checkpoint, rounds, .. } = self.slot.beginning;
        (Barrier { checkpoint }, rounds)
    }

    /// The subtask has received all that was in flight.
    pub(crate) fn recovered(&self) {
        // An error means that the job is at its end.
        let (attempt, subtask) = (self.slot.beginning.attempt, self.subtask);
        let _ = self.slot.reports.send(Report::Recovered { attempt, subtask });
    }

    /// True if barriers may overtake.
    pub(crate) fn may_overtake(&self) -> bool {
        let CheckpointSettings { mode, alignment_timeout, .. } = &self.slot.settings;
        *mode == CheckpointMode::Unaligned || alignment_timeout.is_some()
    }

    /// How long barriers stay in order.
    pub(crate) fn alignment_timeout(&self) -> Option<Duration> {
        self.slot.settings.alignment_timeout
    }

    /// The uids of the subtask's operators that remember something.
    pub(crate) fn operators_with_state(&self) -> BTreeSet<String> {
        self.state.operators()
    }

    /// The newest checkpoint that is known to be complete.
    pub fn completed(&self) -> CheckpointId {
        self.slot.completed.get()
    }

    /// Registers a sink's writer: its transactions are part of every snapshot.
    pub fn add_sink(&self, operator: OperatorId) -> SinkTransactions {
        let transactions = SinkTransactions::default();
        self.sinks.borrow_mut().push((operator, Rc::clone(&transactions)));
        transactions
    }

    /// All transactions of the subtask that are not known to be committed.
    pub(crate) fn transactions(&self) -> Vec<Transaction> {
        let sinks = self.sinks.borrow();
        let of_sink = |(operator, transactions): &(OperatorId, SinkTransactions)| {
            let operator = *operator;
            let transactions = transactions.borrow();
            let bytes = transactions.iter().map(|(_, bytes)| bytes.clone());
            bytes.map(|bytes| Transaction { operator, bytes }).collect::<Vec<_>>()
        };
        sinks.iter().flat_map(of_sink).collect()
    }

    /// What a sink's writer is to tell when its transaction of `checkpoint` is durable: the slot's
    /// part is not before.
    pub fn prepared(&self, checkpoint: CheckpointId) -> Prepared {
        let part = self.slot.with_pending(checkpoint, |pending| pending.parts.one_more());
        Prepared::new(move |result: Result<(), BoxError>| match result {
            Ok(()) => part.done(Vec::new()),
            Err(error) => part.failed(&*error),
        })
    }

    /// This subtask cannot take part.
    pub(crate) fn decline(&self, checkpoint: CheckpointId, reason: &str) {
        let (subtask, reason) = (self.subtask, reason.to_owned());
        let _ = self.slot.reports.send(Report::Declined { subtask, checkpoint, reason });
    }

    /// Adds the subtask's state to the slot's part of a checkpoint. Called by the subtask's head,
    /// after the chain has passed the barrier on. [`complete`](Self::complete) follows.
    pub(crate) fn snapshot(&self, checkpoint: CheckpointId) {
        let start = Instant::now();
        self.slot.with_pending(checkpoint, |pending| {
            pending.transactions.extend(self.transactions());
            write(&self.state, checkpoint, &mut pending.out);
        });
        // What was captured for older ones was for nothing.
        self.in_flight.borrow_mut().retain(|of, _| *of >= checkpoint);
        self.slot.counters.record_snapshot(start.elapsed());
    }

    /// A barrier has overtaken a batch: it becomes part of the subtask's part of a checkpoint, which
    /// may begin later.
    pub(crate) fn capture<T: Data>(
        &self,
        checkpoint: CheckpointId,
        channel: ChannelId,
        end: End,
        rows: &Rows<T>,
    ) {
        if rows.is_empty() {
            return;
        }
        let edge = channel.edge;
        let item =
            encode(channel, end, rows).unwrap_or_else(|error| fail(edge.receiver, error.into()));
        self.slot.counters.add_in_flight_bytes(item.len() as u64);
        self.in_flight.borrow_mut().entry(checkpoint).or_default().push((edge, item));
    }

    /// What was captured for a checkpoint is of no use.
    pub(crate) fn forget_captured(&self, checkpoint: CheckpointId) {
        self.in_flight.borrow_mut().remove(&checkpoint);
    }

    /// The subtask's part of a checkpoint is whole: nothing more will be captured for it.
    pub(crate) fn complete(&self, checkpoint: CheckpointId) {
        let captured = self.in_flight.borrow_mut().remove(&checkpoint).unwrap_or_default();
        let mut edges: BTreeMap<EdgeId, Vec<Vec<u8>>> = BTreeMap::new();
        for (edge, item) in captured {
            edges.entry(edge).or_default().push(item);
        }
        let last = self.slot.with_pending(checkpoint, |pending| {
            for (edge, items) in edges {
                let uid = &self.uids[edge.receiver.0 as usize];
                self.state
                    .add_list(uid, &edge.list_name(), items, &mut pending.out)
                    .unwrap_or_else(|error| fail(edge.receiver, error.into()));
            }
            pending.missing -= 1;
            pending.missing == 0
        });
        if last {
            self.slot.hand_over(checkpoint);
        }
    }
}

#[expect(unsafe_code, reason = "whoever takes a snapshot promises that nothing is in progress")]
fn write(state: &SubtaskState, checkpoint: CheckpointId, out: &mut SnapshotWriter) {
    // SAFETY: this is called by the head of the subtask, between two elements of its input, when the
    // chain's calls have returned. Only those calls operate on tables of this state.
    let written = unsafe { state.snapshot(checkpoint, out) };
    written.unwrap_or_else(|error| error.raise());
}

/// What a slot's part of a checkpoint waits for to be durable, beside its own bytes.
#[derive(Clone)]
struct Parts(Arc<Mutex<PartsLeft>>);

struct PartsLeft {
    slot: SlotIndex,
    checkpoint: CheckpointId,
    /// How many have not been told; one of them stands for those that may be added.
    count: u32,
    result: Result<Vec<StateFile>, String>,
    reports: Sender<Report>,
}

/// One of them.
struct Part(Parts);

impl Parts {
    fn new(slot: SlotIndex, checkpoint: CheckpointId, reports: Sender<Report>) -> Self {
        let result = Ok(Vec::new());
        Self(Arc::new(Mutex::new(PartsLeft { slot, checkpoint, count: 1, result, reports })))
    }

    fn one_more(&self) -> Part {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count += 1;
        Part(self.clone())
    }

    /// No more will be added.
    fn close(&self) {
        self.tell(|_| ());
    }

    fn tell(&self, f: impl FnOnce(&mut PartsLeft)) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut left);
        left.count -= 1;
        if left.count == 0 {
            let (slot, checkpoint) = (left.slot, left.checkpoint);
            let result = std::mem::replace(&mut left.result, Ok(Vec::new()));
            // An error means that the job is at its end.
            let _ = left.reports.send(Report::Persisted { slot, checkpoint, result });
        }
    }
}

impl Part {
    fn done(self, mut files: Vec<StateFile>) {
        self.0.tell(|left| {
            if let Ok(all) = &mut left.result {
                all.append(&mut files);
            }
        });
    }

    fn failed(self, error: &dyn std::error::Error) {
        let reason = in_words(error);
        self.0.tell(|left| {
            if left.result.is_ok() {
                left.result = Err(reason);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_state::{MemberIndex, StateError, StateStore, TableSpec, TableStorage};
    use std::sync::mpsc::channel;

    /// Notes what it is told of checkpoints.
    #[derive(Clone, Default)]
    struct Told(Rc<RefCell<Vec<(&'static str, u64)>>>);

    impl StateStore for Told {
        fn table(&mut self, _: MemberIndex, _: &TableSpec) -> Result<TableStorage, StateError> {
            Ok(TableStorage::Heap)
        }

        fn completed(&mut self, checkpoint: CheckpointId, _: CheckpointId) {
            self.0.borrow_mut().push(("completed", checkpoint.0));
        }

        fn aborted(&mut self, checkpoint: CheckpointId) {
            self.0.borrow_mut().push(("aborted", checkpoint.0));
        }
    }

    #[test]
    fn the_store_hears_what_becomes_of_checkpoints() {
        let told = Told::default();
        let store: Box<dyn StateStore> = Box::new(told.clone());
        let checkpoints = SlotCheckpoints::new(
            SlotIndex(0),
            Rc::new(RefCell::new(store)),
            CheckpointSettings::default(),
            Beginning::default(),
            1,
            channel().0,
            Arc::default(),
        );
        checkpoints.on_abort(CheckpointId(1));
        checkpoints.on_complete(CheckpointId(2), CheckpointId(2));
        assert_eq!(*told.0.borrow(), [("aborted", 1), ("completed", 2)]);
    }
}
