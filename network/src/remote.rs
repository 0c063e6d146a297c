//! The exchange between hosts: what its connections carry, and who may open one.
//!
//! This is what both ends of a connection agree on, without the connection: [`frame`]s and how they are
//! cut out of what is received, and the [`handshake`] that comes before the first of them. Credits are
//! `millstream-protocol`'s. Nothing here does I/O.

pub mod cutter;
pub mod frame;
pub mod handshake;
