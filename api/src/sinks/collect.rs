//! Records that are gathered in memory.

use crate::connector::{
    BoxError, PreCommit, Prepared, Sink, SinkContext, SinkWriter, decode_item, encode_item,
};
use millstream_types::Timestamp;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Where [`DataStream::collect`](crate::DataStream::collect) puts the records.
///
/// They come here at each checkpoint and at the end, each once. They do not outlive the process: a
/// job that is resumed by another gathers what comes after its checkpoint.
pub struct Collected<T>(Arc<Mutex<Store<T>>>);

struct Store<T> {
    committed: Vec<T>,
    /// Records that were pre-committed, by writer.
    pending: BTreeMap<u64, Pending<T>>,
    next_writer: u64,
    /// By which the transactions of another process are told.
    nonce: u64,
}

struct Pending<T> {
    records: Vec<T>,
    /// How many were committed before these.
    before: u64,
    /// Dropped with the writer.
    writer: Weak<()>,
}

/// The store, the writer and how many of its records are committed with it.
type Transaction = (u64, u64, u64);

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Store {
            committed: Vec::new(),
            pending: BTreeMap::new(),
            next_writer: 0,
            nonce: RandomState::new().build_hasher().finish(),
        })))
    }
}

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Collected<T> {
    /// Takes the records: those of each subtask in order, the subtasks in no particular order.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.lock().committed)
    }

    /// The sink that puts them here.
    pub fn sink(&self) -> CollectSink<T> {
        CollectSink(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Store<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sink of a [`Collected`].
pub struct CollectSink<T>(Collected<T>);

impl<T> Clone for CollectSink<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Sink<T> for CollectSink<T> {
    type Writer = CollectWriter<T>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, _: &SinkContext) -> Result<CollectWriter<T>, BoxError> {
        let alive = Arc::new(());
        let mut store = self.0.lock();
        // What was to be committed of an earlier attempt has been, before this one.
        store.pending.retain(|_, pending| pending.writer.strong_count() > 0);
        let id = store.next_writer;
        store.next_writer += 1;
        let pending = Pending { records: Vec::new(), before: 0, writer: Arc::downgrade(&alive) };
        store.pending.insert(id, pending);
        drop(store);
        Ok(CollectWriter { id, records: Vec::new(), written: 0, collected: self.0, _alive: alive })
    }

    fn commit(&self, transactions: &[Vec<u8>]) -> Result<(), BoxError> {
        let mut store = self.0.lock();
        let Store { committed, pending, nonce, .. } = &mut *store;
        for transaction in transactions {
            let (of, writer, count) = decode_item::<Transaction>(transaction)?;
            let Some(pending) = pending.get_mut(&writer).filter(|_| of == *nonce) else { continue };
            let records = usize::try_from(count.saturating_sub(pending.before))?;
            committed.extend(pending.records.drain(..records));
            pending.before += records as u64;
        }
        Ok(())
    }

    fn abort(&self, _: u32) {
        self.0.lock().pending.clear();
    }
}

/// The writer of a [`CollectSink`].
pub struct CollectWriter<T> {
    id: u64,
    /// Since the last pre-commit.
    records: Vec<T>,
    /// Records that were pre-committed.
    written: u64,
    collected: Collected<T>,
    _alive: Arc<()>,
}

impl<T: Send + 'static> SinkWriter<T> for CollectWriter<T> {
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        self.records.push(value);
        Ok(())
    }

    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        let mut store = self.collected.lock();
        self.written += self.records.len() as u64;
        let transaction: Transaction = (store.nonce, self.id, self.written);
        if let Some(pending) = store.pending.get_mut(&self.id) {
            pending.records.append(&mut self.records);
        }
        drop(store);
        prepared.ready();
        let transaction = Some(encode_item(&transaction)?);
        Ok(PreCommit { state: Vec::new(), transaction })
    }
}
