//! Sources and sinks: files, sockets, standard streams.
//!
//! # Invariants
//! - No slot blocks: what may wait is read and written by threads that belong to their reader or
//!   writer and end with it.
//! - Everything in flight is bounded: a reader and a writer each hold a few blocks of 256 KiB.
//! - A file under its final name is complete: a job that fails or is killed leaves none.
//!
//! ```
//! use millstream::{Config, Environment};
//! use millstream_connectors::{FileSink, FileSource, TextEncoder, TextLines};
//! # let folder = tempfile::tempdir()?;
//! # let (input, output) = (folder.path().join("in"), folder.path().join("out"));
//! # std::fs::write(&input, "first light\n")?;
//!
//! let env = Environment::new(Config::default());
//! env.from_source("lines", FileSource::new(&input, TextLines))
//!     .map(|line: String| line.to_uppercase())
//!     .sink_to("upper case", FileSink::new(&output, TextEncoder));
//! env.execute("copy")?;
//! assert_eq!(std::fs::read_to_string(&output)?, "FIRST LIGHT\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as millstream_connectors;

mod block_reader;
mod block_writer;
mod compress;
#[cfg(test)]
#[path = "../tests/driver/mod.rs"]
mod driver;
mod emission;
mod encoder;
mod error;
mod file_sink;
mod files;
pub mod format;
mod io_thread;
mod line_count;
mod listing;
mod record_reader;
mod record_writer;
mod rolling_file_sink;
mod socket;
mod split;
mod stdin;
mod stdout;
mod table;
pub mod testkit;
mod unread;

pub use emission::{Emission, MalformedTo, Named, Records, Results};
pub use encoder::{CsvEncoder, Encoder, JsonEncoder, TextEncoder};
pub use error::{ReadError, WriteError, is_closed_output};
pub use file_sink::{FileSink, FileWriter};
pub use files::FileSource;
pub use format::{Csv, JsonLines, Malformed, OnMalformed, TextLines};
pub use record_reader::RecordReader;
pub use record_writer::RecordWriter;
pub use rolling_file_sink::{RollingFileSink, RollingFileWriter};
pub use socket::SocketSource;
pub use stdin::StdinSource;
pub use stdout::StdoutSink;
pub use table::TableEncoder;
