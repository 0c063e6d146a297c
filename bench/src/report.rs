//! Figures on standard output.

use crate::BenchError;
use serde::Serialize;
use std::io::{self, Write};

/// In which form figures are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object on a line of its own.
    Json,
}

impl Format {
    /// Writes one report: `text` or the JSON form of `figures`.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(crate) fn write(
        self,
        figures: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), BenchError> {
        let line = match self {
            Self::Text => text(),
            Self::Json => serde_json::to_string(figures).expect("figures have string keys only"),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|source| BenchError::write("standard output", "write it", source))
    }
}

/// Events per second in millions, to three digits.
pub(crate) fn millions(per_second: f64) -> String {
    let millions = per_second / 1e6;
    let places = if millions < 10.0 {
        2
    } else if millions < 100.0 {
        1
    } else {
        0
    };
    format!("{millions:.places$}")
}
