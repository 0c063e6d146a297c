//! Events as JSON lines: one object per event, `{"Bid":{...}}`, one event per line.
//!
//! The bytes written are those that `serde_json` writes for the crate `nexmark`'s events; the writer
//! is by hand because generating a file is otherwise bound by formatting.

#[cfg(test)]
mod tests;

use std::io::{BufRead, Read};

use super::{Auction, Bid, Event, Person};

/// The longest line that is read, with its line end; as long as the file connectors' records. Beyond
/// it the file is taken for something else, before it fills the memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Why events could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// A line is not an event.
    #[error("line {line}, column {column}: not a Nexmark event: {reason}")]
    Malformed {
        /// From 1.
        line: u64,
        /// The last byte that was read, from 1; 0 where the line as a whole is at fault.
        column: usize,
        /// What was expected or found there.
        reason: String,
    },
    /// A line does not end.
    #[error(
        "line {line}: longer than {} MiB; is this the right file? Every line must hold one event",
        LINE_BYTES_MAX >> 20
    )]
    TooLong {
        /// From 1.
        line: u64,
    },
    /// The input itself failed.
    #[error("line {line}: reading failed")]
    Io {
        /// The line that was being read, from 1.
        line: u64,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// Parses one line, number `line_number` of its file, with or without its line end.
///
/// # Errors
/// [`JsonError::Malformed`] if the line is anything but one event.
pub fn parse_line(line: &[u8], line_number: u64) -> Result<Event, JsonError> {
    serde_json::from_slice(line).map_err(|error| {
        let described = error.to_string();
        // serde_json appends a position that counts from the start of the slice, always line 1.
        let position = format!(" at line {} column {}", error.line(), error.column());
        let reason = described.strip_suffix(&position).unwrap_or(&described).to_owned();
        JsonError::Malformed { line: line_number, column: error.column(), reason }
    })
}

/// Reads up to `limit` events; blank lines are passed over.
///
/// # Errors
/// The first line that is no event or is longer than 64 MiB, or the first failed read.
pub fn read_events(mut input: impl BufRead, limit: usize) -> Result<Vec<Event>, JsonError> {
    let mut events = Vec::new();
    let mut line = Vec::new();
    let mut line_number = 0;
    while events.len() < limit {
        line_number += 1;
        line.clear();
        let read = (&mut input)
            .take(LINE_BYTES_MAX as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|source| JsonError::Io { line: line_number, source })?;
        if read == 0 {
            break;
        }
        if read > LINE_BYTES_MAX {
            return Err(JsonError::TooLong { line: line_number });
        }
        if !line.trim_ascii().is_empty() {
            events.push(parse_line(&line, line_number)?);
        }
    }
    Ok(events)
}

/// Appends one event and a line end.
pub fn write_line(event: &Event, out: &mut Vec<u8>) {
    match event {
        Event::Person(person) => write_person(person, out),
        Event::Auction(auction) => write_auction(auction, out),
        Event::Bid(bid) => write_bid(bid, out),
    }
    out.extend_from_slice(b"}}\n");
}

fn write_person(person: &Person, out: &mut Vec<u8>) {
    number(r#"{"Person":{"id":"#, person.id, out);
    text(r#","name":"#, &person.name, out);
    text(r#","email_address":"#, &person.email_address, out);
    text(r#","credit_card":"#, &person.credit_card, out);
    text(r#","city":"#, &person.city, out);
    text(r#","state":"#, &person.state, out);
    number(r#","date_time":"#, person.date_time, out);
    text(r#","extra":"#, &person.extra, out);
}

fn write_auction(auction: &Auction, out: &mut Vec<u8>) {
    number(r#"{"Auction":{"id":"#, auction.id, out);
    text(r#","item_name":"#, &auction.item_name, out);
    text(r#","description":"#, &auction.description, out);
    number(r#","initial_bid":"#, auction.initial_bid, out);
    number(r#","reserve":"#, auction.reserve, out);
    number(r#","date_time":"#, auction.date_time, out);
    number(r#","expires":"#, auction.expires, out);
    number(r#","seller":"#, auction.seller, out);
    number(r#","category":"#, auction.category, out);
    text(r#","extra":"#, &auction.extra, out);
}

fn write_bid(bid: &Bid, out: &mut Vec<u8>) {
    number(r#"{"Bid":{"auction":"#, bid.auction, out);
    number(r#","bidder":"#, bid.bidder, out);
    number(r#","price":"#, bid.price, out);
    text(r#","channel":"#, &bid.channel, out);
    text(r#","url":"#, &bid.url, out);
    number(r#","date_time":"#, bid.date_time, out);
    text(r#","extra":"#, &bid.extra, out);
}

fn number(key: &str, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn text(key: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    // A fold over all bytes, not a search: it becomes vector instructions.
    if value.bytes().fold(false, |found, byte| found | must_be_escaped(byte)) {
        serde_json::to_writer(out, value).expect("a string has a JSON form, a vector takes it");
    } else {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
}

fn must_be_escaped(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}
