//! How often each word occurs: so far, and in the end.

use super::write;
use millstream::{Environment, Global};
use millstream_connectors::{FileSource, TextLines};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

const FILES: u64 = 6;
const LINES_PER_FILE: u64 = 1_500;
const WORDS_PER_LINE: u64 = 3;

/// Lines of all files together.
pub(super) const LINES: u64 = FILES * LINES_PER_FILE;

pub(super) fn describe(env: &Environment, input: &Path, output: &Path) {
    let files = FileSource::new(input.join("words"), TextLines).range_bytes(16 << 10);
    let words = env
        .from_source("text", files)
        .flat_map(|line: String, out| {
            line.split_whitespace().for_each(|word| out.collect(word.to_owned()))
        })
        .share();
    let so_far = words.stream().key_by(|word: &String| word.clone()).count();
    write(so_far.map(|(word, count)| format!("{word} {count}")), output, "so far");
    let in_the_end = words.stream().key_by(|word: &String| word.clone()).window(Global).count();
    write(in_the_end.map(|count| format!("{} {}", count.key, count.value)), output, "in the end");
}

/// Writes the files that the job reads.
///
/// # Errors
/// If they cannot be written.
pub fn write_input(input: &Path) -> io::Result<()> {
    let folder = input.join("words");
    fs::create_dir_all(&folder)?;
    for file in 0..FILES {
        let mut out = BufWriter::new(File::create(folder.join(format!("{file}.txt")))?);
        for line in 0..LINES_PER_FILE {
            for word in 0..WORDS_PER_LINE {
                let n = (file * LINES_PER_FILE + line) * WORDS_PER_LINE + word;
                let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                // Some words are frequent, most are rare.
                let word = if mixed.is_multiple_of(4) { mixed % 7 } else { mixed % 1_999 };
                write!(out, "word{word} ")?;
            }
            writeln!(out)?;
        }
        out.flush()?;
    }
    Ok(())
}
