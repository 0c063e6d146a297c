//! Standard input.

use crate::block_reader::{Input, Inputs, Origin};
use crate::emission::{Emission, Records, Results};
use crate::error::ReadError;
use crate::format::{Format, OnMalformed};
use crate::io_thread::{Stop, StoppableRead};
use crate::record_reader::{ReadOptions, RecordReader};
use millstream::connector::{BoxError, Source, SourceContext};
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const NAME: &str = "stdin";

/// Reads records from standard input, with one subtask, as they come. The job ends with the
/// input. One that is resumed from a checkpoint goes on with what comes next: what was read once
/// cannot be read again.
#[derive(Debug)]
pub struct StdinSource<F, E = Records> {
    options: ReadOptions<F>,
    emission: PhantomData<fn() -> E>,
}

impl<F: Clone, E> Clone for StdinSource<F, E> {
    fn clone(&self) -> Self {
        Self { options: self.options.clone(), emission: PhantomData }
    }
}

impl<F: Format> StdinSource<F> {
    /// Reads records of this format.
    pub fn new(format: F) -> Self {
        let options = ReadOptions { format, on_malformed: OnMalformed::Fail, limit: None };
        Self { options, emission: PhantomData }
    }

    /// Says what becomes of malformed records; [`OnMalformed::Fail`] if never called.
    pub fn on_malformed(mut self, policy: OnMalformed) -> Self {
        self.options.on_malformed = policy;
        self
    }

    /// Emits `Result<record, Malformed>`, so that malformed records can be processed too.
    pub fn with_malformed(self) -> StdinSource<F, Results> {
        StdinSource { options: self.options, emission: PhantomData }
    }
}

impl<F: Format, E: Emission<F::Record>> Source for StdinSource<F, E> {
    type Out = E::Out;
    type Reader = RecordReader<F, E>;

    fn parallelism(&self) -> Option<u32> {
        Some(1)
    }

    fn is_replayable(&self) -> bool {
        false
    }

    fn open(self, context: &SourceContext) -> Result<Self::Reader, BoxError> {
        if context.subtask.0 > 0 {
            // A subtask too many reads nothing.
            return RecordReader::open(StreamInput(None), NAME, self.options, context);
        }
        // A descriptor of its own, past the buffer and the lock of the standard library.
        let stream =
            io::stdin().as_fd().try_clone_to_owned().map_err(|error| explain(NAME, error))?;
        RecordReader::open(StreamInput::new(NAME, stream), NAME, self.options, context)
    }
}

/// One stream that is read as its bytes come.
struct StreamInput(Option<(Arc<str>, OwnedFd)>);

impl StreamInput {
    fn new(name: &str, stream: OwnedFd) -> Self {
        Self(Some((name.into(), stream)))
    }
}

impl Inputs for StreamInput {
    fn next(&mut self, stop: &Stop) -> Option<Result<Input, ReadError>> {
        let (name, stream) = self.0.take()?;
        Some(Ok(Input {
            origin: Arc::new(Origin { name, path: None }),
            read: Box::new(StoppableRead::new(File::from(stream), stop.clone())),
            start: 0,
            end: None,
            lines_before: Some(0),
            head: None,
            is_interactive: true,
            explain,
        }))
    }
}

fn explain(name: &str, error: io::Error) -> ReadError {
    ReadError::Io { name: name.to_owned(), action: "read it", error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Reading, Slot};
    use crate::format::TextLines;
    use millstream::connector::JobCounters;
    use std::io::{PipeWriter, Write};

    fn reading() -> (PipeWriter, Reading<RecordReader<TextLines, Records>>) {
        let (stream, writer) = io::pipe().unwrap();
        let slot = Slot::default();
        let context = slot.source_context(0, 1, &Arc::new(JobCounters::default()));
        let options =
            ReadOptions { format: TextLines, on_malformed: OnMalformed::Fail, limit: None };
        let input = StreamInput::new(NAME, stream.into());
        let reader = RecordReader::open(input, NAME, options, &context).unwrap();
        (writer, Reading::new(slot, reader))
    }

    #[test]
    fn lines_are_records_as_soon_as_they_are_complete() {
        let (mut writer, mut reading) = reading();
        writer.write_all(b"one\ntw").unwrap();
        reading.until(1).unwrap();
        assert_eq!(reading.out.values, ["one"]);
        writer.write_all(b"o\nthree\nfo").unwrap();
        reading.until(3).unwrap();
        writer.write_all(b"ur").unwrap();
        drop(writer);
        assert_eq!(reading.finish().unwrap(), ["one", "two", "three", "four"]);
    }

    #[test]
    fn malformed_lines_are_counted_from_the_beginning_of_the_stream() {
        let (mut writer, reading) = reading();
        writer.write_all(b"one\n\xff\n").unwrap();
        drop(writer);
        let error = reading.finish().unwrap_err().to_string();
        assert!(error.starts_with("stdin:2:1: not UTF-8"), "{error}");
    }

    #[test]
    fn a_reader_that_waits_for_input_can_be_dropped() {
        let (writer, reading) = reading();
        // Joins its thread, which would wait for input for ever.
        drop(reading);
        drop(writer);
    }
}
