//! The Nexmark benchmark: an online auction house.
//!
//! People register, put items up for auction and bid on them; of every 50 events one is a person,
//! three are auctions and 46 are bids. After Tucker, Tufte, Papadimos and Maier, *NEXMark: a
//! benchmark for queries over data streams* (2008), in the form that Apache Beam gave it.

mod event;
pub mod format;
mod generator;
pub mod json;
mod query;

pub use event::{Auction, Bid, Event, Person};
pub use generator::{Generator, Settings};
pub use query::{Outcome, Query, RowsTo, UnknownQuery, run, write};
