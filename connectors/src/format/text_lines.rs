//! Lines of text.

use super::{Format, Problem, split_line};

/// One `String` per line, without its line end (`\n` or `\r\n`). Empty lines are records too.
/// A line that is not UTF-8 is malformed.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextLines;

impl Format for TextLines {
    type Record = String;

    #[inline]
    fn next(&mut self, bytes: &[u8]) -> (usize, Option<Result<String, Problem>>) {
        let (line, consumed) = split_line(bytes);
        let record = utf8(line).map(str::to_owned);
        (consumed, Some(record))
    }
}

/// The line as text.
#[inline]
pub(super) fn utf8(line: &[u8]) -> Result<&str, Problem> {
    str::from_utf8(line).map_err(|error| Problem {
        at: error.valid_up_to(),
        message: format!(
            "not UTF-8 (byte {:#04x}): convert the text, with iconv for instance",
            line[error.valid_up_to()]
        ),
    })
}
