//! Nexmark events into memory or a file, made by all cores.
//!
//! An event depends on its number alone, so threads make blocks of consecutive events in turn, and
//! whoever takes the blocks in the same turn has the stream in its order.

use crate::{BenchError, Destination};
use millstream_ops::Interrupt;
use millstream_workloads::nexmark::{Event, Generator, Settings, json};
use std::sync::mpsc::{Receiver, sync_channel};

/// Events in a block: about a megabyte of JSON.
const BLOCK_EVENTS: u64 = 4_096;
/// Blocks that a thread is ahead of who takes them.
const BLOCKS_AHEAD: usize = 2;

/// Writes the first `events` events as JSON lines.
///
/// # Errors
/// If the destination cannot be written, or a signal came.
pub fn to_file(
    settings: Settings,
    events: u64,
    destination: &Destination,
    interrupt: &Interrupt,
) -> Result<(), BenchError> {
    let mut output = destination.create()?;
    let encode = |block: Vec<Event>| {
        let mut text = Vec::with_capacity(block.len() * 256);
        block.iter().for_each(|event| json::write_line(event, &mut text));
        text
    };
    in_blocks(settings, events, encode, |text| {
        if interrupt.is_raised() {
            return Err(BenchError::Cancelled);
        }
        output.write(&text)
    })?;
    output.commit()
}

/// Makes the first `events` events.
///
/// # Errors
/// If a signal came.
pub fn to_memory(
    settings: Settings,
    events: u64,
    interrupt: &Interrupt,
) -> Result<Vec<Event>, BenchError> {
    let mut made = Vec::with_capacity(usize::try_from(events).unwrap_or(0));
    in_blocks(
        settings,
        events,
        |block| block,
        |mut block| {
            if interrupt.is_raised() {
                return Err(BenchError::Cancelled);
            }
            made.append(&mut block);
            Ok(())
        },
    )?;
    Ok(made)
}

/// Makes events in blocks, each finished by `finish` on the thread that made it, and hands them in
/// order to `take`, until it fails.
fn in_blocks<T: Send>(
    settings: Settings,
    events: u64,
    finish: impl Fn(Vec<Event>) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let blocks = events.div_ceil(BLOCK_EVENTS);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(blocks);
    std::thread::scope(|scope| {
        let finish = &finish;
        let channels: Vec<Receiver<T>> = (0..threads)
            .map(|thread| {
                let (sender, receiver) = sync_channel(BLOCKS_AHEAD);
                scope.spawn(move || {
                    for block in (thread..blocks).step_by(threads as usize) {
                        let first = block * BLOCK_EVENTS;
                        let count = BLOCK_EVENTS.min(events - first);
                        let generator = Generator::new(settings).partition(first, 1);
                        let made = generator.take(count as usize).collect();
                        if sender.send(finish(made)).is_err() {
                            return; // whoever takes the blocks has given up
                        }
                    }
                });
                receiver
            })
            .collect();
        for block in 0..blocks {
            let made = channels[(block % threads) as usize].recv();
            take(made.expect("a generating thread sends all its blocks"))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_make_the_stream_that_one_makes() {
        let settings = Settings::default();
        let interrupt = Interrupt::default();
        for events in [0, 1, BLOCK_EVENTS - 1, BLOCK_EVENTS, 5 * BLOCK_EVENTS + 7] {
            let made = to_memory(settings, events, &interrupt).unwrap();
            let expected: Vec<_> = Generator::new(settings).take(events as usize).collect();
            assert!(made == expected, "{events} events");
        }
    }

    #[test]
    fn a_taker_that_gives_up_ends_the_threads() {
        let mut taken = 0;
        let result = in_blocks(
            Settings::default(),
            100 * BLOCK_EVENTS,
            |block| block.len(),
            |_| {
                taken += 1;
                if taken == 3 { Err(BenchError::Cancelled) } else { Ok(()) }
            },
        );
        assert!(matches!(result, Err(BenchError::Cancelled)));
        assert_eq!(taken, 3);
    }
}
