//! Jobs in processes of their own, on real files, that are killed and resumed: their results must be
//! those of a job that nothing has happened to.
//!
//! The binary `victim` runs one of the [`jobs`], `hoard` one with much state. A [`Site`] is the folders that it works in; a
//! [`Process`] is one run of it; a [`Trial`] kills runs at chosen [`Moment`]s until one ends.
//!
//! # Invariants
//! - No process and no file outlives its test, also when that fails.
//! - Nothing is taken for granted after a while: what is waited for is looked for, up to a deadline.
#![forbid(unsafe_code)]

pub mod jobs;
mod moment;
mod process;
mod site;
mod tally;
mod trial;

pub use moment::Moment;
pub use process::{DEADLINE, Process, until};
pub use site::{Lines, Program, Site, difference};
pub use tally::Tally;
pub use trial::{Kills, State, Trial, run_all};
