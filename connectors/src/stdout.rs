//! Standard output.

use crate::block_writer::Output;
use crate::encoder::{CsvEncoder, Encoder, JsonEncoder, TextEncoder};
use crate::error::WriteError;
use crate::io_thread::{Stop, write_stoppable};
use crate::record_writer::{FlushPolicy, RecordWriter};
use crate::table::TableEncoder;
use millstream::connector::{BoxError, Sink, SinkContext};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

const NAME: &str = "standard output";

/// Writes records to standard output, as soon as the input runs dry or a block is full.
///
/// What a person or another program has read cannot be taken back: what follows the last checkpoint is
/// written again if the job is restored.
///
/// The lines of several subtasks are mixed, but each stays whole (in a pipe: if it is no longer
/// than 4096 bytes). If the reader closes the pipe, the job ends with an error for which
/// [`is_closed_output`](crate::is_closed_output) is true.
#[derive(Clone, Debug)]
pub struct StdoutSink<E> {
    encoder: E,
}

impl<E> StdoutSink<E> {
    /// Writes records as `encoder` has them.
    pub fn new(encoder: E) -> Self {
        Self { encoder }
    }
}

impl StdoutSink<TextEncoder> {
    /// Each record as it displays itself.
    pub fn text() -> Self {
        Self::new(TextEncoder)
    }
}

impl StdoutSink<CsvEncoder> {
    /// Comma-separated values with a header.
    pub fn csv() -> Self {
        Self::new(CsvEncoder::new())
    }
}

impl StdoutSink<JsonEncoder> {
    /// JSON lines.
    pub fn json() -> Self {
        Self::new(JsonEncoder)
    }
}

impl StdoutSink<TableEncoder> {
    /// Aligned columns under their names.
    pub fn table() -> Self {
        Self::new(TableEncoder::new())
    }
}

impl<T: 'static, E: Encoder<T>> Sink<T> for StdoutSink<E> {
    type Writer = RecordWriter<E>;

    fn restores_alone(&self) -> bool {
        true
    }

    fn open(self, context: &SinkContext) -> Result<Self::Writer, BoxError> {
        // A descriptor of its own, past the buffer and the lock of the standard library, which
        // a thread that waits for a slow reader would hold.
        let stream = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| WriteError::io(NAME, "open it", error))?;
        let output = StreamOutput::new(NAME, stream.into());
        RecordWriter::open(NAME.to_owned(), output, self.encoder, FlushPolicy::WhenDry, context)
    }
}

/// A pipe, a terminal, or whatever else a standard stream may be.
struct StreamOutput {
    name: &'static str,
    stream: File,
    /// A file takes all at once, and subtasks that share it take turns in the kernel.
    is_regular: bool,
}

impl StreamOutput {
    fn new(name: &'static str, stream: File) -> Self {
        let is_regular = stream.metadata().is_ok_and(|metadata| metadata.is_file());
        Self { name, stream, is_regular }
    }
}

impl Output for StreamOutput {
    fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<bool, WriteError> {
        let written = match self.is_regular {
            true => self.stream.write_all(bytes).map(|()| true),
            false => write_stoppable(&mut self.stream, bytes, stop),
        };
        written.map_err(|error| WriteError::io(self.name, "write it", error))
    }

    fn pre_commit(&mut self) -> Result<(), WriteError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Slot;
    use crate::error::is_closed_output;
    use millstream::connector::{SinkWriter, Timestamp};
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;

    fn writer(slot: &Slot) -> (PipeReader, RecordWriter<TextEncoder>) {
        let (reader, pipe) = io::pipe().unwrap();
        let output = StreamOutput::new(NAME, OwnedFd::from(pipe).into());
        let context = slot.sink_context(0, 1);
        let name = NAME.to_owned();
        let writer =
            RecordWriter::open(name, output, TextEncoder, FlushPolicy::WhenDry, &context).unwrap();
        (reader, writer)
    }

    fn write(writer: &mut RecordWriter<TextEncoder>, line: &str) -> Result<(), BoxError> {
        SinkWriter::<String>::write(writer, line.to_owned(), Timestamp::MIN)
    }

    fn flush(writer: &mut RecordWriter<TextEncoder>) -> Result<(), BoxError> {
        SinkWriter::<String>::flush(writer)
    }

    fn is_blocked(writer: &mut RecordWriter<TextEncoder>) -> bool {
        SinkWriter::<String>::is_blocked(writer)
    }

    #[test]
    fn a_flush_lets_the_reader_see_single_records() {
        let (mut reader, mut writer) = writer(&Slot::default());
        let mut seen = [0; 4];
        for line in ["one", "two"] {
            write(&mut writer, line).unwrap();
            flush(&mut writer).unwrap();
            reader.read_exact(&mut seen).unwrap();
            assert_eq!(seen, format!("{line}\n").as_bytes());
        }
    }

    #[test]
    fn a_reader_that_stops_blocks_the_writer_and_wakes_it_when_it_goes_on() {
        let slot = Slot::default();
        let (mut reader, mut writer) = writer(&slot);
        let line = "x".repeat(999);
        let mut written = 0;
        while !is_blocked(&mut writer) {
            write(&mut writer, &line).unwrap();
            written += 1;
        }
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        while is_blocked(&mut writer) {
            slot.sleep();
        }
        while !SinkWriter::<String>::finish(&mut writer).unwrap() {
            slot.sleep();
        }
        drop(writer);
        let text = reading.join().unwrap();
        assert_eq!(text.len(), 1000 * written);
        assert!(text.lines().all(|read| read == line));
    }

    #[test]
    fn a_writer_that_is_dropped_while_its_reader_is_stuck_ends() {
        let (reader, mut writer) = writer(&Slot::default());
        while !is_blocked(&mut writer) {
            write(&mut writer, &"x".repeat(999)).unwrap();
        }
        // Joins its thread, which would wait for the reader for ever.
        drop(writer);
        drop(reader);
    }

    #[test]
    fn a_closed_pipe_is_told_apart_from_failures() {
        let slot = Slot::default();
        let (reader, mut writer) = writer(&slot);
        drop(reader);
        write(&mut writer, "unseen").unwrap();
        let error = loop {
            match SinkWriter::<String>::finish(&mut writer) {
                Ok(false) => slot.sleep(),
                Ok(true) => panic!("nobody can have read it"),
                Err(error) => break error,
            }
        };
        assert!(is_closed_output(&*error), "{error}");
        let job = millstream::JobError::Failed { operator: "out".to_owned(), subtask: 0, error };
        assert!(is_closed_output(&job), "{job}");
        assert!(!is_closed_output(&io::Error::from(io::ErrorKind::BrokenPipe)));
    }
}
