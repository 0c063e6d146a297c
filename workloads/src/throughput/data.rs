//! The input files, which all engines read: `ev.bin`, compact events, and `text.txt`, words.
//!
//! # Format
//! `ev.bin` is a sequence of events of five little-endian 64-bit words each, in event-time order:
//!
//! | word | person | auction | bid |
//! |---|---|---|---|
//! | 0 | 0 | 1, category in the upper half | 2 |
//! | 1 | id | id | auction |
//! | 2 | [`word_hash`] of the name | seller | bidder |
//! | 3 | 0 | reserve | price |
//! | 4 | timestamp | timestamp | timestamp |
//!
//! `text.txt` is at least 200,000,000 bytes of lines of twelve words, drawn from a vocabulary of
//! 100,000 by Zipf's law.
//!
//! # Invariants
//! - A file under its final name is whole: it is written under another name, then renamed.
//! - A longer `ev.bin` begins with the bytes of every shorter one.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Bid, Ev, word_hash};
use crate::nexmark::{Event, Generator, Settings};

/// Events in `ev.bin` unless asked otherwise.
pub const EVENTS_DEFAULT: usize = 10_000_000;

/// The stream that `ev.bin` is the beginning of: 10,000 events per second of event time.
pub const SETTINGS: Settings = Settings { base_time_millis: 1_700_000_000_000, rate: 10_000 };

const EVENT_BYTES: usize = 40;
const EVENTS_FILE: &str = "ev.bin";
const TEXT_FILE: &str = "text.txt";
const TEXT_BYTES_MIN: usize = 200_000_000;
const TEXT_SEED: u64 = 42;
const VOCABULARY_WORDS: usize = 100_000;
const LINE_WORDS: usize = 12;

/// Why the input is not there or not usable.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file was never written.
    #[error(
        "{} does not exist; `millstream bench throughput --workload q0 --data {}` writes it",
        path.display(),
        path.parent().unwrap_or(Path::new(".")).display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file holds fewer events than are asked for.
    #[error(
        "{} holds {present} events, {wanted} are asked for; ask for fewer, or write a longer file \
         with `millstream bench throughput --workload q0 --events {wanted} --data {}`",
        path.display(),
        path.parent().unwrap_or(Path::new(".")).display()
    )]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Whole events in it.
        present: usize,
        /// Events asked for.
        wanted: usize,
    },
    /// The file is something else.
    #[error("{}: {reason}; delete the file, the next run writes it anew", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The caller wanted no more of it.
    #[error("cancelled while {} was written", path.display())]
    Cancelled {
        /// The file, which is not there.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}{}", path.display(), advice(operation, source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What to do about it, where that is not plain.
fn advice(operation: &str, error: &io::Error) -> &'static str {
    match (error.kind(), operation) {
        (io::ErrorKind::StorageFull, _) => "; free some space or choose another folder",
        (io::ErrorKind::PermissionDenied, "open" | "read" | "examine") => {
            "; choose a file that you may read"
        }
        (io::ErrorKind::PermissionDenied, _) => "; choose a folder that you may write to",
        _ => "",
    }
}

impl DataError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
        move |source| match source.kind() {
            io::ErrorKind::NotFound if operation == "open" => {
                DataError::Missing { path: path.to_owned() }
            }
            _ => DataError::Io { operation, path: path.to_owned(), source },
        }
    }
}

/// Writes `ev.bin` of `events` events into `dir`, which is made if need be, unless one at least as
/// long is there. About a second for four million events.
///
/// # Errors
/// What the file system says, or [`DataError::Cancelled`] soon after `is_cancelled` says so. Nothing
/// is left behind then.
pub fn ensure_events(
    dir: &Path,
    events: usize,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<(), DataError> {
    let path = dir.join(EVENTS_FILE);
    if file_bytes(&path)?
        .is_some_and(|bytes| bytes >= (events as u64).saturating_mul(EVENT_BYTES as u64))
    {
        return Ok(());
    }
    write_whole(&path, is_cancelled, |out| write_events(events, out))
}

/// Writes `text.txt` into `dir`, which is made if need be, unless it is there. Some seconds.
///
/// # Errors
/// As [`ensure_events`].
pub fn ensure_text(dir: &Path, is_cancelled: &dyn Fn() -> bool) -> Result<(), DataError> {
    let path = dir.join(TEXT_FILE);
    if file_bytes(&path)?.is_some() {
        return Ok(());
    }
    write_whole(&path, is_cancelled, |out| write_text(TEXT_BYTES_MIN, out))
}

/// Reads the first `events` events of `ev.bin`.
///
/// # Errors
/// If the file is missing, too short, or something else.
pub fn load_events(dir: &Path, events: usize) -> Result<Vec<Ev>, DataError> {
    let path = dir.join(EVENTS_FILE);
    let mut file = File::open(&path).map_err(DataError::io("open", &path))?;
    let present = file.metadata().map_err(DataError::io("examine", &path))?.len() as usize;
    if present / EVENT_BYTES < events {
        return Err(DataError::TooShort { path, present: present / EVENT_BYTES, wanted: events });
    }

    let mut loaded = Vec::with_capacity(events);
    let mut chunk = vec![0; EVENT_BYTES * 16_384];
    while loaded.len() < events {
        let wanted = chunk.len().min((events - loaded.len()) * EVENT_BYTES);
        file.read_exact(&mut chunk[..wanted]).map_err(DataError::io("read", &path))?;
        for bytes in chunk[..wanted].as_chunks::<EVENT_BYTES>().0 {
            let event = decode(bytes).map_err(|kind| DataError::Corrupt {
                path: path.clone(),
                reason: format!("event {} is of the unknown kind {kind}", loaded.len()),
            })?;
            loaded.push(event);
        }
    }
    Ok(loaded)
}

/// Reads all of `text.txt`.
///
/// # Errors
/// If the file is missing or no UTF-8.
pub fn load_text(dir: &Path) -> Result<String, DataError> {
    let path = dir.join(TEXT_FILE);
    let bytes = fs::read(&path).map_err(DataError::io("open", &path))?;
    String::from_utf8(bytes).map_err(|error| DataError::Corrupt {
        reason: format!("no UTF-8 text after byte {}", error.utf8_error().valid_up_to()),
        path,
    })
}

/// The file's length; `None` if there is no such file.
fn file_bytes(path: &Path) -> Result<Option<u64>, DataError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DataError::Io { operation: "examine", path: path.to_owned(), source }),
    }
}

