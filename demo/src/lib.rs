//! The main job: an online music service, with its top songs, its users' tastes and their odd
//! behaviour, live.
//!
//! [`run`] is all that a command line needs: it takes [`DemoOptions`], which clap fills in, and shows
//! what the job finds in a terminal or in lines. [`job::describe`] is the job itself, over events from
//! anywhere; [`service`] makes them up, and [`mod@event`] says how files have them.
#![forbid(unsafe_code)]

pub mod board;
mod error;
pub mod event;
pub mod input;
pub mod job;
mod options;
mod run;
pub mod service;
mod view;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub use error::DemoError;
pub use options::{DemoOptions, Input};
pub use run::{describe, run};
