//! Hosts on this machine. Where they cannot be had, tests are skipped with the reason printed.
#![forbid(unsafe_code)]

mod common;
mod delay;
mod faults;
mod leftovers;
mod network;
