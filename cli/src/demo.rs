//! `millstream demo`.

use crate::{Failure, with_causes};
use clap::Args;
use millstream_demo::{DemoError, DemoOptions};
use millstream_ops::{Exit, Interrupt, JobArgs};
use std::error::Error;

#[derive(Args)]
#[command(
    long_about = "Run the main job: an online music service, live.

Users play, skip and rate songs, and songs are added. The job counts each song's plays over sliding
windows of event time and keeps the top songs of each genre; it follows every user's taste; and it
watches for odd behaviour: users who skip song after song, bots that play them faster than they
last. It shows all that in the terminal, or a line each second where standard output is none.",
    after_help = "\
Examples:
  millstream demo                                       until q or Ctrl-C
  millstream demo --duration 10s --rate 200k --slots 2
  millstream demo --write-events events.jsonl.zst --duration 1m
  millstream demo --input events.jsonl.zst
  millstream demo --input 'logs/*.csv.gz' --out-of-order 5m

Files hold JSON lines, or CSV under a header, with the fields time (milliseconds since 1970, or text
such as 2026-01-01T18:30:00Z), event (song, play, skip or rating), song, user, title, genre, seconds
and stars; --write-events shows how."
)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    demo: DemoOptions,
    #[command(flatten)]
    job: JobArgs,
}

impl DemoArgs {
    /// Runs the demo to its end, and says what that means for the program.
    pub(crate) fn run(self, interrupt: &Interrupt) -> Result<Exit, Failure> {
        let config = self.job.config().map_err(|error| usage(&error))?;
        let metrics = self.job.serve_metrics().map_err(|error| usage(&error))?;
        let run = millstream_demo::run(&self.demo, config, metrics.as_ref(), interrupt);
        Ok(run?)
    }
}

fn usage(error: &dyn Error) -> Failure {
    Failure { exit: Exit::Usage, message: with_causes(error) }
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        Self { exit: error.exit(), message: with_causes(&error) }
    }
}
