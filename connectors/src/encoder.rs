//! How records become bytes.

use millstream::connector::BoxError;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How the records of one writer become bytes. An encoder is cloned per writer.
pub trait Encoder<T>: Clone + Send + 'static {
    /// Appends a record, with its line end, or keeps it until [`Encoder::flush`].
    ///
    /// # Errors
    /// If the record cannot be expressed; fails the job.
    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Appends what was kept back. Called when the input has run dry, and at its end.
    ///
    /// # Errors
    /// See [`Encoder::encode`].
    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let _ = out;
        Ok(())
    }

    /// Called before the first record if what is encoded goes behind what another encoder of the same
    /// kind has encoded: a header is there already.
    fn resume(&mut self) {}
}

/// Each record as it displays itself, on a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextEncoder;

impl<T: Display> Encoder<T> for TextEncoder {
    #[inline]
    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        writeln!(out, "{value}")?;
        Ok(())
    }
}

/// Each record as a JSON value, on a line.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonEncoder;

impl<T: Serialize> Encoder<T> for JsonEncoder {
    #[inline]
    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let start = out.len();
        if let Err(error) = serde_json::to_writer(&mut *out, value) {
            out.truncate(start);
            return Err(error.into());
        }
        out.push(b'\n');
        Ok(())
    }
}

/// Each record as comma-separated values, quoted where needed, after a header with the names of
/// a struct's fields. Every file of a sink with several subtasks has its header.
#[derive(Debug)]
pub struct CsvEncoder {
    delimiter: u8,
    has_header: bool,
    /// Made with the first record, which tells the header.
    writer: Option<csv::Writer<Target>>,
    target: Target,
}

impl CsvEncoder {
    /// Separated by commas, with a header.
    pub fn new() -> Self {
        Self { delimiter: b',', has_header: true, writer: None, target: Target::default() }
    }

    /// Separates values by this byte.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Writes no header.
    pub fn without_header(mut self) -> Self {
        self.has_header = false;
        self
    }
}

impl Default for CsvEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for CsvEncoder {
    /// An encoder with the same settings, at the beginning of its file.
    fn clone(&self) -> Self {
        Self {
            delimiter: self.delimiter,
            has_header: self.has_header,
            writer: None,
            target: Target::default(),
        }
    }
}

impl<T: Serialize> Encoder<T> for CsvEncoder {
    fn resume(&mut self) {
        self.has_header = false;
    }

    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let writer = self.writer.get_or_insert_with(|| {
            csv::WriterBuilder::new()
                .delimiter(self.delimiter)
                .has_headers(self.has_header)
                .from_writer(self.target.clone())
        });
        self.target.swap(out);
        let written = writer.serialize(value).and_then(|()| Ok(writer.flush()?));
        self.target.swap(out);
        written?;
        Ok(())
    }
}

/// What the CSV writer, which owns its output, appends to. Never contended: shared only because
/// encoders are sent to their subtasks.
#[derive(Clone, Debug, Default)]
struct Target(Arc<Mutex<Vec<u8>>>);

impl Target {
    fn swap(&self, out: &mut Vec<u8>) {
        std::mem::swap(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), out);
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
