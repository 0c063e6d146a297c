//! Columns travel through the same exchange as rows: an Arrow record batch, sent between threads.
#![cfg(not(loom))]

mod common;

use std::sync::{Arc, mpsc};
use std::thread;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use common::{doorbell_of, wait_for};
use millstream_network::{Doorbell, Receiver, channel};
use millstream_types::{Batch, Element};

struct Columns(RecordBatch);

impl Batch for Columns {
    fn len(&self) -> usize {
        self.0.num_rows()
    }

    /// Arrow's columns are immutable and counted by reference, so their memory cannot be kept for
    /// the next batch: what comes back is the credit and the schema.
    fn clear(&mut self) {
        self.0 = RecordBatch::new_empty(self.0.schema());
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("auction", DataType::Int64, false),
        Field::new("channel", DataType::Utf8, true),
    ]))
}

fn bids(schema: &SchemaRef, first: i64, count: i64) -> RecordBatch {
    let channels = (first..first + count).map(|id| (id % 3 != 0).then(|| format!("channel-{id}")));
    RecordBatch::try_new(
        schema.clone(),
        vec![
            Arc::new(Int64Array::from_iter_values(first..first + count)),
            Arc::new(StringArray::from_iter(channels)),
        ],
    )
    .unwrap()
}

/// Where the values of the first column lie.
fn address(batch: &RecordBatch) -> usize {
    batch.column(0).as_primitive::<Int64Type>().values().as_ptr() as usize
}

#[test]
fn an_arrow_record_batch_is_moved_to_another_thread_uncopied_and_its_credit_returns() {
    const BATCHES: i64 = 100;
    const CREDITS: usize = 3;
    let (to_receiver, receives) = mpsc::channel::<(Doorbell, Receiver<Columns>)>();
    let receiving = thread::spawn(move || {
        let (doorbell, mut receiver) = receives.recv().unwrap();
        let mut received = Vec::new();
        loop {
            match wait_for(&doorbell, || receiver.receive()) {
                Element::Batch(Columns(columns)) => {
                    received.push((address(&columns), columns.clone()));
                    receiver.give_back(Columns(columns));
                }
                element => {
                    assert!(matches!(element, Element::EndOfInput));
                    return received;
                }
            }
        }
    });
    let here = doorbell_of(thread::current());
    let there = doorbell_of(receiving.thread().clone());
    let (mut sender, receiver) = channel(CREDITS, &here, &there);
    to_receiver.send((there, receiver)).unwrap();

    let schema = schema();
    let mut sent = Vec::new();
    for number in 0..BATCHES {
        let empty = || Columns(RecordBatch::new_empty(schema.clone()));
        let mut columns = wait_for(&here, || sender.acquire(empty));
        assert!(columns.is_empty());
        assert_eq!(columns.0.schema(), schema);
        columns.0 = bids(&schema, number * 10, number % 20 + 1);
        sent.push((address(&columns.0), columns.0.clone()));
        sender.send(Element::Batch(columns));
        sender.notify();
    }
    sender.send(Element::EndOfInput);
    wait_for(&here, || {
        let flushed = sender.flush_overflow();
        sender.notify();
        flushed.then_some(())
    });

    assert_eq!(receiving.join().unwrap(), sent);
    let records = sent.iter().map(|(_, columns)| columns.num_rows() as u64).sum::<u64>();
    assert_eq!(sender.stats().records, records);
}
