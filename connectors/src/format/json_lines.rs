//! JSON lines: one JSON value per line.

use super::text_lines::utf8;
use super::{Format, Problem, split_line};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;

/// One value per line, deserialised by serde straight from the read buffer. Blank lines are no
/// records.
pub struct JsonLines<T>(PhantomData<fn() -> T>);

impl<T: DeserializeOwned> JsonLines<T> {
    /// Lines that each hold a `T`.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: DeserializeOwned> Default for JsonLines<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for JsonLines<T> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<T> fmt::Debug for JsonLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonLines")
    }
}

impl<T: DeserializeOwned + 'static> Format for JsonLines<T> {
    type Record = T;

    #[inline]
    fn next(&mut self, bytes: &[u8]) -> (usize, Option<Result<T, Problem>>) {
        let (line, consumed) = split_line(bytes);
        // Checked once per line, not once per string: a tenth of the time of nexmark's events.
        let text = match utf8(line) {
            Ok(text) => text,
            Err(problem) => return (consumed, Some(Err(problem))),
        };
        let record = match serde_json::from_str(text) {
            Ok(value) => Some(Ok(value)),
            Err(_) if line.trim_ascii().is_empty() => None,
            Err(error) => Some(Err(problem(&error, line))),
        };
        (consumed, record)
    }
}

#[cold]
fn problem(error: &serde_json::Error, line: &[u8]) -> Problem {
    let text = error.to_string();
    // Its own position is within the line; the reader adds the one within the file.
    let own = format!(" at line {} column {}", error.line(), error.column());
    Problem {
        at: error.column().saturating_sub(1).min(line.len()),
        message: text.strip_suffix(own.as_str()).unwrap_or(&text).to_owned(),
    }
}
