//! Runs on request, so that a comparator can have several programs take turns (A B A B) after each
//! has loaded its input once. The programs in `bench/peers` speak the same protocol.
//!
//! # Protocol
//! A program answers every line on its standard input with one run and one JSON line on its
//! standard output, an [`Answer`]. It ends, with exit code 0, when its standard input does. Between
//! requests it sleeps.

use crate::BenchError;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// What one run cost and came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// From the release of the sources to the last result.
    pub seconds: f64,
    /// Processor time of the whole process.
    pub cpu_seconds: f64,
    /// Input events, or words.
    pub events: u64,
    /// Results.
    pub rows_out: u64,
    /// Over all results, 16 hexadecimal digits.
    pub checksum: String,
    /// Pages that the thread that worked had to wait for, if that was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
}

/// Answers requests until there are no more.
///
/// # Errors
/// What a run fails with, or if requests or answers cannot pass.
pub fn serve(mut run: impl FnMut() -> Result<Answer, BenchError>) -> Result<(), BenchError> {
    for line in io::stdin().lines() {
        line.map_err(|source| BenchError::write("standard input", "read it", source))?;
        let answer = serde_json::to_string(&run()?).expect("an answer has string keys only");
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")
            .and_then(|()| out.flush())
            .map_err(|source| BenchError::write("standard output", "write it", source))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peers_answer_is_understood() {
        let line = r#"{"seconds":0.104,"cpu_seconds":0.204,"events":10000000,"rows_out":9200000,"checksum":"0123456789abcdef"}"#;
        let answer: Answer = serde_json::from_str(line).unwrap();
        assert_eq!(answer.events, 10_000_000);
        assert_eq!(answer.checksum, "0123456789abcdef");
        assert_eq!(serde_json::to_string(&answer).unwrap(), line);
    }
}
