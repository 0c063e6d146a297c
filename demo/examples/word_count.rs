//! How often each word occurs in a text.
//!
//! ```text
//! cargo run --release -p millstream-demo --example word_count -- README.md
//! ```
#![forbid(unsafe_code)]

use clap::Args;
use millstream::Global;
use millstream_connectors::{FileSource, StdoutSink, TextLines};
use std::process::ExitCode;

#[derive(Args)]
struct Text {
    /// A file, a folder or a quoted pattern; .gz and .zst are unpacked [default: standard input]
    #[arg(default_value = "/dev/stdin", hide_default_value = true)]
    path: std::path::PathBuf,
}

fn main() -> ExitCode {
    let about = "How often each word occurs in a text, as lines WORD,COUNT";
    millstream_demo::program::run("word count", about, |env, text: Text| {
        env.from_source("text", FileSource::new(text.path, TextLines))
            .flat_map(|line: String, out| {
                line.split_whitespace().for_each(|word| out.collect(word.to_lowercase()))
            })
            .key_by(|word| word.clone())
            .window(Global)
            .count()
            .map(|count| (count.key, count.value))
            .sink_to("counts", StdoutSink::csv());
        Ok(())
    })
}
