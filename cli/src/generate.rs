//! `millstream generate`.

use crate::Failure;
use clap::Subcommand;
use millstream_bench::{Destination, generate};
use millstream_ops::{Interrupt, count, duration};
use millstream_workloads::nexmark::Settings;
use std::time::Instant;

#[derive(Subcommand)]
pub(crate) enum Generate {
    /// Nexmark events: persons, auctions and bids of an online auction house
    #[command(after_help = "\
The same settings give the same bytes, on every machine. The file appears under its name when it
is whole.

Examples:
  millstream generate nexmark --events 100000 --out events.jsonl
  millstream generate nexmark --events 10000000 --out events.jsonl.zst
  millstream generate nexmark --events 10 --out -")]
    Nexmark {
        /// How many
        #[arg(long, value_name = "N")]
        events: u64,

        /// Events per second of event time
        #[arg(
            long,
            value_name = "EVENTS_PER_SECOND",
            default_value_t = Settings::default().rate,
            value_parser = clap::value_parser!(u64).range(1..),
        )]
        rate: u64,

        /// Time of the first event, milliseconds since the Unix epoch [default: 2015-07-15]
        #[arg(
            long,
            value_name = "MILLIS",
            default_value_t = Settings::default().base_time_millis,
            hide_default_value = true,
            // Until the year 3000, so that no sum with an event's offset overflows.
            value_parser = clap::value_parser!(u64).range(..=32_503_680_000_000),
        )]
        base_time: u64,

        /// Where to write JSON lines: a file, compressed if it ends in .gz or .zst, or - for
        /// standard output
        #[arg(long, value_name = "FILE")]
        out: String,
    },
}

impl Generate {
    pub(crate) fn run(self, interrupt: &Interrupt) -> Result<(), Failure> {
        let Self::Nexmark { events, rate, base_time, out } = self;
        let settings = Settings { base_time_millis: base_time, rate };
        let start = Instant::now();
        generate::to_file(settings, events, &Destination::from(&*out), interrupt)?;
        eprintln!("{} events in {}", count(events), duration(start.elapsed()));
        Ok(())
    }
}
