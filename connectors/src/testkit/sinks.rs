//! A sink whose job is killed at each step of its two phases and restored, with other parallelisms.

use super::sources::difference;
use super::{Random, Slot};
use millstream::connector::{
    BoxError, PreCommit, Prepared, Sink, SinkContext, SinkWriter, Timestamp,
};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};

/// Writers of a sink at the most.
const WRITERS_MAX: u64 = 4;
/// Records between two steps, at the most.
const RECORDS_PER_STEP: u64 = 60;
/// Times that a job is killed, at the most.
const KILLS_MAX: u64 = 12;

/// When a sink's results appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appears {
    /// When the job has ended.
    AtTheEnd,
    /// When the checkpoint is complete that they are part of.
    AtCheckpoints,
}

/// A sink, and how to see what it has written.
pub struct SinkTest<M, R, V> {
    /// Makes the sink, anew for each process that a job goes through.
    pub make: M,
    /// The record of this number.
    pub record: R,
    /// The numbers of all records that are visible, in any order.
    pub visible: V,
    /// When they are.
    pub appears: Appears,
}

/// Runs a sink through a script: writers write, come to barriers and go on, are killed before they
/// pre-commit, before their checkpoint is complete, before it is committed, while it is committed, and
/// after the end; checkpoints fail; and jobs are restored with another parallelism. At each moment
/// what is visible must be what the last commit has made so, and no record twice.
///
/// A checkpoint that fails is never committed: what it was about is to be in the next transactions.
/// Those of a writer that has ended stay part of all later checkpoints.
///
/// # Panics
/// If something else is visible, or if an error is returned.
pub fn exercise_sink<T, S, M, R, V>(seed: u64, records: u64, test: &SinkTest<M, R, V>)
where
    T: 'static,
    S: Sink<T>,
    M: Fn() -> S,
    R: Fn(u64) -> T,
    V: Fn() -> Vec<u64>,
{
    let mut random = Random::new(seed);
    let mut script = Script {
        test,
        records,
        kills: random.below(KILLS_MAX + 1),
        random,
        seed,
        checkpoint: Checkpoint::default(),
        visible_records: 0,
    };
    while !script.attempt() {}
}

/// All that survives a kill, beside what the sink has written.
#[derive(Clone, Default)]
struct Checkpoint {
    /// False before the first.
    is_complete: bool,
    /// The first record behind it.
    next: u64,
    states: Vec<Vec<u8>>,
    transactions: Vec<Vec<u8>>,
    /// True if all writers had ended.
    is_last: bool,
}

struct Script<'a, M, R, V> {
    test: &'a SinkTest<M, R, V>,
    records: u64,
    /// How often the job will still be killed.
    kills: u64,
    random: Random,
    seed: u64,
    checkpoint: Checkpoint,
    /// The records below this number must be visible.
    visible_records: u64,
}

struct Writing<W> {
    slot: Slot,
    writer: W,
    has_finished: bool,
    /// What it handed over after it had finished.
    last: Option<PreCommit>,
}

/// A job was killed.
struct Killed;

impl<M, R, V> Script<'_, M, R, V> {
    fn ok<X>(&self, result: Result<X, BoxError>) -> X {
        result.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed))
    }

    /// A place where the job may be killed.
    fn kill(&mut self, one_in: u64) -> Result<(), Killed> {
        if self.kills > 0 && self.random.one_in(one_in) {
            self.kills -= 1;
            return Err(Killed);
        }
        Ok(())
    }
}

impl<M, R, V: Fn() -> Vec<u64>> Script<'_, M, R, V> {
    /// Compares what is visible with what must be; `least` records, or all of the last checkpoint while
    /// its commit was cut short.
    fn look(&self, at: Range<u64>) {
        let mut visible = (self.test.visible)();
        visible.sort_unstable();
        if at.start == at.end {
            let expected: Vec<u64> = (0..at.end).collect();
            assert!(
                visible == expected,
                "seed {}: visible are {}",
                self.seed,
                difference(&visible, &expected)
            );
        }
        let is_once = visible.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(is_once, "seed {}: a record is visible twice", self.seed);
        let is_below = visible.last().is_none_or(|last| *last < at.end);
        assert!(is_below, "seed {}: {visible:?} is visible before its checkpoint", self.seed);
        assert!(
            visible.len() as u64 >= at.start,
            "seed {}: of {} records that were committed, {} are visible",
            self.seed,
            at.start,
            visible.len()
        );
    }
}

