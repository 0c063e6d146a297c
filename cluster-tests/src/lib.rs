//! Jobs in processes of their own, on real files, to which something happens: their results must be
//! those of a job that nothing has happened to.
//!
//! The binary `victim` runs one of the [`jobs`], `hoard` one with much state. A [`Site`] is the folders
//! that it works in; a [`Process`] is one run of it; a [`Trial`] kills runs at chosen [`Moment`]s until
//! one ends. A [`Cluster`] is a job on several hosts that is started by hand, which a
//! [`ClusterTrial`] gives [`Trouble`]; a [`SessionTrial`] has a coordinator place one, which suffers a [`Loss`]. The
//! binary `station` is that coordinator, and its workers.
//!
//! # Invariants
//! - No process, no file and no host outlives its test, also when that fails.
//! - Nothing is taken for granted after a while: what is waited for is looked for, up to a deadline.
#![forbid(unsafe_code)]

mod about;
mod clock;
mod cluster;
mod cluster_trial;
mod disk;
pub mod jobs;
mod moment;
mod process;
mod session;
mod session_trial;
mod side_by_side;
mod site;
mod stranger;
mod tally;
mod trial;
mod trials_on_hosts;
mod trouble;

pub use about::About;
pub use clock::Clock;
pub use cluster::{Cluster, MEMBERS, Pace, Share};
pub use cluster_trial::ClusterTrial;
pub use disk::SmallDisk;
pub use moment::Moment;
pub use process::{DEADLINE, Process, until};
pub use session_trial::{Durability, Loss, Seen, SessionTrial};
pub use side_by_side::number;
pub use site::{Lines, Program, Site, difference};
pub use stranger::Stranger;
pub use tally::Tally;
pub use trial::{Kills, State, Trial, run_all};
pub use trials_on_hosts::{TrialOnHosts, run_on_hosts};
pub use trouble::Trouble;
