//! A writer on a slot: encodes records into blocks, which its thread writes.

use crate::block_writer::{BlockWriter, Output};
use crate::encoder::Encoder;
use crate::error::WriteError;
use millstream::connector::{BoxError, PreCommit, Prepared, SinkContext, SinkWriter, Timestamp};

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

    /// How many bytes were written so far, before any compression.
    pub(crate) fn position(&self) -> u64 {
        self.writer.position()
    }

    /// False once everything has been handed over.
    pub(crate) fn is_writing(&self) -> bool {
        self.writer.is_writing()
    }

    /// Begins with an encoder of its own behind what was written so far, as at the start of a file.
    pub(crate) fn restart_encoder(&mut self, encoder: E) {
        self.encoder = encoder;
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

    /// Hands over all that was written; it is prepared when the thread has made it as durable as the
    /// output can be.
    fn pre_commit(&mut self, prepared: Prepared) -> Result<PreCommit, BoxError> {
        if self.writer.is_writing() {
            self.flush_encoder()?;
        }
        self.writer.pre_commit(prepared)?;
        Ok(PreCommit::default())
    }
}
