//! Records as a table for people.

use crate::encoder::{CsvEncoder, Encoder};
use csv::StringRecord;
use millstream::connector::BoxError;
use serde::Serialize;

/// Rows are laid out together up to this many bytes.
const BATCH_BYTES: usize = 64 << 10;
/// Wider values are cut, and end in `…`.
const COLUMN_CHARS_MAX: usize = 48;

/// Records in aligned columns under the names of a struct's fields, laid out whenever the input
/// runs dry. Numbers are aligned to the right, long values cut: a table is for reading, CSV and
/// JSON lines are for programs. The header is repeated when a column has to become wider.
#[derive(Clone, Debug, Default)]
pub struct TableEncoder {
    rows: Rows,
    columns: Vec<Column>,
    header: Option<StringRecord>,
}

/// Rows that wait to be laid out, as CSV: what is left of any record once serde has named and
/// flattened its fields.
#[derive(Clone, Debug, Default)]
struct Rows {
    encoder: CsvEncoder,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Column {
    width_chars: usize,
    /// True as long as it held nothing else.
    is_numeric: bool,
}

impl TableEncoder {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn lay_out(&mut self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let rows: Vec<StringRecord> = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(self.rows.bytes.as_slice())
            .into_records()
            .map(|row| row.map(|row| row.iter().map(shorten).collect()))
            .collect::<Result<_, _>>()?;
        self.rows.bytes.clear();
        let mut wider = false;
        for row in &rows {
            for (index, cell) in row.iter().enumerate() {
                if index == self.columns.len() {
                    let name = self.header.as_ref().and_then(|header| header.get(index));
                    let width_chars = name.map_or(0, |name| name.chars().count());
                    self.columns.push(Column { width_chars, is_numeric: true });
                    wider = true;
                }
                let column = &mut self.columns[index];
                let chars = cell.chars().count();
                wider |= chars > column.width_chars;
                column.width_chars = column.width_chars.max(chars);
                column.is_numeric &= cell.is_empty() || cell.parse::<f64>().is_ok();
            }
        }
        if let Some(header) = self.header.as_ref().filter(|_| wider) {
            self.line(header, out);
            let rules = self.columns.iter().map(|column| "-".repeat(column.width_chars)).collect();
            self.line(&rules, out);
        }
        for row in &rows {
            self.line(row, out);
        }
        Ok(())
    }

    fn line(&self, row: &StringRecord, out: &mut Vec<u8>) {
        let mut line = String::new();
        for (cell, column) in row.iter().zip(&self.columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(column.width_chars.saturating_sub(cell.chars().count()));
            let parts = if column.is_numeric { [&*padding, cell] } else { [cell, &*padding] };
            line.extend(parts);
        }
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
    }
}

/// A cell on one line, not too wide.
fn shorten(cell: &str) -> String {
    let mut short = String::new();
    for (index, char) in cell.chars().enumerate() {
        if index == COLUMN_CHARS_MAX {
            short.pop();
            short.push('…');
            break;
        }
        short.push(if char.is_control() { ' ' } else { char });
    }
    short
}

impl<T: Serialize> Encoder<T> for TableEncoder {
    fn encode(&mut self, value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let is_first = self.columns.is_empty() && self.rows.bytes.is_empty();
        self.rows.encoder.encode(value, &mut self.rows.bytes)?;
        if is_first && self.header.is_none() {
            // A struct brings its header along; what is no struct has none.
            let mut reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(self.rows.bytes.as_slice());
            let mut first = StringRecord::new();
            reader.read_record(&mut first)?;
            let length = usize::try_from(reader.position().byte())?;
            if reader.read_record(&mut StringRecord::new())? {
                self.header = Some(first);
                self.rows.bytes.drain(..length);
            }
        }
        if self.rows.bytes.len() >= BATCH_BYTES {
            self.lay_out(out)?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        if self.rows.bytes.is_empty() { Ok(()) } else { self.lay_out(out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        count: Option<u32>,
    }

    fn row(name: &'static str, count: u32) -> Row {
        Row { name, count: Some(count) }
    }

    fn text(table: &mut TableEncoder, rows: &[Row]) -> String {
        let mut out = Vec::new();
        for row in rows {
            table.encode(row, &mut out).unwrap();
        }
        Encoder::<Row>::flush(table, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_aligned_under_the_names_of_fields() {
        let mut table = TableEncoder::new();
        let rows = [row("apple, red", 7), row("fig\n", 12_345_678), Row { name: "x", count: None }];
        assert_eq!(
            text(&mut table, &rows),
            "name           count\n----------  --------\napple, red         7\n\
             fig         12345678\nx\n"
        );
        assert_eq!(text(&mut table, &[row("pear", 1)]), "pear               1\n");
    }

    #[test]
    fn the_header_is_repeated_when_a_column_becomes_wider() {
        let mut table = TableEncoder::new();
        text(&mut table, &[row("a", 1)]);
        assert_eq!(
            text(&mut table, &[row("longer", 2)]),
            "name    count\n------  -----\nlonger      2\n"
        );
    }

    #[test]
    fn what_is_no_struct_has_no_header() {
        let mut out = Vec::new();
        let mut table = TableEncoder::new();
        for pair in [("a", 10), ("bcd", 7)] {
            table.encode(&pair, &mut out).unwrap();
        }
        Encoder::<(&str, i32)>::flush(&mut table, &mut out).unwrap();
        assert_eq!(out, b"a    10\nbcd   7\n");
    }

    #[test]
    fn long_values_are_cut() {
        let cut = shorten(&"é".repeat(100));
        assert_eq!(cut.chars().count(), COLUMN_CHARS_MAX);
        assert!(cut.ends_with("é…"));
        assert_eq!(shorten(&"é".repeat(COLUMN_CHARS_MAX)), "é".repeat(COLUMN_CHARS_MAX));
    }
}