impl<M, R, V> Script<'_, M, R, V>
where
    V: Fn() -> Vec<u64>,
{
    /// Runs the job to its end (true) or until it is killed.
    fn attempt<T, S>(&mut self) -> bool
    where
        T: 'static,
        S: Sink<T>,
        M: Fn() -> S,
        R: Fn(u64) -> T,
    {
        self.run().is_ok()
    }

    fn run<T, S>(&mut self) -> Result<(), Killed>
    where
        T: 'static,
        S: Sink<T>,
        M: Fn() -> S,
        R: Fn(u64) -> T,
    {
        let sink = (self.test.make)();
        self.ok(sink.validate());
        if self.checkpoint.is_complete {
            // Nobody knows whether that was done.
            self.commit(&sink)?;
        }
        let parallelism = 1 + self.random.below(WRITERS_MAX) as u32;
        let mut writers = Vec::new();
        for subtask in 0..parallelism {
            self.kill(40)?;
            let slot = Slot::default();
            let states = self.checkpoint.is_complete.then(|| self.checkpoint.states.clone().into());
            let context =
                SinkContext { restored: states, ..slot.sink_context(subtask, parallelism) };
            let writer = self.ok(sink.clone().open(&context));
            writers.push(Writing { slot, writer, has_finished: false, last: None });
        }
        let mut next = self.checkpoint.next;
        while next < self.records {
            let end = (next + self.random.below(RECORDS_PER_STEP)).min(self.records);
            for number in next..end {
                let index = self.random.below(writers.len() as u64) as usize;
                self.write(&mut writers[index], number);
            }
            next = end;
            self.look(self.visible_records..self.visible_records);
            if self.random.one_in(3) {
                self.take_checkpoint(&sink, &mut writers, next)?;
            }
            self.kill(6)?;
        }
        // They end one after the other, with checkpoints in between.
        while let Some(index) = writers.iter().position(|writer| !writer.has_finished) {
            self.finish(&mut writers[index]);
            if self.random.one_in(3) {
                self.take_checkpoint(&sink, &mut writers, next)?;
            }
            self.kill(6)?;
        }
        self.take_checkpoint(&sink, &mut writers, next)?;
        drop(writers);
        self.look(self.records..self.records);
        self.kill(2)
    }

    fn write<T, W: SinkWriter<T>>(&mut self, writing: &mut Writing<W>, number: u64)
    where
        R: Fn(u64) -> T,
    {
        if self.random.one_in(30) {
            self.ok(writing.writer.flush());
        }
        while writing.writer.is_blocked() {
            writing.slot.sleep();
        }
        self.ok(writing.writer.write((self.test.record)(number), Timestamp::MIN));
    }

    fn finish<T, W: SinkWriter<T>>(&mut self, writing: &mut Writing<W>)
    where
        R: Fn(u64) -> T,
    {
        while !self.ok(writing.writer.finish()) {
            writing.slot.sleep();
        }
        writing.has_finished = true;
    }

    fn take_checkpoint<T, S>(
        &mut self,
        sink: &S,
        writers: &mut [Writing<S::Writer>],
        next: u64,
    ) -> Result<(), Killed>
    where
        T: 'static,
        S: Sink<T>,
        R: Fn(u64) -> T,
    {
        self.kill(12)?;
        let mut pre_commits = Vec::new();
        let mut prepared = Vec::new();
        for (index, writing) in writers.iter_mut().enumerate() {
            if let Some(last) = &writing.last {
                pre_commits.push(last.clone());
                continue;
            }
            let (pre_commit, ready) = self.pre_commit(writing);
            if writing.has_finished {
                writing.last = Some(pre_commit.clone());
            }
            pre_commits.push(pre_commit);
            prepared.push((index, ready));
            // Some writers have pre-committed, others have not.
            self.kill(30)?;
        }
        self.kill(12)?;
        for (index, ready) in prepared {
            let writing = &mut writers[index];
            let said = loop {
                match ready.try_recv() {
                    Ok(said) => break said,
                    Err(_) => {
                        // As a slot does: what waits for room is handed over now.
                        writing.writer.is_blocked();
                        writing.slot.sleep();
                    }
                }
            };
            self.ok(said);
        }
        self.kill(12)?;
        let is_last = writers.iter().all(|writer| writer.has_finished);
        if !is_last && self.random.one_in(5) {
            // It fails, because of somebody else, and the job goes on.
            return Ok(());
        }
        let states = pre_commits.iter().flat_map(|pre| pre.state.clone()).collect();
        let transactions = pre_commits.into_iter().filter_map(|pre| pre.transaction).collect();
        self.checkpoint = Checkpoint { is_complete: true, next, states, transactions, is_last };
        self.kill(12)?;
        self.commit(sink)
    }

    fn pre_commit<T, W: SinkWriter<T>>(
        &mut self,
        writing: &mut Writing<W>,
    ) -> (PreCommit, Receiver<Result<(), BoxError>>) {
        let (sender, ready) = channel();
        let waker = writing.slot.waker();
        let prepared = Prepared::new(move |said| {
            // An error means that the job has been killed.
            let _ = sender.send(said);
            waker.wake();
        });
        (self.ok(writing.writer.pre_commit(prepared)), ready)
    }

    fn commit<T, S: Sink<T>>(&mut self, sink: &S) -> Result<(), Killed> {
        let Checkpoint { next, transactions, is_last, .. } = self.checkpoint.clone();
        let visible = match self.test.appears {
            Appears::AtCheckpoints => next,
            Appears::AtTheEnd if is_last => next,
            Appears::AtTheEnd => 0,
        };
        if let Err(killed) = self.kill(12) {
            // Cut short: some are committed.
            let some = self.random.below(transactions.len() as u64 + 1) as usize;
            self.ok(sink.commit(&transactions[..some]));
            self.look(self.visible_records..visible.max(self.visible_records));
            return Err(killed);
        }
        self.ok(sink.commit(&transactions));
        self.visible_records = visible;
        self.look(visible..visible);
        Ok(())
    }
}
