//! The queries' rows are those that Flink gives, over the same 100,000 events.
//!
//! The events and the golden rows lie in a folder beside the workspace; where it is absent there is
//! nothing to compare with. `naive.rs` needs nothing but itself.

use flate2::read::GzDecoder;
use millstream::Config;
use millstream_workloads::nexmark::format::RowWriter;
use millstream_workloads::nexmark::{Event, Query, RowsTo, json, run};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder with the golden rows, if there is one.
fn golden() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden");
    if !folder.is_dir() {
        println!("skipped: there are no golden rows at {}", folder.display());
        return None;
    }
    Some(folder)
}

fn events(folder: &Path) -> Arc<[Event]> {
    let file = File::open(folder.join("events-100k.jsonl.gz")).expect("the events are there");
    let events = json::read_events(BufReader::new(GzDecoder::new(file)), usize::MAX)
        .expect("the events can be read");
    assert_eq!(events.len(), 100_000);
    events.into()
}

/// The golden rows of a query, in a file as it is or compressed; q0 has none, its rows are the bids.
fn golden_rows(folder: &Path, query: Query, events: &[Event]) -> Vec<String> {
    if query == Query::Q0 {
        return sorted(events.iter().filter_map(bid_as_row).collect());
    }
    let mut text = String::new();
    let plain = folder.join(format!("{query}.txt"));
    let read = match File::open(&plain) {
        Ok(mut file) => file.read_to_string(&mut text),
        Err(_) => {
            let compressed = folder.join(format!("{query}.txt.gz"));
            let file = File::open(compressed).expect("the query has golden rows");
            GzDecoder::new(file).read_to_string(&mut text)
        }
    };
    read.expect("golden rows are text");
    sorted(text.lines().map(String::from).collect())
}

fn bid_as_row(event: &Event) -> Option<String> {
    let Event::Bid(bid) = event else { return None };
    let mut row = Vec::new();
    let mut fields = RowWriter::new(&mut row);
    fields.integer(bid.auction).integer(bid.bidder).integer(bid.price);
    fields.timestamp(bid.date_time).text(&bid.extra);
    Some(String::from_utf8(row).expect("rows are text"))
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

#[test]
fn rows_equal_the_golden_rows_at_any_number_of_slots() {
    let Some(folder) = golden() else { return };
    let events = events(&folder);
    for query in Query::ALL {
        let golden = golden_rows(&folder, query, &events);
        assert!(!golden.is_empty(), "{query} has golden rows");
        for slots in 1..=3 {
            let config = Config::default().with_slots(slots);
            let outcome = run(query, Arc::clone(&events), config, RowsTo::Collect)
                .unwrap_or_else(|error| panic!("{query} at {slots} slots: {error}"));
            let rows = sorted(outcome.rows);
            assert_eq!(rows.len(), golden.len(), "rows of {query} at {slots} slots");
            // Not the whole vectors: a difference would print a hundred thousand rows.
            for (row, golden) in rows.iter().zip(&golden) {
                assert_eq!(row, golden, "{query} at {slots} slots");
            }
            assert_eq!(outcome.events, 100_000);
        }
    }
}
