//! Bytes into a file, compressed or not.
//!
//! # Invariants
//! - A compressed file is a sequence of gzip members or zstd frames. After [`Stream::end_member`] it is
//!   whole as it is, and stays so whatever follows.

use crate::listing::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, Write};

/// A file that is being written.
pub(crate) struct Stream {
    compression: Compression,
    /// `None` after a failure.
    state: Option<State>,
}

enum State {
    /// Between two members; always, if nothing is compressed.
    Between(File),
    Gzip(GzEncoder<File>),
    Zstd(zstd::stream::write::Encoder<'static, File>),
}

impl Stream {
    /// Writes to the end of `file`.
    pub(crate) fn new(file: File, compression: Compression) -> Self {
        Self { compression, state: Some(State::Between(file)) }
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.compression != Compression::None
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.member()? {
            State::Between(file) => file.write_all(bytes),
            State::Gzip(encoder) => encoder.write_all(bytes),
            State::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    /// Begins a member if none has begun, and if there is compression: one without content, unless
    /// something is written.
    pub(crate) fn begin_member(&mut self) -> io::Result<()> {
        self.member().map(|_| ())
    }

    fn member(&mut self) -> io::Result<&mut State> {
        let state = match (self.state.take().ok_or_else(poisoned)?, self.compression) {
            (State::Between(file), Compression::Gzip) => {
                State::Gzip(GzEncoder::new(file, flate2::Compression::default()))
            }
            (State::Between(file), Compression::Zstd) => {
                let level = zstd::DEFAULT_COMPRESSION_LEVEL;
                State::Zstd(zstd::stream::write::Encoder::new(file, level)?)
            }
            (state, _) => state,
        };
        Ok(self.state.insert(state))
    }

    /// Ends the member, if one has begun.
    pub(crate) fn end_member(&mut self) -> io::Result<&mut File> {
        let file = match self.state.take().ok_or_else(poisoned)? {
            State::Between(file) => file,
            State::Gzip(encoder) => encoder.finish()?,
            State::Zstd(encoder) => encoder.finish()?,
        };
        match self.state.insert(State::Between(file)) {
            State::Between(file) => Ok(file),
            State::Gzip(_) | State::Zstd(_) => unreachable!("a member has just been ended"),
        }
    }
}

fn poisoned() -> io::Error {
    io::Error::other("writing has failed before")
}
