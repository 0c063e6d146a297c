//! The queries, each as the loop that somebody who needs only this one query would write.

use std::borrow::Borrow;
use std::collections::VecDeque;

use nexmark::event::{Bid, Event};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::rows::{Row, Rows};

const WINDOW_MILLIS: u64 = 10_000;
const SLIDE_MILLIS: u64 = 2_000;
const SLICES: usize = (WINDOW_MILLIS / SLIDE_MILLIS) as usize;

fn bid_row(bid: &Bid, price: usize) -> Row<'_> {
    let &Bid { auction, bidder, date_time, ref extra, .. } = bid;
    Row::Bid { auction, bidder, price, date_time, extra }
}

/// All bids.
pub fn q0<E: Borrow<Event>>(events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    for event in events {
        if let Event::Bid(bid) = event.borrow() {
            rows.row(bid_row(bid, bid.price));
        }
    }
}

/// All bids, in euros.
pub fn q1<E: Borrow<Event>>(events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    for event in events {
        if let Event::Bid(bid) = event.borrow() {
            rows.row(bid_row(bid, bid.price * 908));
        }
    }
}

/// Bids on some auctions.
pub fn q2<E: Borrow<Event>>(events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    for event in events {
        if let Event::Bid(bid) = event.borrow()
            && bid.auction % 123 == 0
        {
            rows.row(Row::Watched { auction: bid.auction, price: bid.price });
        }
    }
}

/// The auctions with the most bids in a sliding window. Counted by slices of one slide.
pub fn q5<E: Borrow<Event>>(events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    // The slices of the newest window, oldest first; the last one is being filled.
    let mut slices: VecDeque<FxHashMap<usize, u64>> = VecDeque::new();
    slices.push_back(FxHashMap::default());
    let mut slice_end = 0;
    for event in events {
        let Event::Bid(bid) = event.borrow() else { continue };
        if bid.date_time >= slice_end {
            if slice_end == 0 {
                slice_end = bid.date_time / SLIDE_MILLIS * SLIDE_MILLIS + SLIDE_MILLIS;
            }
            while bid.date_time >= slice_end {
                hottest(&slices, slice_end, rows);
                next_slice(&mut slices);
                slice_end += SLIDE_MILLIS;
            }
        }
        *slices.back_mut().expect("one slice is being filled").entry(bid.auction).or_default() += 1;
    }
    // The windows that the last bids fall into.
    for _ in 0..SLICES {
        hottest(&slices, slice_end, rows);
        next_slice(&mut slices);
        slice_end += SLIDE_MILLIS;
    }
}

fn next_slice(slices: &mut VecDeque<FxHashMap<usize, u64>>) {
    if slices.len() == SLICES {
        slices.pop_front();
    }
    slices.push_back(FxHashMap::default());
}

fn hottest(slices: &VecDeque<FxHashMap<usize, u64>>, end: u64, rows: &mut impl Rows) {
    let mut counts: FxHashMap<usize, u64> = FxHashMap::default();
    for (&auction, &count) in slices.iter().flatten() {
        *counts.entry(auction).or_default() += count;
    }
    let Some(&most) = counts.values().max() else { return };
    for (auction, count) in counts {
        if count == most {
            rows.row(Row::Hot { auction, count, start: end - WINDOW_MILLIS, end });
        }
    }
}

/// The bids with the highest price of a tumbling window; also those of that price at the very end of
/// the window, which the next window counts too.
pub fn q7<E: Borrow<Event>>(events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    let mut highest: Vec<Bid> = Vec::new();
    let (mut window_end, mut highest_before) = (0, None);
    for event in events {
        let Event::Bid(bid) = event.borrow() else { continue };
        if bid.date_time >= window_end {
            emit_highest(&highest, rows);
            let begins_at_end = bid.date_time == window_end;
            highest_before = highest.first().filter(|_| begins_at_end).map(|bid| bid.price);
            highest.clear();
            window_end = bid.date_time / WINDOW_MILLIS * WINDOW_MILLIS + WINDOW_MILLIS;
        }
        if highest_before == Some(bid.price) && bid.date_time + WINDOW_MILLIS == window_end {
            rows.row(bid_row(bid, bid.price));
        }
        match highest.first() {
            Some(first) if bid.price < first.price => {}
            Some(first) if bid.price == first.price => highest.push(bid.clone()),
            _ => {
                highest.clear();
                highest.push(bid.clone());
            }
        }
    }
    emit_highest(&highest, rows);
}

fn emit_highest(highest: &[Bid], rows: &mut impl Rows) {
    for bid in highest {
        rows.row(bid_row(bid, bid.price));
    }
}

/// Persons who registered and put up an item in the same tumbling window.
pub fn q8<E: Borrow<Event>>(events: impl Iterator<Item = E>, rows: &mut impl Rows) {
    let mut persons: FxHashMap<usize, String> = FxHashMap::default();
    let mut sellers: FxHashSet<usize> = FxHashSet::default();
    let mut window_end = 0;
    for event in events {
        let date_time = match event.borrow() {
            Event::Person(person) => person.date_time,
            Event::Auction(auction) => auction.date_time,
            Event::Bid(_) => continue,
        };
        if date_time >= window_end {
            join(&mut persons, &mut sellers, window_end, rows);
            window_end = date_time / WINDOW_MILLIS * WINDOW_MILLIS + WINDOW_MILLIS;
        }
        match event.borrow() {
            Event::Person(person) => {
                persons.insert(person.id, person.name.clone());
            }
            Event::Auction(auction) => {
                sellers.insert(auction.seller);
            }
            Event::Bid(_) => {}
        }
    }
    join(&mut persons, &mut sellers, window_end, rows);
}

fn join(
    persons: &mut FxHashMap<usize, String>,
    sellers: &mut FxHashSet<usize>,
    window_end: u64,
    rows: &mut impl Rows,
) {
    for (id, name) in persons.drain() {
        if sellers.contains(&id) {
            rows.row(Row::Newcomer { id, name: &name, start: window_end - WINDOW_MILLIS });
        }
    }
    sellers.clear();
}
