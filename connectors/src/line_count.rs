//! The number of lines before a position of a file: needed only to say where a malformed record
//! is, when its reader did not start at the file's beginning. Counted when asked, by a thread.

use crate::error::ReadError;
use crate::io_thread::{IoThread, Stop};
use millstream::connector::SlotWaker;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

const CHUNK_BYTES: usize = 1 << 20;

/// A count under way.
pub(crate) struct LineCount {
    name: Arc<str>,
    result: Receiver<io::Result<u64>>,
    _thread: IoThread,
}

impl LineCount {
    /// Starts to count the line ends before byte `position`; wakes the slot when done.
    pub(crate) fn start(
        name: Arc<str>,
        path: PathBuf,
        position: u64,
        waker: SlotWaker,
    ) -> Result<Self, ReadError> {
        let (sender, result) = channel();
        let thread = IoThread::spawn("millstream-line", move |stop| {
            // An error means that nobody waits any more.
            let _ = sender.send(count(&path, position, &stop));
            drop(sender);
            waker.wake();
        });
        match thread {
            Ok(thread) => Ok(Self { name, result, _thread: thread }),
            Err(error) => Err(failed(&name, error)),
        }
    }

    /// The count, `None` as long as it is under way.
    pub(crate) fn try_get(&mut self) -> Result<Option<u64>, ReadError> {
        match self.result.try_recv() {
            Ok(Ok(lines)) => Ok(Some(lines)),
            Ok(Err(error)) => Err(failed(&self.name, error)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                Err(ReadError::ThreadDied { name: self.name.clone() })
            }
        }
    }
}

fn failed(name: &Arc<str>, error: io::Error) -> ReadError {
    ReadError::Io {
        name: name.to_string(),
        action: "count its lines to say where a malformed record is",
        error,
    }
}

fn count(path: &PathBuf, position: u64, stop: &Stop) -> io::Result<u64> {
    let mut file = File::open(path)?.take(position);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lines = 0;
    while !stop.is_set() {
        match file.read(&mut chunk)? {
            0 => break,
            count => lines += memchr::memchr_iter(b'\n', &chunk[..count]).count() as u64,
        }
    }
    Ok(lines)
}
