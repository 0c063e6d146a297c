//! Lines of files, copied: each slot on its own, without a channel to another.

use super::write;
use millstream::Environment;
use millstream_connectors::{FileSource, TextLines};
use std::fs;
use std::path::Path;

/// The file beside the output whose presence makes one slot fail, and no other: that takes it away.
pub(crate) const TRIP: &str = "trip";

pub(super) fn describe(env: &Environment, input: &Path, output: &Path) {
    let files = FileSource::new(input.join("words"), TextLines).range_bytes(16 << 10);
    let trip = output.with_file_name(TRIP);
    let lines = env
        .from_source("text", files)
        .map(move |line: String| {
            assert!(fs::remove_file(&trip).is_err(), "a slot was tripped");
            line
        })
        .share();
    write(lines.stream(), output, "copies");
    write(lines.stream().map(|line| line.to_uppercase()), output, "capitals");
}
