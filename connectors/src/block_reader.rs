//! The thread that reads and decompresses for a reader on a slot.
//!
//! # Invariants
//! - A block holds complete records only; the beginning of the next record is moved to the front
//!   of the next block. So the slot parses in place and never joins pieces.
//! - At most [`BLOCKS_MAX`] blocks are under way; a slow slot stops the thread, not the memory.
//! - A block's buffer is used again after [`BlockReader::recycle`].
//! - Every input yields `Begin`, then its blocks; an error ends everything.

use crate::error::ReadError;
use crate::format::Format;
use crate::io_thread::{IoThread, Stop};
use millstream::connector::SlotWaker;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

/// The size of a block; a longer record makes its own block grow.
pub(crate) const BLOCK_BYTES: usize = 256 << 10;
/// Blocks that may wait for the slot.
const BLOCKS_MAX: usize = 4;
/// The greatest record: protects memory against a file of another format.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Where records come from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) name: Arc<str>,
    /// Where the bytes before a split can be read again, to count lines.
    pub(crate) path: Option<PathBuf>,
}

/// Turns an error of reading the input of this name into one for users.
pub(crate) type Explain = fn(&str, io::Error) -> ReadError;

/// What the thread reads next.
pub(crate) struct Input {
    pub(crate) origin: Arc<Origin>,
    pub(crate) read: Box<dyn Read + Send>,
    /// The records to read are those whose first byte lies from here on; `read` starts at the byte
    /// before, or at 0.
    pub(crate) start: u64,
    /// And before this one, unless all that follow are to be read.
    pub(crate) end: Option<u64>,
    /// The lines before the first record, where they are known.
    pub(crate) lines_before: Option<u64>,
    /// The beginning of the file, if the format needs it and the range does not start there.
    pub(crate) head: Option<Vec<u8>>,
    /// True if every read is handed over at once, because the next may be long in coming.
    pub(crate) is_interactive: bool,
    /// What a failure of `read` means.
    pub(crate) explain: Explain,
}

/// Where the thread's inputs come from, one after the other.
pub(crate) trait Inputs: Send + 'static {
    /// Opens the next input, `None` after the last. May block, as long as it heeds `stop`.
    fn next(&mut self, stop: &Stop) -> Option<Result<Input, ReadError>>;
}

/// What a slot receives.
pub(crate) enum Message {
    Begin {
        origin: Arc<Origin>,
        /// The position of the first block.
        position: u64,
        /// The lines before that, where they are known.
        lines_before: Option<u64>,
        head: Option<Vec<u8>>,
    },
    Block(Block),
    Failed(ReadError),
    End,
}

/// Complete records.
pub(crate) struct Block {
    buffer: Vec<u8>,
    used: Range<usize>,
    /// Of the buffer's first byte, in the input.
    position: u64,
    /// Line ends in the blocks before this one, back to the input's `Begin`.
    pub(crate) lines_before: u64,
}

impl Block {
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.used.clone()]
    }

    /// The position in the input, when so many bytes have been parsed.
    pub(crate) fn position(&self, parsed: usize) -> u64 {
        // A mark at the beginning is not parsed, and not passed before the first record is.
        let parsed = if parsed == 0 { 0 } else { self.used.start + parsed };
        self.position + parsed as u64
    }
}

/// What is there for the slot.
pub(crate) enum Next {
    Message(Message),
    /// The slot will be woken.
    Nothing,
}

/// The slot's side. Dropping it stops the thread.
pub(crate) struct BlockReader {
    // Before the thread: a thread that waits to hand over ends when the channel closes.
    messages: Receiver<Message>,
    recycled: Sender<Vec<u8>>,
    _thread: IoThread,
}

impl BlockReader {
    /// Starts the thread.
    pub(crate) fn spawn<F: Format>(
        inputs: impl Inputs,
        format: F,
        waker: SlotWaker,
    ) -> io::Result<Self> {
        let (sender, messages) = sync_channel(BLOCKS_MAX);
        let (recycled, buffers) = channel();
        let thread = IoThread::spawn("millstream-read", move |stop| {
            let closing = WakeAtEnd(waker.clone());
            let mut reading = Reading { format, sender, buffers, waker };
            // An error means that the slot's side is gone.
            let _ = reading.run(inputs, &stop);
            drop(reading);
            drop(closing);
        })?;
        Ok(Self { messages, recycled, _thread: thread })
    }

    /// What comes next; never blocks. `name` is for the error if the thread has died.
    pub(crate) fn try_next(&mut self, name: &Arc<str>) -> Result<Next, ReadError> {
        match self.messages.try_recv() {
            Ok(message) => Ok(Next::Message(message)),
            Err(TryRecvError::Empty) => Ok(Next::Nothing),
            Err(TryRecvError::Disconnected) => Err(ReadError::ThreadDied { name: name.clone() }),
        }
    }

    /// Hands a consumed block back.
    pub(crate) fn recycle(&mut self, block: Block) {
        // An error means that the thread has read everything.
        let _ = self.recycled.send(block.buffer);
    }
}

/// Wakes the slot after the channel has been closed, also when the thread panicked.
struct WakeAtEnd(SlotWaker);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// The slot's side is gone.
struct Gone;

struct Reading<F> {
    format: F,
    sender: SyncSender<Message>,
    buffers: Receiver<Vec<u8>>,
    waker: SlotWaker,
}

