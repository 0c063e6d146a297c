//! x
#![forbid(unsafe_code)]

pub mod event;
pub mod job;
pub mod service;
