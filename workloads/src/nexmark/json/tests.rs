use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;
use crate::nexmark::{Generator, Settings};

/// The 100,000 events that the golden results were computed from, where they are at hand.
fn golden_events() -> Option<Vec<u8>> {
    let path =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden/events-100k.jsonl.gz"));
    if !path.exists() {
        println!("passed over: {} is not there", path.display());
        return None;
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).expect("the golden events are readable");
    GzDecoder::new(file).read_to_end(&mut bytes).expect("the golden events are gzip");
    Some(bytes)
}

#[test]
fn generated_lines_equal_the_golden_events() {
    let Some(golden) = golden_events() else { return };
    let mut lines = Vec::with_capacity(golden.len());
    for event in Generator::new(Settings { rate: 1_000, ..Settings::default() }).take(100_000) {
        write_line(&event, &mut lines);
    }
    assert!(lines == golden, "the files differ");
}

#[test]
fn golden_events_are_read_back_as_generated() {
    let Some(golden) = golden_events() else { return };
    let events = read_events(BufReader::new(&golden[..]), usize::MAX).expect("well-formed");
    assert_eq!(events.len(), 100_000);
    let generator = Generator::new(Settings { rate: 1_000, ..Settings::default() });
    assert!(generator.take(100_000).eq(events), "the events differ");
}

#[test]
fn as_many_events_are_read_as_asked_for() {
    let mut lines = Vec::new();
    for event in Generator::new(Settings::default()).take(10) {
        write_line(&event, &mut lines);
    }
    lines.extend_from_slice(b"this is never looked at");
    assert_eq!(read_events(&lines[..], 10).expect("ten good lines").len(), 10);
    assert!(matches!(read_events(&lines[..], 11), Err(JsonError::Malformed { line: 11, .. })));
}

#[test]
fn a_malformed_line_is_named_with_its_line_and_column() {
    let mut lines = Vec::new();
    write_line(&Generator::new(Settings::default()).event(7), &mut lines);
    lines.extend_from_slice(b"\n{\"Bid\":{\"auction\":1000,\"bidder\":\"x\"}}\n");
    let error = read_events(&lines[..], usize::MAX).expect_err("a bidder is a number");
    assert_eq!(
        error.to_string(),
        "line 3, column 35: not a Nexmark event: invalid type: string \"x\", expected u64"
    );
}

#[test]
fn a_line_without_an_end_is_refused_before_it_fills_the_memory() {
    let mut lines = Vec::new();
    write_line(&Generator::new(Settings::default()).event(1), &mut lines);
    let endless = BufReader::new(lines[..].chain(std::io::repeat(b' ')));
    let error = read_events(endless, usize::MAX).expect_err("the second line never ends");
    assert!(error.to_string().starts_with("line 2: longer than 64 MiB"), "{error}");
    // The longest that there may be.
    let mut longest = vec![b' '; LINE_BYTES_MAX - 1 - lines.len()];
    longest.extend_from_slice(&lines);
    assert_eq!(read_events(&longest[..], usize::MAX).expect("one event").len(), 1);
}

#[test]
fn a_cut_line_is_malformed() {
    let mut line = Vec::new();
    write_line(&Generator::new(Settings::default()).event(1), &mut line);
    for cut in 0..line.len() - 1 {
        assert!(
            matches!(parse_line(&line[..cut], 9), Err(JsonError::Malformed { line: 9, .. })),
            "cut at {cut}"
        );
    }
}

#[test]
fn bytes_that_are_no_text_are_malformed() {
    let error = parse_line(b"{\"Bid\":{\"channel\":\"\xff\"", 1).expect_err("not UTF-8");
    assert!(matches!(error, JsonError::Malformed { line: 1, column: 20, .. }), "{error}");
}

proptest! {
    /// Any text in any field: quotes, control characters, everything beyond ASCII.
    #[test]
    fn lines_equal_what_serde_json_writes_and_are_read_back(
        kind in 0..3,
        short in any::<String>(),
        long in any::<String>(),
        numbers in any::<[u64; 7]>(),
    ) {
        let [id, a, b, date_time, c, d, e] = numbers;
        let event = match kind {
            0 => Event::Person(Person {
                id,
                name: short.as_str().into(),
                email_address: long.as_str().into(),
                credit_card: "\"".into(),
                city: short.into(),
                state: "\u{7f}\\".into(),
                date_time,
                extra: long,
            }),
            1 => Event::Auction(Auction {
                id,
                item_name: short.as_str().into(),
                description: long,
                initial_bid: a,
                reserve: b,
                date_time,
                expires: c,
                seller: d,
                category: e,
                extra: short,
            }),
            _ => Event::Bid(Bid {
                auction: id,
                bidder: a,
                price: b,
                channel: short.as_str().into(),
                url: long,
                date_time,
                extra: short,
            }),
        };
        let mut line = Vec::new();
        write_line(&event, &mut line);
        let mut expected = serde_json::to_vec(&event).expect("an event has a JSON form");
        expected.push(b'\n');
        prop_assert_eq!(&line, &expected);
        prop_assert_eq!(parse_line(&line, 1).expect("what was written can be read"), event);
    }
}
