//! Batches that are full from the start.

use super::Told;
use crate::BenchError;
use crate::process::tell;
use crate::two_hosts::{CountingTime, Place, wait_for_the_end};
use millstream_network::remote::{Codec, CodecError, FramePayload, Links, Window};
use millstream_network::transport::{Transport, TransportSettings};
use millstream_network::{Doorbell, Wake, channel};
use millstream_types::{Batch, Element};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a row.
const ROW_BYTES: usize = 40;
/// Rows of a batch: about 64 KiB, as a job's batches are.
const ROWS: usize = (64 << 10) / ROW_BYTES;
/// As many batches as a job's channels have on their way.
const CREDITS: u32 = 8;

/// Rows, made here or received.
#[derive(Default)]
struct Block {
    rows: usize,
    made: Vec<u8>,
    received: Option<FramePayload>,
}

impl Batch for Block {
    fn len(&self) -> usize {
        self.rows
    }

    /// What was made stays, and is the content again when the rows are counted again.
    fn clear(&mut self) {
        (self.rows, self.received) = (0, None);
    }
}

struct BlockCodec;

impl Codec<Block> for BlockCodec {
    fn schema(&self) -> u64 {
        ROW_BYTES as u64
    }

    fn prepare(&mut self, block: &Block) -> Result<usize, CodecError> {
        Ok(block.rows * ROW_BYTES)
    }

    fn write(&mut self, block: &Block, payload: &mut [u8]) {
        payload.copy_from_slice(&block.made);
    }

    fn read(&mut self, payload: FramePayload, block: &mut Block) -> Result<(), CodecError> {
        block.rows = payload.len() / ROW_BYTES;
        block.received = Some(payload);
        Ok(())
    }
}

/// Of a slot that never sleeps.
struct Awake;

impl Wake for Awake {
    fn wake(&self) {}
}

/// Sends and receives at once, and tells what has arrived. It ends when it is killed.
pub(super) fn exchange(place: &Place, duration: Duration) -> Result<(), BenchError> {
    let stream = place.connect()?;
    let failed = |error: &dyn std::error::Error| BenchError::Different(error.to_string());
    let settings = TransportSettings::default();
    let transport = Transport::open(settings).map_err(|error| failed(&error))?;
    let mut links = Links::new(transport, 1, settings.receive_buffers);
    let peer =
        links.connect("the other host".to_owned(), stream).map_err(|error| failed(&error))?;
    let window = Window { data: CREDITS, control: CREDITS };
    let bell = Doorbell::new(Arc::new(Awake));
    let (into, mut receiver) = channel(CREDITS as usize, &bell, &bell);
    links.receive_into(peer, 0, window, BlockCodec, into);
    let mut sender = links.sender(peer, 0, window, BlockCodec);
    let make = || Block { made: vec![7; ROWS * ROW_BYTES], ..Block::default() };

    let mut received = 0;
    let mut time = CountingTime::start(duration);
    while time.lasts(received) {
        while let Some(mut block) = sender.acquire(make) {
            block.rows = ROWS;
            sender.send(Element::Batch(block));
        }
        links.tick().map_err(|error| failed(&error))?;
        while let Some(element) = receiver.receive() {
            if let Element::Batch(block) = element {
                received += (block.rows * ROW_BYTES) as u64;
                receiver.give_back(block);
            }
        }
    }
    tell(&Told { bytes_per_second: time.per_second(), links: links.stats().into() })?;
    wait_for_the_end()
}
