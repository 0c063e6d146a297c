//! The transactions of one two-phase sink.
//!
//! Rows are gathered; a cut prepares them as a file under a staged name, durable before the
//! checkpoint is acknowledged; a completed checkpoint commits, by giving the file its final name.
//!
//! # Invariants
//! - Rows whose file could not be prepared are prepared again with the next cut.
//! - A checkpoint names every transaction that is prepared and not known to be committed.

use crate::disk::Operation;
use crate::hosts::AttemptId;
use crate::names;
use crate::record::{Record, encode_rows};
use millstream_protocol::SubtaskId;
use millstream_types::CheckpointId;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Preparing,
    Prepared,
    Failed,
    Committing,
}

#[derive(Clone, Debug)]
struct Transaction {
    epoch: CheckpointId,
    name: String,
    rows: Vec<Record>,
    progress: Progress,
}

/// What a cut leaves to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// What the checkpoint names.
    pub(crate) transactions: Vec<String>,
    /// Those of them that are not prepared yet.
    pub(crate) waiting: BTreeSet<String>,
    /// The file to be prepared: its name and bytes.
    pub(crate) prepare: Option<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Sink {
    owner: SubtaskId,
    attempt: AttemptId,
    open: Vec<Record>,
    transactions: Vec<Transaction>,
    /// Completed checkpoints whose commit was not reported yet.
    completed: BTreeSet<CheckpointId>,
}

impl Sink {
    pub(crate) fn new(owner: SubtaskId, attempt: AttemptId) -> Self {
        let (open, transactions, completed) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { owner, attempt, open, transactions, completed }
    }

    pub(crate) fn push(&mut self, row: Record) {
        self.open.push(row);
    }

    /// The rows so far belong to a checkpoint.
    pub(crate) fn cut(&mut self, checkpoint: CheckpointId) -> Cut {
        let failed = self.transactions.extract_if(.., |one| one.progress == Progress::Failed);
        let rows: Vec<_> = failed.flat_map(|one| one.rows).chain(self.open.drain(..)).collect();
        let mut cut = Cut::default();
        if !rows.is_empty() {
            let name = names::staged(checkpoint, self.owner, self.attempt);
            cut.prepare = Some((name.clone(), encode_rows(&rows)));
            let progress = Progress::Preparing;
            self.transactions.push(Transaction { epoch: checkpoint, name, rows, progress });
        }
        cut.transactions = self.transactions.iter().map(|one| one.name.clone()).collect();
        let preparing = self.transactions.iter().filter(|one| one.progress == Progress::Preparing);
        cut.waiting = preparing.map(|one| one.name.clone()).collect();
        cut
    }

    /// A transaction's file is durable, or is not and will not be.
    pub(crate) fn on_prepared(&mut self, name: &str, ok: bool) {
        for one in self.transactions.iter_mut().filter(|one| one.name == name) {
            one.progress = if ok { Progress::Prepared } else { Progress::Failed };
        }
    }

    /// A checkpoint is complete: what it names is to be committed.
    pub(crate) fn on_complete(&mut self, checkpoint: CheckpointId) {
        self.completed.insert(checkpoint);
    }

    /// The next transaction to be committed.
    pub(crate) fn commit(&mut self) -> Option<String> {
        let newest = self.completed.last()?;
        let next = self
            .transactions
            .iter_mut()
            .find(|one| one.epoch <= *newest && one.progress == Progress::Prepared)?;
        next.progress = Progress::Committing;
        Some(next.name.clone())
    }

    /// A transaction is committed durably; or not, and will be tried again.
    pub(crate) fn on_committed(&mut self, name: &str, ok: bool) {
        if ok {
            self.transactions.retain(|one| one.name != name);
        } else {
            self.on_prepared(name, true);
        }
    }

    /// A completed checkpoint all of which is committed, once.
    pub(crate) fn take_committed(&mut self) -> Option<CheckpointId> {
        let oldest = *self.completed.first()?;
        let open = self.transactions.iter().any(|one| one.epoch <= oldest);
        if open { None } else { self.completed.pop_first() }
    }
}

/// What commits a prepared file; `published` if it has its final name already and only that is not
/// known to be durable.
pub(crate) fn commit(name: &str, published: bool) -> Vec<Operation> {
    let publish = Operation::Publish(name.to_owned(), names::output(name));
    let sync = Operation::SyncDirectory;
    if published { vec![sync] } else { vec![publish, sync] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::{SubtaskIndex, VertexId};

    fn sink() -> Sink {
        Sink::new(SubtaskId { vertex: VertexId(2), subtask: SubtaskIndex(0) }, 1)
    }

    fn row(key: u64) -> Record {
        Record { key, count: 1 }
    }

    #[test]
    fn rows_are_prepared_with_a_cut_and_committed_with_its_completion() {
        let mut sink = sink();
        sink.push(row(1));
        let cut = sink.cut(CheckpointId(1));
        let name = cut.transactions[0].clone();
        assert!(cut.waiting.contains(&name));
        sink.on_prepared(&name, true);
        assert_eq!(sink.commit(), None, "nothing is complete");
        sink.on_complete(CheckpointId(1));
        assert_eq!(sink.take_committed(), None);
        assert_eq!(sink.commit(), Some(name.clone()));
        assert_eq!(sink.commit(), None, "it is on its way");
        sink.on_committed(&name, false);
        assert_eq!(sink.commit(), Some(name.clone()), "once more");
        sink.on_committed(&name, true);
        assert_eq!(sink.take_committed(), Some(CheckpointId(1)));
        assert_eq!(sink.take_committed(), None);
    }

    #[test]
    fn rows_of_an_aborted_checkpoint_are_named_by_the_next() {
        let mut sink = sink();
        sink.push(row(1));
        let first = sink.cut(CheckpointId(1));
        sink.on_prepared(&first.transactions[0], true);
        sink.push(row(2));
        let second = sink.cut(CheckpointId(2));
        assert_eq!(second.transactions.len(), 2);
        sink.on_prepared(&second.transactions[1], false);
        let third = sink.cut(CheckpointId(3));
        let (_, bytes) = third.prepare.unwrap();
        assert_eq!(bytes, encode_rows(&[row(2)]));
    }
}
