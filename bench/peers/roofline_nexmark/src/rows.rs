//! Where the rows of a result go: into a check-sum, or into a file to be compared.

use std::io::Write;

use common::Acc;

/// A row of a result. Timestamps are milliseconds since the Unix epoch.
pub enum Row<'a> {
    /// q0, q1 and q7; the price of q1 is in thousandths.
    Bid { auction: usize, bidder: usize, price: usize, date_time: u64, extra: &'a str },
    /// q2.
    Watched { auction: usize, price: usize },
    /// q5.
    Hot { auction: usize, count: u64, start: u64, end: u64 },
    /// q8.
    Newcomer { id: usize, name: &'a str, start: u64 },
}

pub trait Rows {
    fn row(&mut self, row: Row<'_>);
}

/// Cheap, but it looks at every field: of strings at the length and at the first byte.
#[derive(Default)]
pub struct Signatures(Acc);

fn touch(text: &str) -> u64 {
    text.len() as u64 ^ u64::from(text.as_bytes().first().copied().unwrap_or(0)) << 8
}

impl Rows for Signatures {
    #[inline(always)]
    fn row(&mut self, row: Row<'_>) {
        let fields = match row {
            Row::Bid { auction, bidder, price, date_time, extra } => {
                (auction as u64).wrapping_mul(7) ^ bidder as u64 ^ price as u64 ^ date_time
                    ^ touch(extra)
            }
            Row::Watched { auction, price } => (auction as u64).wrapping_mul(7) ^ price as u64,
            Row::Hot { auction, count, start, end } => {
                (auction as u64).wrapping_mul(7) ^ count ^ start ^ end
            }
            Row::Newcomer { id, name, start } => (id as u64).wrapping_mul(7) ^ touch(name) ^ start,
        };
        self.0.add(fields);
    }
}

/// Fields joined by `|`, timestamps as numbers.
pub struct Text<W>(pub W);

impl<W: Write> Rows for Text<W> {
    fn row(&mut self, row: Row<'_>) {
        match row {
            Row::Bid { auction, bidder, price, date_time, extra } => {
                writeln!(self.0, "{auction}|{bidder}|{price}|{date_time}|{extra}")
            }
            Row::Watched { auction, price } => writeln!(self.0, "{auction}|{price}"),
            Row::Hot { auction, count, start, end } => {
                writeln!(self.0, "{auction}|{count}|{start}|{end}")
            }
            Row::Newcomer { id, name, start } => writeln!(self.0, "{id}|{name}|{start}"),
        }
        .expect("the file of rows can be written");
    }
}
