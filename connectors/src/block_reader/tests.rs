//! Blocks against the bytes that they were made of, however these arrive.

use super::*;
use crate::driver::Slot;
use crate::format::{Csv, TextLines};
use proptest::prelude::*;

/// Returns its bytes in pieces of the given sizes, in turn.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    next: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.next % self.sizes.len()];
        self.next += 1;
        let rest = &self.bytes[self.at..];
        let count = size.min(rest.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

struct Once(Option<Input>);

impl Inputs for Once {
    fn next(&mut self, _: &Stop) -> Option<Result<Input, ReadError>> {
        self.0.take().map(Ok)
    }
}

/// The blocks that the thread makes, with the lines before each.
fn blocks<F: Format>(format: F, bytes: &[u8], sizes: Vec<usize>) -> Vec<(Vec<u8>, u64)> {
    let name: Arc<str> = "pieces".into();
    let input = Input {
        origin: Arc::new(Origin { name: name.clone(), path: None }),
        read: Box::new(Pieces { bytes: bytes.to_vec(), at: 0, sizes, next: 0 }),
        start: 0,
        end: None,
        lines_before: Some(0),
        head: None,
        is_interactive: true,
        explain: |name, error| panic!("{name}: {error}"),
    };
    let slot = Slot::default();
    let mut reader = BlockReader::spawn(Once(Some(input)), format, slot.waker()).unwrap();
    let mut blocks = Vec::new();
    loop {
        match reader.try_next(&name).unwrap() {
            Next::Nothing => slot.sleep(),
            Next::Message(Message::Begin { position, .. }) => assert_eq!(position, 0),
            Next::Message(Message::Block(block)) => {
                blocks.push((block.bytes().to_vec(), block.lines_before));
                reader.recycle(block);
            }
            Next::Message(Message::Failed(error)) => panic!("{error}"),
            Next::Message(Message::End) => return blocks,
        }
    }
}

fn joined(blocks: &[(Vec<u8>, u64)]) -> Vec<u8> {
    blocks.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn blocks_consist_of_whole_lines_and_know_how_many_came_before(
        text in "[ab\n]{0,200}",
        sizes in prop::collection::vec(1usize..20, 1..8),
    ) {
        let blocks = blocks(TextLines, text.as_bytes(), sizes);
        prop_assert_eq!(joined(&blocks), text.as_bytes());
        let mut lines = 0;
        for (index, (bytes, lines_before)) in blocks.iter().enumerate() {
            prop_assert_eq!(*lines_before, lines);
            prop_assert!(bytes.ends_with(b"\n") || index + 1 == blocks.len());
            lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }

    #[test]
    fn blocks_of_csv_end_outside_quotes(
        records in prop::collection::vec(prop::collection::vec("[a,\"\n]{0,5}", 1..4), 0..20),
        sizes in prop::collection::vec(1usize..20, 1..8),
    ) {
        let mut writer = ::csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        for record in &records {
            writer.write_record(record).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let blocks = blocks(Csv::<Vec<String>>::new(), &text, sizes);
        prop_assert_eq!(joined(&blocks), text);
        for (bytes, _) in blocks {
            // A field of the writer's contains an even number of quotes.
            prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'"').count() % 2, 0);
            prop_assert!(bytes.ends_with(b"\n"));
        }
    }
}

#[test]
fn a_thread_that_panics_is_an_error_and_not_a_wait() {
    #[derive(Clone)]
    struct Panics;
    impl Format for Panics {
        type Record = ();
        fn next(&mut self, bytes: &[u8]) -> (usize, Option<Result<(), crate::format::Problem>>) {
            (bytes.len(), None)
        }
        fn complete_prefix(&self, _: &[u8]) -> usize {
            panic!("a bug of the format's author");
        }
    }
    let name: Arc<str> = "pieces".into();
    let input = Input {
        origin: Arc::new(Origin { name: name.clone(), path: None }),
        read: Box::new(&b"one\n"[..]),
        start: 0,
        end: None,
        lines_before: Some(0),
        head: None,
        is_interactive: true,
        explain: |name, error| panic!("{name}: {error}"),
    };
    let slot = Slot::default();
    let mut reader = BlockReader::spawn(Once(Some(input)), Panics, slot.waker()).unwrap();
    let error = loop {
        match reader.try_next(&name) {
            Ok(Next::Nothing) => slot.sleep(),
            Ok(Next::Message(_)) => panic!("there is no block"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::ThreadDied { .. }));
}
