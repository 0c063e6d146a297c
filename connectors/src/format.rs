//! How bytes become records.
//!
//! # Invariants
//! - The reading thread cuts its input into blocks of complete records
//!   ([`Format::complete_prefix`]); the slot parses them in place ([`Format::next`]). A record
//!   that straddles two reads is moved once, in the reading thread; all others never.
//! - A format is cloned per reader and sees the records of one split in their order, after a call
//!   of [`Format::begin`].

mod csv;
mod csv_fields;
mod json_lines;
mod text_lines;

pub use self::csv::Csv;
pub use json_lines::JsonLines;
pub use text_lines::TextLines;

use std::fmt;

/// How the bytes of an input become records.
///
/// The provided methods suit formats with one record per line.
pub trait Format: Clone + Send + 'static {
    /// What a record becomes.
    type Record: 'static;

    /// Consumes one record from the front of `bytes`, which consist of complete records and are
    /// not empty; the last record of an input may lack its line end.
    ///
    /// Returns the number of bytes consumed, at least one, and the record: `None` for what is no
    /// record (a header, a blank line).
    fn next(&mut self, bytes: &[u8]) -> (usize, Option<Result<Self::Record, Problem>>);

    /// The length of the longest prefix of `bytes` that consists of complete records; zero if not
    /// even the first is complete. `bytes` starts with a record. Called by the reading thread.
    fn complete_prefix(&self, bytes: &[u8]) -> usize {
        memchr::memrchr(b'\n', bytes).map_or(0, |newline| newline + 1)
    }

    /// True if every line end ends a record, so that several readers can share a file.
    fn is_splittable(&self) -> bool {
        true
    }

    /// True if how records are parsed depends on an input's first one, such as a header.
    fn needs_first_record(&self) -> bool {
        false
    }

    /// Called before the first record of a split. With [`Format::needs_first_record`], `head` holds
    /// the beginning of the input, with the complete first record, where the split starts further
    /// on; where it is `None`, the split itself starts with it.
    fn begin(&mut self, head: Option<&[u8]>) {
        let _ = head;
    }
}

/// Why a record could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, in bytes from the record's start.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

/// A record that could not be parsed. Displayed as `FILE:LINE:COLUMN: message`.
#[millstream::record]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The input's name: a file's path, `stdin`, or an address.
    pub file: String,
    /// The line in the input, from 1; in compressed files, of what they contain.
    pub line: u64,
    /// The column in the line, in characters from 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// The whole record, without its line end.
    pub raw: Vec<u8>,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl std::error::Error for Malformed {}

/// What a source does with a record that cannot be parsed.
///
/// The third way, to process malformed records as data, changes the type of what the source
/// emits: see `with_malformed` of each source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMalformed {
    /// Fails the job, naming the file, the line and the column.
    #[default]
    Fail,
    /// Skips the record and counts it.
    Skip,
}

/// A record's bytes without the line end (`\n` or `\r\n`), and the bytes with it.
#[inline]
pub(crate) fn split_line(bytes: &[u8]) -> (&[u8], usize) {
    let (line, consumed) = match memchr::memchr(b'\n', bytes) {
        Some(newline) => (&bytes[..newline], newline + 1),
        None => (bytes, bytes.len()),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), consumed)
}
