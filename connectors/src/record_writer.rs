//! A writer on a slot: encodes records into blocks, which its thread writes.

use crate::block_writer::{BlockWriter, Output};
use crate::encoder::Encoder;
use crate::error::WriteError;
use millstream::connector::{BoxError, SinkContext, SinkWriter, Timestamp};

/// When records leave the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushPolicy {
    /// In full blocks only, and at the end.
    FullBlocks,
    /// Also when the input runs dry, because somebody is watching.
    WhenDry,
}

/// Writes the records of one subtask.
pub struct RecordWriter<E> {
    writer: BlockWriter,
    encoder: E,
    flush: FlushPolicy,
}

impl<E> RecordWriter<E> {
    /// Starts to write to `output`, which errors call `name`.
    pub(crate) fn open(
        name: String,
        output: impl Output,
        encoder: E,
        flush: FlushPolicy,
        context: &SinkContext,
    ) -> Result<Self, BoxError> {
        let writer =
            BlockWriter::spawn(name.clone(), output, context.waker.clone()).map_err(|error| {
                WriteError::Io { name, action: "start the thread that writes it", error }
            })?;
        Ok(Self { writer, encoder, flush })
    }

    #[cold]
    fn encoding_failed(&self, error: BoxError) -> BoxError {
        let name = self.writer.name().to_owned();
        WriteError::Encoding { name, reason: error.to_string() }.into()
    }

    fn flush_encoder<T>(&mut self) -> Result<(), BoxError>
    where
        E: Encoder<T>,
    {
        self.encoder.flush(self.writer.buffer()).map_err(|error| self.encoding_failed(error))
    }
}

impl<T, E: Encoder<T>> SinkWriter<T> for RecordWriter<E> {
    #[inline]
    fn write(&mut self, value: T, _: Timestamp) -> Result<(), BoxError> {
        if let Err(error) = self.encoder.encode(&value, self.writer.buffer()) {
            return Err(self.encoding_failed(error));
        }
        Ok(self.writer.appended()?)
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        if self.flush == FlushPolicy::WhenDry && self.writer.is_writing() {
            self.flush_encoder()?;
            self.writer.flush()?;
        }
        Ok(())
    }

    fn is_blocked(&mut self) -> bool {
        self.writer.is_blocked()
    }

    fn finish(&mut self) -> Result<bool, BoxError> {
        if self.writer.is_writing() {
            self.flush_encoder()?;
        }
        Ok(self.writer.finish()?)
    }
}
