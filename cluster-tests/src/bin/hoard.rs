//! A job whose state is large: it visits every key in some order, each in the same order once more, and
//! then some of them at random. Says at its end what it has counted.
#![forbid(unsafe_code)]

use clap::Parser;
use millstream::prelude::*;
use millstream::{BoxError, Environment, Generator, Global};
use millstream_connectors::{FileSink, TextEncoder};
use millstream_ops::{Exit, Interrupt, JobArgs, LogArgs, execute};
use std::process::ExitCode;

/// A job whose state is large.
#[derive(Parser)]
struct Hoard {
    /// Different keys
    #[arg(long)]
    keys: u64,

    /// Records of keys drawn at random, behind those that visit each key twice
    #[arg(long)]
    samples: u64,

    /// The file of the result: records counted, records with a wrong value
    #[arg(long)]
    output: std::path::PathBuf,

    #[command(flatten)]
    job: JobArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// 200 bytes that follow from the key, but for the count.
#[millstream::record]
struct Value {
    count: u64,
    rest: [u64; 24],
}

fn main() -> ExitCode {
    let hoard = Hoard::parse();
    hoard.log.init();
    let exit = hoard.run().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        Exit::of_error(&error)
    });
    exit.into()
}

/// One to one, and far from its neighbours'.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Hoard {
    fn run(self) -> Result<Exit, BoxError> {
        let Self { keys, samples, output, .. } = self;
        let env = Environment::new(self.job.config()?);
        let key_of = move |n: u64, _| if n < 2 * keys { (n, n % keys) } else { (n, mix(n) % keys) };
        env.generate("visits", Generator::new(key_of).count(2 * keys + samples))
            .uid("visits")
            .key_by(|(_, key)| *key)
            .process(move |state| Visits { keys, values: state.value("values") })
            .uid("values")
            .key_by(|is_right| *is_right)
            .window(Global)
            .count()
            .uid("sums")
            .map(|sum| format!("{}: {}", if sum.key { "right" } else { "wrong" }, sum.value))
            .sink_to("sums", FileSink::new(output, TextEncoder))
            .uid("out");
        let interrupt = Interrupt::install();
        let result = execute(env, "hoard", None, &interrupt)?;
        Ok(Exit::of_status(result.status))
    }
}

/// Whether each key's value is what its earlier visits have left.
struct Visits {
    keys: u64,
    values: ValueState<u64, Value>,
}

impl KeyedProcessFunction<u64, (u64, u64)> for Visits {
    type Out = bool;

    fn process(
        &mut self,
        (n, key): (u64, u64),
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<bool>,
    ) -> Result<(), BoxError> {
        let rest = |i: usize| mix(key ^ i as u64);
        let first = || Value { count: 0, rest: std::array::from_fn(rest) };
        let visited = n / self.keys;
        let is_right = self.values.modify(cx, first, |value| {
            // The first two visits are one of each key; the others may be any.
            let count_is_right = value.count.min(2) == visited.min(2);
            value.count += 1;
            count_is_right && (0..24).all(|i| value.rest[i] == rest(i))
        });
        out.collect(is_right);
        Ok(())
    }
}
