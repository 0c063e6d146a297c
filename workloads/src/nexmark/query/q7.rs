//! q7: the highest bids.

use super::input::{Input, OUT_OF_ORDERNESS};
use super::row::Row;
use crate::nexmark::format::RowWriter;
use crate::nexmark::{Bid, Event};
use millstream::prelude::*;
use millstream::{Chain, record};
use std::sync::Arc;

const SIZE_MILLIS: u64 = 10_000;

/// How far a guest is put before the end of the window that it visits.
const GUEST_LEAD: Duration = Duration::from_millis(1);

/// For each window the bids with its greatest price.
///
/// A bid at the very end of a window has no part in what that price is, since it belongs to the next
/// window, but is a row if it has that price: the query asks for `BETWEEN start AND end`, which
/// includes both. Such a bid comes twice, to its own window and as a guest to the one before.
pub(super) fn q7(input: &Input<'_>) -> DataStream<impl Chain<Out = HighBid>> {
    let events = input.shared();
    let highest = Highest { events: input.shared() };
    input
        .positions()
        .flat_map(move |at, out| {
            let Event::Bid(bid) = &events[at] else { return };
            let at = at as u64;
            out.collect(Candidate { at, price: bid.price, time: bid.date_time, is_guest: false });
            if bid.date_time.is_multiple_of(SIZE_MILLIS) {
                let time = bid.date_time - GUEST_LEAD.as_millis() as u64;
                out.collect(Candidate { at, price: bid.price, time, is_guest: true });
            }
        })
        .assign_timestamps(WatermarkStrategy::bounded_out_of_orderness(
            // A guest is put before its bid's time, and must not be late for that.
            OUT_OF_ORDERNESS + GUEST_LEAD,
            |candidate: &Candidate| Timestamp::from_millis(candidate.time as i64),
        ))
        .window_all(Tumbling::of(Duration::from_millis(SIZE_MILLIS)))
        .aggregate(highest)
        .name("highest bids")
        .flat_map(|highest, out| highest.value.into_iter().for_each(|bid| out.collect(bid)))
}

/// A bid in a window.
#[record]
struct Candidate {
    /// The position of the bid among the events.
    at: u64,
    price: u64,
    /// What puts it into the window, milliseconds since the Unix epoch.
    time: u64,
    is_guest: bool,
}

/// The best bids of a window so far.
#[record]
#[derive(Clone)]
struct Best {
    /// The greatest price of the window's own bids.
    price: u64,
    /// The window's own bids with that price.
    own: Vec<HighBid>,
    /// Guests with at least that price.
    guests: Vec<HighBid>,
}

/// Finds a window's best bids, and copies from the events only those that are among the best so far.
#[derive(Clone)]
struct Highest {
    events: Arc<[Event]>,
}

impl Highest {
    fn bid(&self, at: u64) -> HighBid {
        match &self.events[at as usize] {
            Event::Bid(bid) => HighBid::new(bid),
            other => unreachable!("candidates are bids, not {other:?}"),
        }
    }
}

impl AggregateFunction<Candidate> for Highest {
    type Accumulator = Best;
    type Output = Vec<HighBid>;

    fn create(&self) -> Best {
        Best { price: 0, own: Vec::new(), guests: Vec::new() }
    }

    #[inline]
    fn add(&self, best: &mut Best, candidate: Candidate) {
        if candidate.price < best.price {
            return;
        }
        let bid = self.bid(candidate.at);
        if candidate.is_guest {
            best.guests.push(bid);
        } else {
            best.raise_to(candidate.price);
            best.own.push(bid);
        }
    }

    fn merge(&self, best: &mut Best, other: &Best) {
        best.raise_to(other.price);
        if other.price == best.price {
            best.own.extend_from_slice(&other.own);
        }
        let guests = other.guests.iter().filter(|guest| guest.price >= best.price);
        best.guests.extend(guests.cloned());
    }

    fn result(&self, best: &Best) -> Vec<HighBid> {
        // A window of guests alone has no greatest price for them to have.
        let price = best.own.first().map(|bid| bid.price);
        let guests = best.guests.iter().filter(|guest| Some(guest.price) == price);
        best.own.iter().chain(guests).cloned().collect()
    }
}

impl Best {
    /// Drops what is below a price.
    fn raise_to(&mut self, price: u64) {
        if price > self.price {
            self.price = price;
            self.own.clear();
            self.guests.retain(|guest| guest.price >= price);
        }
    }
}

/// A row of q7.
#[record]
#[derive(Clone)]
pub(super) struct HighBid {
    auction: u64,
    price: u64,
    bidder: u64,
    date_time: u64,
    extra: String,
}

impl HighBid {
    fn new(bid: &Bid) -> Self {
        Self {
            auction: bid.auction,
            price: bid.price,
            bidder: bid.bidder,
            date_time: bid.date_time,
            extra: bid.extra.clone(),
        }
    }
}

impl Row for HighBid {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.auction).integer(self.price).integer(self.bidder);
        fields.timestamp(self.date_time).text(&self.extra);
    }
}