/// A file that takes no more once it is cancelled.
struct Cancellable<'a> {
    file: File,
    is_cancelled: &'a dyn Fn() -> bool,
}

impl Write for Cancellable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Not `Interrupted`, upon which writers try again.
        if (self.is_cancelled)() {
            Err(io::Error::other("cancelled"))
        } else {
            self.file.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_whole(
    path: &Path,
    is_cancelled: &dyn Fn() -> bool,
    write: impl FnOnce(&mut BufWriter<Cancellable<'_>>) -> io::Result<()>,
) -> Result<(), DataError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(DataError::io("make the folder of", path))?;
    }
    // With the process in its name, so that two runs at once do not write one file.
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let written = File::create(&partial)
        .and_then(|file| {
            let mut out = BufWriter::with_capacity(1 << 20, Cancellable { file, is_cancelled });
            write(&mut out)?;
            out.flush()
        })
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        // Best effort: the error that counts is the first one.
        let _ = fs::remove_file(&partial);
        if is_cancelled() {
            return DataError::Cancelled { path: path.to_owned() };
        }
        DataError::Io { operation: "write", path: path.to_owned(), source }
    })
}

fn write_events(events: usize, out: &mut impl Write) -> io::Result<()> {
    for event in Generator::new(SETTINGS).take(events) {
        out.write_all(&encode(&compact(&event)))?;
    }
    Ok(())
}

/// The event without its strings.
///
/// # Panics
/// If an auction's category exceeds 32 bits; generated ones are below 100.
pub fn compact(event: &Event) -> Ev {
    match event {
        Event::Person(person) => Ev::Person {
            id: person.id,
            name: word_hash(person.name.as_bytes()),
            ts: person.date_time,
        },
        Event::Auction(auction) => Ev::Auction {
            category: u32::try_from(auction.category).expect("categories are small numbers"),
            id: auction.id,
            seller: auction.seller,
            reserve: auction.reserve,
            ts: auction.date_time,
        },
        Event::Bid(bid) => Ev::Bid(Bid {
            auction: bid.auction,
            bidder: bid.bidder,
            price: bid.price,
            ts: bid.date_time,
        }),
    }
}

fn encode(event: &Ev) -> [u8; EVENT_BYTES] {
    let words = match *event {
        Ev::Person { id, name, ts } => [0, id, name, 0, ts],
        Ev::Auction { category, id, seller, reserve, ts } => {
            [1 | u64::from(category) << 32, id, seller, reserve, ts]
        }
        Ev::Bid(Bid { auction, bidder, price, ts }) => [2, auction, bidder, price, ts],
    };
    let mut bytes = [0; EVENT_BYTES];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
}

/// The event, or the kind that there is none of.
fn decode(bytes: &[u8; EVENT_BYTES]) -> Result<Ev, u32> {
    let words: [u64; 5] = std::array::from_fn(|word| u64::from_le_bytes(bytes.as_chunks().0[word]));
    let [head, a, b, c, ts] = words;
    match head as u32 {
        0 => Ok(Ev::Person { id: a, name: b, ts }),
        1 => Ok(Ev::Auction { category: (head >> 32) as u32, id: a, seller: b, reserve: c, ts }),
        2 => Ok(Ev::Bid(Bid { auction: a, bidder: b, price: c, ts })),
        kind => Err(kind),
    }
}

/// Lines of words by Zipf's law, until there are at least `bytes_min` bytes.
fn write_text(bytes_min: usize, out: &mut impl Write) -> io::Result<()> {
    let rng = &mut SmallRng::seed_from_u64(TEXT_SEED);
    let vocabulary: Vec<String> = (1..=VOCABULARY_WORDS).map(|rank| word(rank, rng)).collect();
    // The word of rank r has weight 1/r; a draw below the r-th partial sum, and not below the one
    // before, is a draw of that word.
    let partial_sums: Vec<f64> = (1..=VOCABULARY_WORDS)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect();
    let total = partial_sums[VOCABULARY_WORDS - 1];

    let mut written = 0;
    while written < bytes_min {
        for place in 1..=LINE_WORDS {
            let draw = rng.r#gen::<f64>() * total;
            let index = partial_sums.partition_point(|&sum| sum < draw).min(VOCABULARY_WORDS - 1);
            let word = vocabulary[index].as_bytes();
            out.write_all(word)?;
            out.write_all(if place == LINE_WORDS { b"\n" } else { b" " })?;
            written += word.len() + 1;
        }
    }
    Ok(())
}

/// Rare words are longer: two to six letters and half the rank's logarithm.
fn word(rank: usize, rng: &mut SmallRng) -> String {
    let length = 2 + (rank as f64).ln() as usize / 2 + rng.gen_range(0..5usize);
    (0..length).map(|_| char::from(rng.gen_range(b'a'..=b'z'))).collect()
}
