//! Several hosts on one machine, for tests and measurements of a cluster, and what goes wrong
//! between them: partitions, loss, narrow and long lines.
//!
//! A host is a network namespace. [`Hosts`] makes some of them, joined by a bridge in a namespace of
//! its own, so that nothing of it touches the machine's own network and several sets stand side by
//! side with the same addresses. A [`Host`] starts programs, and runs code of the caller, in its
//! network; all else, such as files and the numbers of processes, is shared. A [`Fault`] lasts until
//! it is healed or dropped.
//!
//! This takes root and a few programs: [`Hosts::available`] says what is missing.
//!
//! # Invariants
//! - No namespace and no process in one outlives its set. Where the owner was killed, the next set
//!   removes what it has left.
//! - The number of a process that a host has started is the program's own: signals reach it.
//! - Nothing waits for ever: programs are killed after a while, and their failure is reported.
//!
//! All unsafe code is in `delay::tun`.

mod available;
mod delay;
mod error;
mod fault;
mod host;
mod leftovers;
mod namespace;
mod process;
mod set;
mod tool;

pub use available::Missing;
pub use error::HostsError;
pub use fault::Fault;
pub use host::Host;
pub use set::{HOSTS_MAX, Hosts};
