//! The three kinds of events.
//!
//! Field names, their order and the JSON form are those of the crate `nexmark` 0.2, so that files
//! travel between the two. Short strings (names, cities, channels) are [`CompactString`]s, which hold
//! up to 24 bytes in place: a bid owns two heap allocations instead of three, a person one instead
//! of six. Strings that never fit are plain [`String`]s.

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// One event of the stream.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub enum Event {
    /// Somebody registered.
    Person(Person),
    /// An item was put up for auction.
    Auction(Auction),
    /// Somebody bid on an item.
    Bid(Bid),
}

impl Event {
    /// When the event happened, in milliseconds since the Unix epoch.
    pub fn timestamp_millis(&self) -> u64 {
        match self {
            Event::Person(person) => person.date_time,
            Event::Auction(auction) => auction.date_time,
            Event::Bid(bid) => bid.date_time,
        }
    }

    /// The person, if the event is one.
    pub fn into_person(self) -> Option<Person> {
        match self {
            Event::Person(person) => Some(person),
            _ => None,
        }
    }

    /// The auction, if the event is one.
    pub fn into_auction(self) -> Option<Auction> {
        match self {
            Event::Auction(auction) => Some(auction),
            _ => None,
        }
    }

    /// The bid, if the event is one.
    pub fn into_bid(self) -> Option<Bid> {
        match self {
            Event::Bid(bid) => Some(bid),
            _ => None,
        }
    }
}

/// A registered user, who may sell and bid.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Person {
    /// Unique among persons.
    pub id: u64,
    /// First and last name.
    pub name: CompactString,
    /// Email address.
    pub email_address: CompactString,
    /// Four groups of four digits.
    pub credit_card: CompactString,
    /// A city in the west of the United States.
    pub city: CompactString,
    /// Two letters.
    pub state: CompactString,
    /// Time of registration, milliseconds since the Unix epoch.
    pub date_time: u64,
    /// Padding that brings the event to about 200 bytes.
    pub extra: String,
}

/// An item under auction.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Auction {
    /// Unique among auctions.
    pub id: u64,
    /// What is sold.
    pub item_name: CompactString,
    /// The seller's praise of it.
    pub description: String,
    /// Lowest first bid, in cents.
    pub initial_bid: u64,
    /// Lowest price at which the item is sold, in cents.
    pub reserve: u64,
    /// When the auction opened, milliseconds since the Unix epoch.
    pub date_time: u64,
    /// When it closes, milliseconds since the Unix epoch.
    pub expires: u64,
    /// The person who sells.
    pub seller: u64,
    /// The category of the item.
    pub category: u64,
    /// Padding that brings the event to about 500 bytes.
    pub extra: String,
}

/// A bid on an item under auction.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct Bid {
    /// The auction that is bid on.
    pub auction: u64,
    /// The person who bids.
    pub bidder: u64,
    /// The price offered, in cents.
    pub price: u64,
    /// Where the bidder came from.
    pub channel: CompactString,
    /// The page of the item.
    pub url: String,
    /// Time of the bid, milliseconds since the Unix epoch.
    pub date_time: u64,
    /// Padding that brings the event to about 100 bytes.
    pub extra: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nexmark::{Generator, Settings};

    #[test]
    fn events_survive_archiving() {
        for event in Generator::new(Settings::default()).take(200) {
            let bytes =
                rkyv::to_bytes::<rkyv::rancor::Error>(&event).expect("an event can be archived");
            let back = rkyv::from_bytes::<Event, rkyv::rancor::Error>(&bytes)
                .expect("what was archived can be read");
            assert_eq!(back, event);
        }
    }
}
