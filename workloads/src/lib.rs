//! The benchmark suites, written over the public API alone.
//!
//! Two suites, each with its data model, its input and its queries:
//!
//! - [`nexmark`]: the Nexmark benchmark over full, string-carrying events;
//! - [`throughput`]: the same queries over compact 40-byte events, the work that the hand-written
//!   loops and the peers in `bench/peers` do.
//!
//! # Invariants
//! - No workspace crate but `millstream` is a dependency: a query has no path into the engine that a
//!   user's job does not have.
//! - Everything here is deterministic: the same settings give the same bytes, on every machine.

#![forbid(unsafe_code)]

pub mod nexmark;
pub mod throughput;
