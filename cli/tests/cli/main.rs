//! The binary `millstream` as people and scripts use it.

mod bench;
mod bench_hosts;
mod bench_state;
mod checkpoints;
mod cluster;
mod commands;
mod demo;
mod demo_mistakes;
mod hosts;
mod program;
