//! The thread that compresses, writes and syncs for a writer on a slot.
//!
//! # Invariants
//! - Blocks are written in the order in which they were handed over, each once.
//! - At most [`BLOCKS_MAX`] blocks wait; then [`BlockWriter::is_blocked`] says so, and the slot is
//!   woken when there is room again.
//! - A pre-commit is behind all blocks that were handed over before it.
//! - After a failure nothing more is written; the writer learns of it at its next call.

use crate::error::WriteError;
use crate::io_thread::{IoThread, Stop};
use millstream::connector::{Prepared, SlotWaker};
use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{
    Receiver, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel,
};

/// A buffer of this size is handed over.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;
/// Room for the record that fills a block.
const BLOCK_SLACK_BYTES: usize = 4 << 10;
/// Blocks that may wait for the thread.
const BLOCKS_MAX: usize = 4;
/// Larger buffers, left behind by large records, are freed rather than used again.
const KEPT_BYTES_MAX: usize = 4 * BLOCK_BYTES;

/// Where the thread writes to.
pub(crate) trait Output: Send + 'static {
    /// Writes all of `bytes`; false to end quietly because the owner is gone.
    fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<bool, WriteError>;

    /// Makes durable what was written, in a form that is whole without what follows.
    fn pre_commit(&mut self) -> Result<(), WriteError>;

    /// Makes durable what was written. Called once, after the last block.
    fn finish(&mut self) -> Result<(), WriteError>;
}

enum Order {
    Write(Vec<u8>),
    PreCommit(Prepared),
    Finish,
}

enum Report {
    /// An empty buffer, or one that need not be kept.
    Written(Vec<u8>),
    Finished,
    Failed(WriteError),
}

/// The slot's side. Dropping it without [`BlockWriter::finish`] writes what was handed over, as
/// far as that takes no waiting, and stops the thread.
pub(crate) struct BlockWriter {
    name: String,
    current: Vec<u8>,
    /// Bytes that have left `current`.
    position: u64,
    /// What has to be ordered before anything else and found no room: at most a block and a pre-commit
    /// for each checkpoint under way.
    waiting: VecDeque<Order>,
    /// To be told at the end.
    at_finish: Vec<Prepared>,
    spare: Vec<Vec<u8>>,
    state: State,
    /// An error that [`BlockWriter::is_blocked`] came upon and could not return.
    failed: Option<WriteError>,
    /// True if less than a block shall go out as soon as there is room.
    flushing: bool,
    // Before the thread, which ends when its channel closes.
    orders: SyncSender<Order>,
    reports: Receiver<Report>,
    _thread: IoThread,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    Finishing,
    Finished,
}

impl BlockWriter {
    /// Starts the thread. `name` is what errors call the output.
    pub(crate) fn spawn(
        name: String,
        mut output: impl Output,
        waker: SlotWaker,
    ) -> Result<Self, io::Error> {
        let (orders, received) = sync_channel(BLOCKS_MAX);
        let (sender, reports) = channel();
        let thread = IoThread::spawn("millstream-sink", move |stop| {
            let mut reporting = Reporting { sender: Some(sender), waker };
            serve(&mut output, &received, &mut reporting, &stop);
        })?;
        Ok(Self {
            name,
            current: new_buffer(),
            position: 0,
            waiting: VecDeque::new(),
            at_finish: Vec::new(),
            spare: Vec::new(),
            state: State::Writing,
            failed: None,
            flushing: false,
            orders,
            reports,
            _thread: thread,
        })
    }

