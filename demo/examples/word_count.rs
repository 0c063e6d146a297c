//! How often each word occurs in a text.
//!
//! ```text
//! cargo run --release --example word_count -- README.md
//! ```
#![forbid(unsafe_code)]

use millstream::Global;
use millstream_connectors::{FileSource, StdoutSink, TextLines};
use millstream_demo::Input;
use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "How often each word occurs in a text, as lines WORD,COUNT";
    millstream_ops::run_with("word count", about, |env, input: Input| {
        env.from_source("text", FileSource::new(input.path, TextLines))
            .flat_map(|line: String, out| {
                line.split_whitespace().for_each(|word| out.collect(word.to_lowercase()))
            })
            .key_by(|word| word.clone())
            .window(Global)
            .count()
            .map(|count| (count.key, count.value))
            .sink_to("counts", StdoutSink::csv());
    })
}
