//! Where the fields of a CSV record are (RFC 4180, read leniently as the crate `csv` does).

/// How a CSV file is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    /// `None` if quotes are characters like any other.
    pub(super) quote: Option<u8>,
}

/// What ends a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Delimiter,
    Newline,
    /// The end of the bytes.
    Bytes,
}

/// A field's place in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) start: usize,
    /// Exclusive; without delimiter and line end.
    pub(super) end: usize,
    /// Where its closing quote is, if it starts with a quote.
    closing: Option<usize>,
    pub(super) ending: Ending,
}

/// A quoted field that is never closed; it starts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclosed(pub(super) usize);

impl Dialect {
    /// The field that starts at `start`.
    #[inline]
    pub(super) fn field(self, bytes: &[u8], start: usize) -> Result<Field, Unclosed> {
        let mut from = start;
        let mut closing = None;
        if let Some(quote) = self.quote
            && bytes.get(start) == Some(&quote)
        {
            let close = closing_quote(bytes, start + 1, quote).ok_or(Unclosed(start))?;
            closing = Some(close);
            from = close + 1;
        }
        let at = memchr::memchr2(self.delimiter, b'\n', &bytes[from..])
            .map_or(bytes.len(), |offset| from + offset);
        let ending = match bytes.get(at) {
            None => Ending::Bytes,
            Some(b'\n') => Ending::Newline,
            Some(_) => Ending::Delimiter,
        };
        let carriage_return = ending != Ending::Delimiter && at > from && bytes[at - 1] == b'\r';
        Ok(Field { start, end: at - usize::from(carriage_return), closing, ending })
    }

    /// Where the field after `field` starts, or the next record.
    #[inline]
    pub(super) fn after(self, bytes: &[u8], field: Field) -> usize {
        let mut next = field.end;
        if field.ending != Ending::Delimiter && bytes.get(next) == Some(&b'\r') {
            next += 1;
        }
        next + usize::from(field.ending != Ending::Bytes)
    }

    /// The length of the longest prefix of complete records, where quotes may enclose line ends.
    pub(super) fn complete_prefix(self, bytes: &[u8]) -> usize {
        let last_line = memchr::memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        match self.quote {
            Some(quote) if memchr::memchr(quote, &bytes[..last_line]).is_some() => {}
            _ => return last_line,
        }
        let (mut complete, mut at) = (0, 0);
        while let Ok(field) = self.field(bytes, at) {
            at = self.after(bytes, field);
            match field.ending {
                Ending::Newline => complete = at,
                Ending::Bytes => break,
                Ending::Delimiter => {}
            }
        }
        complete
    }
}

/// The quote that is not doubled.
fn closing_quote(bytes: &[u8], mut from: usize, quote: u8) -> Option<usize> {
    loop {
        let at = from + memchr::memchr(quote, bytes.get(from..)?)?;
        if bytes.get(at + 1) != Some(&quote) {
            return Some(at);
        }
        from = at + 2;
    }
}

impl Field {
    /// The field's content: a part of `bytes`, or put together in `scratch` if quotes are doubled
    /// or something follows the closing quote.
    #[inline]
    pub(super) fn content<'a>(
        &self,
        bytes: &'a [u8],
        quote: Option<u8>,
        scratch: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let (Some(closing), Some(quote)) = (self.closing, quote) else {
            return &bytes[self.start..self.end];
        };
        let inner = &bytes[self.start + 1..closing];
        let trailing = bytes.get(closing + 1..self.end).unwrap_or(&[]);
        if trailing.is_empty() && memchr::memchr(quote, inner).is_none() {
            return inner;
        }
        scratch.clear();
        let mut quotes = 0;
        for &byte in inner {
            quotes = if byte == quote { quotes + 1 } else { 0 };
            if quotes % 2 == 0 || byte != quote {
                scratch.push(byte);
            }
        }
        scratch.extend_from_slice(trailing);
        scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIALECT: Dialect = Dialect { delimiter: b',', quote: Some(b'"') };

    /// The records' fields; `None` if a quote is never closed.
    fn records(bytes: &[u8]) -> Option<Vec<Vec<Vec<u8>>>> {
        let (mut records, mut record, mut at) = (Vec::new(), Vec::new(), 0);
        let mut scratch = Vec::new();
        while at < bytes.len() || !record.is_empty() {
            let field = DIALECT.field(bytes, at).ok()?;
            record.push(field.content(bytes, DIALECT.quote, &mut scratch).to_vec());
            at = DIALECT.after(bytes, field);
            if field.ending != Ending::Delimiter {
                records.push(std::mem::take(&mut record));
            }
        }
        Some(records)
    }

    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec!["a", "bc", ",", ",", "\"", "\"", "\n", "\r\n"]);
        prop::collection::vec(piece, 0..25).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn fields_are_those_of_the_crate_csv(text in pieces()) {
            let Some(mut found) = records(text.as_bytes()) else { return Ok(()) };
            // It knows no blank lines.
            found.retain(|record| record != &[Vec::<u8>::new()]);
            let mut expected: Vec<Vec<Vec<u8>>> = ::csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(text.as_bytes())
                .into_byte_records()
                .map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect())
                .collect();
            // A record that is one quoted empty field is no blank line, but looks like one here.
            expected.retain(|record| record != &[Vec::<u8>::new()]);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_complete_prefix_ends_where_a_record_does(text in pieces(), cut in 0usize..40) {
            let bytes = text.as_bytes();
            let Some(all) = records(bytes) else { return Ok(()) };
            let complete = DIALECT.complete_prefix(&bytes[..cut.min(bytes.len())]);
            let first = records(&bytes[..complete]).unwrap();
            let rest = records(&bytes[complete..]).unwrap();
            prop_assert_eq!([first, rest].concat(), all);
        }
    }
}