    /// What errors call the output.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where to append records. Call [`BlockWriter::appended`] afterwards.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.current
    }

    /// Hands the buffer over if it is full and the thread has room.
    #[inline]
    pub(crate) fn appended(&mut self) -> Result<(), WriteError> {
        if self.current.len() >= BLOCK_BYTES { self.hand_over().map(|_| ()) } else { Ok(()) }
    }

    /// Hands over what there is, now or as soon as the thread has room.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        self.flushing = !self.hand_over()?;
        Ok(())
    }

    /// Hands over what there is; false if the thread has no room.
    fn hand_over(&mut self) -> Result<bool, WriteError> {
        assert!(self.state == State::Writing, "nothing is written after the end");
        self.take_reports()?;
        if !self.order_waiting()? {
            return Ok(false);
        }
        if self.current.is_empty() {
            return Ok(true);
        }
        let block = std::mem::take(&mut self.current);
        let bytes = block.len() as u64;
        match self.orders.try_send(Order::Write(block)) {
            Ok(()) => {
                self.current = self.spare.pop().unwrap_or_else(new_buffer);
                self.position += bytes;
                Ok(true)
            }
            Err(TrySendError::Full(Order::Write(block))) => {
                self.current = block;
                Ok(false)
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Orders what waits; false if the thread has no room for all of it.
    fn order_waiting(&mut self) -> Result<bool, WriteError> {
        while let Some(order) = self.waiting.pop_front() {
            match self.orders.try_send(order) {
                Ok(()) => {}
                Err(TrySendError::Full(order)) => {
                    self.waiting.push_front(order);
                    return Ok(false);
                }
                Err(TrySendError::Disconnected(_)) => return Err(self.failure()),
            }
        }
        Ok(true)
    }

    /// How many bytes were appended so far.
    pub(crate) fn position(&self) -> u64 {
        self.position + self.current.len() as u64
    }

    /// Has all that was appended so far made durable, and `prepared` told when it is.
    pub(crate) fn pre_commit(&mut self, prepared: Prepared) -> Result<(), WriteError> {
        if self.state == State::Finished {
            prepared.ready();
            return Ok(());
        }
        if self.state == State::Finishing {
            self.at_finish.push(prepared);
            return self.take_reports();
        }
        self.take_reports()?;
        if !self.current.is_empty() {
            self.position += self.current.len() as u64;
            let next = self.spare.pop().unwrap_or_else(new_buffer);
            self.waiting.push_back(Order::Write(std::mem::replace(&mut self.current, next)));
        }
        self.waiting.push_back(Order::PreCommit(prepared));
        self.order_waiting().map(|_| ())
    }

    /// False once the last block has been handed over.
    pub(crate) fn is_writing(&self) -> bool {
        self.state == State::Writing
    }

    /// True if a full buffer waits because the thread has no room. Retries what waits.
    pub(crate) fn is_blocked(&mut self) -> bool {
        let is_full = self.current.len() >= BLOCK_BYTES;
        if self.state != State::Writing || !(is_full || self.flushing || !self.waiting.is_empty()) {
            return false;
        }
        let retried = if is_full || self.flushing {
            self.hand_over()
        } else {
            self.take_reports().and_then(|()| self.order_waiting())
        };
        match retried {
            Ok(done) => {
                self.flushing &= !done;
                is_full && !done
            }
            Err(error) => {
                // Not blocked, so that a call follows that can return it.
                self.failed = Some(error);
                false
            }
        }
    }

    /// Hands over the rest and waits for the thread's end; call it again until it returns true.
    /// The slot is woken in between.
    pub(crate) fn finish(&mut self) -> Result<bool, WriteError> {
        if self.state == State::Writing {
            if !self.hand_over()? {
                return Ok(false);
            }
            match self.orders.try_send(Order::Finish) {
                Ok(()) => self.state = State::Finishing,
                Err(TrySendError::Full(_)) => return Ok(false),
                Err(TrySendError::Disconnected(_)) => return Err(self.failure()),
            }
        }
        self.take_reports()?;
        Ok(self.state == State::Finished)
    }

    fn take_reports(&mut self) -> Result<(), WriteError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        loop {
            match self.reports.try_recv() {
                Ok(Report::Written(buffer)) => {
                    if buffer.capacity() <= KEPT_BYTES_MAX {
                        self.spare.push(buffer);
                    }
                }
                Ok(Report::Finished) => {
                    self.state = State::Finished;
                    self.at_finish.drain(..).for_each(Prepared::ready);
                }
                Ok(Report::Failed(error)) => return Err(error),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) if self.state == State::Finished => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    return Err(WriteError::ThreadDied { name: self.name.clone() });
                }
            }
        }
    }

    /// Why the thread has ended.
    fn failure(&mut self) -> WriteError {
        match self.take_reports() {
            Err(error) => error,
            Ok(()) => WriteError::ThreadDied { name: self.name.clone() },
        }
    }
}

fn new_buffer() -> Vec<u8> {
    Vec::with_capacity(BLOCK_BYTES + BLOCK_SLACK_BYTES)
}

/// Reports to the slot and wakes it; wakes it too when the thread ends, by panic or not.
struct Reporting {
    sender: Option<Sender<Report>>,
    waker: SlotWaker,
}

impl Reporting {
    fn send(&mut self, report: Report) {
        if let Some(sender) = &self.sender {
            // An error means that the slot's side is gone.
            let _ = sender.send(report);
        }
        self.waker.wake();
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.sender = None;
        self.waker.wake();
    }
}

fn serve(
    output: &mut impl Output,
    orders: &Receiver<Order>,
    reporting: &mut Reporting,
    stop: &Stop,
) {
    // The channel closes when the writer is dropped.
    while let Ok(order) = orders.recv() {
        match order {
            Order::Write(mut block) => match output.write(&block, stop) {
                Ok(true) => {
                    block.clear();
                    reporting.send(Report::Written(block));
                }
                Ok(false) => return,
                Err(error) => return reporting.send(Report::Failed(error)),
            },
            Order::PreCommit(prepared) => {
                if stop.is_set() {
                    return;
                }
                match output.pre_commit() {
                    Ok(()) => prepared.ready(),
                    Err(error) => {
                        prepared.failed(error.to_string().into());
                        return reporting.send(Report::Failed(error));
                    }
                }
                // There is room for another order.
                reporting.waker.wake();
            }
            Order::Finish => {
                return reporting.send(match output.finish() {
                    Ok(()) => Report::Finished,
                    Err(error) => Report::Failed(error),
                });
            }
        }
    }
}
