//! Comma-separated values.

use super::csv_fields::{Dialect, Ending, Unclosed};
use super::{Format, Problem};
use csv::{ByteRecord, ErrorKind};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;

/// Records of delimited fields, each deserialised by serde into a `T`.
///
/// With a header (the default), a struct's fields are found by their names. Without one, or for
/// tuples, fields are taken in their order; [`Csv::columns`] picks and orders them.
///
/// Quoted fields may contain line ends; only the whole file then tells where a record starts, so
/// several subtasks cannot share it unless [`Csv::one_record_per_line`] promises otherwise.
/// Blank lines are no records.
///
/// All records of a file must have as many fields as its header, or its first record if there is no
/// header. One that has not is malformed, whichever reader comes upon it.
pub struct Csv<T> {
    dialect: Dialect,
    has_header: bool,
    one_record_per_line: bool,
    columns: Option<Vec<usize>>,
    /// The names of the columns, those picked.
    header: Option<ByteRecord>,
    expects_header: bool,
    /// The number of fields of every record, once the file's first is known.
    width: Option<usize>,
    record: Fields,
    deserialises: PhantomData<fn() -> T>,
}

/// The fields of the current record; its memory is used again.
#[derive(Clone, Default)]
struct Fields {
    values: ByteRecord,
    /// Where each of `values` starts in the record.
    starts: Vec<usize>,
    /// All fields, picked or not, and where each starts.
    all: Vec<super::csv_fields::Field>,
    scratch: Vec<u8>,
}

impl<T: DeserializeOwned> Csv<T> {
    /// Fields separated by commas, quoted by `"`, after a header.
    pub fn new() -> Self {
        Self {
            dialect: Dialect { delimiter: b',', quote: Some(b'"') },
            has_header: true,
            one_record_per_line: false,
            columns: None,
            header: None,
            expects_header: false,
            width: None,
            record: Fields::default(),
            deserialises: PhantomData,
        }
    }

    /// The first record is data, not a header.
    pub fn without_header(mut self) -> Self {
        self.has_header = false;
        self
    }

    /// Separates fields by this byte, such as `b'\t'` or `b';'`.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.dialect.delimiter = delimiter;
        self
    }

    /// Quotes fields by this byte; `None` makes quotes characters like any other.
    pub fn quote(mut self, quote: Option<u8>) -> Self {
        self.dialect.quote = quote;
        self
    }

    /// Keeps these columns, by index from 0, in this order.
    pub fn columns(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.columns = Some(columns.into_iter().collect());
        self
    }

    /// Promises that no quoted field contains a line end, so that subtasks can share a file.
    pub fn one_record_per_line(mut self) -> Self {
        self.one_record_per_line = true;
        self
    }

    /// Takes one record apart, or passes over a blank line (`None`); returns the bytes consumed.
    #[inline]
    fn fields(&mut self, bytes: &[u8]) -> (usize, Option<Result<(), Problem>>) {
        match bytes {
            [b'\n', ..] => return (1, None),
            [b'\r', b'\n', ..] => return (2, None),
            _ => {}
        }
        // So that a quote that is never closed spoils its own line only.
        let line = if self.one_record_per_line { super::split_line(bytes).1 } else { bytes.len() };
        let (consumed, split) = self.split(&bytes[..line]);
        (consumed, Some(split))
    }

    /// The record at hand is the file's first.
    fn learn_from_first(&mut self) {
        self.width = Some(self.record.all.len());
        if self.expects_header {
            self.expects_header = false;
            self.header = Some(self.record.values.clone());
        }
    }

    /// Takes one record apart; returns the bytes consumed.
    #[inline]
    fn split(&mut self, bytes: &[u8]) -> (usize, Result<(), Problem>) {
        let Fields { values, starts, all, scratch } = &mut self.record;
        values.clear();
        starts.clear();
        all.clear();
        let mut at = 0;
        loop {
            match self.dialect.field(bytes, at) {
                Ok(field) => {
                    at = self.dialect.after(bytes, field);
                    all.push(field);
                    if field.ending != Ending::Delimiter {
                        break;
                    }
                }
                Err(Unclosed(start)) => {
                    let message = "a quoted field is never closed".to_owned();
                    return (bytes.len(), Err(Problem { at: start, message }));
                }
            }
        }
        let mut push = |field: &super::csv_fields::Field| {
            values.push_field(field.content(bytes, self.dialect.quote, scratch));
            starts.push(field.start);
        };
        match &self.columns {
            None => all.iter().for_each(push),
            Some(columns) => {
                for &column in columns {
                    match all.get(column) {
                        Some(field) => push(field),
                        None => {
                            let message = format!(
                                "there is no column {column}: the record has {} fields",
                                all.len()
                            );
                            return (at, Err(Problem { at: 0, message }));
                        }
                    }
                }
            }
        }
        (at, Ok(()))
    }

    fn parse(&mut self) -> Result<T, Problem> {
        let count = self.record.all.len();
        let width = *self.width.get_or_insert(count);
        if count != width {
            let expected = if self.has_header { "the header" } else { "the first record" };
            let message = format!("{count} fields, but {expected} has {width}");
            return Err(Problem { at: 0, message });
        }
        self.record.values.deserialize(self.header.as_ref()).map_err(|error| self.problem(error))
    }

    #[cold]
    fn problem(&self, error: csv::Error) -> Problem {
        let ErrorKind::Deserialize { err, .. } = error.kind() else {
            return Problem { at: 0, message: error.to_string() };
        };
        let index = err.field().and_then(|field| usize::try_from(field).ok());
        let at = index.and_then(|field| self.record.starts.get(field)).copied().unwrap_or(0);
        let name = index.and_then(|field| self.header.as_ref()?.get(field));
        let message = match name {
            Some(name) => format!("column {}: {}", String::from_utf8_lossy(name), err.kind()),
            None => err.kind().to_string(),
        };
        Problem { at, message }
    }
}

impl<T: DeserializeOwned> Default for Csv<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Self {
            columns: self.columns.clone(),
            header: self.header.clone(),
            record: self.record.clone(),
            ..*self
        }
    }
}

impl<T> fmt::Debug for Csv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csv")
            .field("dialect", &self.dialect)
            .field("has_header", &self.has_header)
            .field("one_record_per_line", &self.one_record_per_line)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned + 'static> Format for Csv<T> {
    type Record = T;

    #[inline]
    fn next(&mut self, bytes: &[u8]) -> (usize, Option<Result<T, Problem>>) {
        let (consumed, fields) = self.fields(bytes);
        let record = match fields {
            None => None,
            Some(Err(problem)) => Some(Err(problem)),
            Some(Ok(())) if self.expects_header => {
                self.learn_from_first();
                None
            }
            Some(Ok(())) => Some(self.parse()),
        };
        (consumed, record)
    }

    fn complete_prefix(&self, bytes: &[u8]) -> usize {
        match self.one_record_per_line {
            true => memchr::memrchr(b'\n', bytes).map_or(0, |newline| newline + 1),
            false => self.dialect.complete_prefix(bytes),
        }
    }

    fn is_splittable(&self) -> bool {
        self.one_record_per_line || self.dialect.quote.is_none()
    }

    fn needs_first_record(&self) -> bool {
        true
    }

    fn begin(&mut self, head: Option<&[u8]>) {
        self.width = None;
        self.header = None;
        self.expects_header = self.has_header;
        let mut head = head.unwrap_or_default();
        head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        while self.width.is_none() && !head.is_empty() {
            let (consumed, fields) = self.fields(head);
            if let Some(Ok(())) = fields {
                self.learn_from_first();
            }
            head = &head[consumed..];
        }
    }
}
