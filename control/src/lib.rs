//! What the coordinator, workers and clients say to each other, and how they prove who they are.
//!
//! Workers speak gRPC with the coordinator ([`rpc`]), clients HTTP with JSON ([`client`]). A connection of
//! a worker begins with the handshake of the exchange, by a key that is made of the cluster's secret; only
//! then a byte of it is given to gRPC. Clients send a token that is made of the secret, too.
//!
//! # Invariants
//! - Without a secret, nothing listens on an address that other hosts can reach.
//! - A secret is never shown, and never given to the process of a job: each job has one of its own.
#![forbid(unsafe_code)]

pub mod client;
pub mod gate;
pub mod secret;

/// The service between workers and the coordinator, generated from `proto/control.proto`.
pub mod rpc {
    tonic::include_proto!("millstream.control.v1");
}

/// The version of the messages between workers and the coordinator.
pub const VERSION: u32 = 1;

/// Where the coordinator listens to workers, by default.
pub const RPC_PORT: u16 = 7411;
/// Where it listens to clients, by default.
pub const REST_PORT: u16 = 7410;