impl<F: Format> Reading<F> {
    fn run(&mut self, mut inputs: impl Inputs, stop: &Stop) -> Result<(), Gone> {
        while let Some(input) = inputs.next(stop) {
            let outcome = match input {
                Ok(input) => self.read(input)?,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return self.send(Message::Failed(error));
            }
        }
        self.send(Message::End)
    }

    fn send(&mut self, message: Message) -> Result<(), Gone> {
        self.sender.send(message).map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }

    /// A buffer whose bytes are initialised, so that it can be read into.
    fn buffer(&mut self) -> Vec<u8> {
        match self.buffers.try_recv() {
            Ok(buffer) if buffer.len() == BLOCK_BYTES => buffer,
            _ => vec![0; BLOCK_BYTES],
        }
    }

    fn read(&mut self, mut input: Input) -> Result<Result<(), ReadError>, Gone> {
        let (start, end) = (input.start, input.end);
        let mut window = Window {
            buffer: self.buffer(),
            filled: 0,
            position: start.saturating_sub(1),
            lines_before: 0,
        };
        // A line belongs to the range in which its first byte lies. So a range that does not
        // start the file begins behind the first line end at or after the byte before it.
        let mut skipping = start > 0;
        let mut begun = false;
        loop {
            let at_end = match window.fill(&mut input) {
                Ok(count) => count == 0,
                Err(error) => return Ok(Err(error)),
            };
            if skipping {
                skipping = !window.skip_line();
                if skipping && !at_end {
                    continue;
                }
            }
            let past_range = end.is_some_and(|end| window.position >= end);
            let cut = match end.and_then(|end| window.end_of_range(end)) {
                _ if past_range => Some(0),
                Some(cut) => Some(cut),
                None if at_end => Some(window.filled),
                None => None,
            };
            let complete =
                cut.unwrap_or_else(|| self.format.complete_prefix(&window.buffer[..window.filled]));
            if !begun && (complete > 0 || cut.is_some()) {
                begun = true;
                let (origin, head) = (input.origin.clone(), input.head.take());
                let (position, lines_before) = (window.position, input.lines_before);
                self.send(Message::Begin { origin, position, lines_before, head })?;
            }
            if complete > 0 {
                let next = self.buffer();
                self.send(Message::Block(window.take(complete, next)))?;
            }
            if cut.is_some() {
                return Ok(Ok(()));
            }
        }
    }
}

/// Bytes that have been read and not yet handed over.
struct Window {
    buffer: Vec<u8>,
    filled: usize,
    /// Of the first byte of the buffer, in the input.
    position: u64,
    lines_before: u64,
}

impl Window {
    /// Reads until there is enough for a block, at least one byte unless the input ends; returns
    /// the number of bytes read.
    fn fill(&mut self, input: &mut Input) -> Result<usize, ReadError> {
        if self.filled == self.buffer.len() {
            // A record longer than the buffer.
            if self.filled >= RECORD_BYTES_MAX {
                let name = input.origin.name.to_string();
                return Err(ReadError::RecordTooLong { name, limit_bytes: RECORD_BYTES_MAX });
            }
            self.buffer.resize(2 * self.filled, 0);
        }
        let before = self.filled;
        loop {
            match input.read.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    self.filled += count;
                    // Decoders return a little at a time: gather enough to be worth a hand-over.
                    if input.is_interactive || self.filled > self.buffer.len() / 2 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((input.explain)(&input.origin.name, error)),
            }
        }
        Ok(self.filled - before)
    }

    /// Drops everything up to and with the first line end; false if there was none.
    fn skip_line(&mut self) -> bool {
        let newline = memchr::memchr(b'\n', &self.buffer[..self.filled]);
        let drop = newline.map_or(self.filled, |newline| newline + 1);
        self.buffer.copy_within(drop..self.filled, 0);
        self.filled -= drop;
        self.position += drop as u64;
        newline.is_some()
    }

    /// The bytes up to the end of the last line that starts before `end`, if it has been read.
    fn end_of_range(&self, end: u64) -> Option<usize> {
        let from = usize::try_from((end - 1).checked_sub(self.position)?).ok()?;
        let rest = self.buffer[..self.filled].get(from..)?;
        memchr::memchr(b'\n', rest).map(|newline| from + newline + 1)
    }

    /// Takes the first `complete` bytes as a block; the rest moves into `next`.
    fn take(&mut self, complete: usize, mut next: Vec<u8>) -> Block {
        let rest = self.filled - complete;
        if next.len() < rest {
            next.resize(rest, 0);
        }
        next[..rest].copy_from_slice(&self.buffer[complete..self.filled]);
        let buffer = std::mem::replace(&mut self.buffer, next);
        // Editors on other systems start a text with it; no record contains it.
        let mark = self.position == 0 && buffer[..complete].starts_with(BYTE_ORDER_MARK);
        let start = if mark { BYTE_ORDER_MARK.len() } else { 0 };
        let (position, lines_before) = (self.position, self.lines_before);
        self.filled = rest;
        self.position += complete as u64;
        self.lines_before += memchr::memchr_iter(b'\n', &buffer[..complete]).count() as u64;
        Block { buffer, used: start..complete, position, lines_before }
    }
}

#[cfg(test)]
mod tests;
