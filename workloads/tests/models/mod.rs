//! Each query by its definition, over all events at once, with no thought of speed.

use millstream_workloads::nexmark::format::RowWriter;
use millstream_workloads::nexmark::{Auction, Bid, Event, Person, Query};
use std::collections::{BTreeMap, BTreeSet};

/// The rows of a query.
pub fn rows(query: Query, events: &[Event]) -> Vec<String> {
    let all = Events::of(events);
    match query {
        Query::Q0 => all.bids.iter().map(|b| bid_row(b, &b.price.to_string())).collect(),
        Query::Q1 => all.bids.iter().map(|b| bid_row(b, &in_euros(b.price))).collect(),
        Query::Q2 => {
            let some = all.bids.iter().filter(|b| b.auction % 123 == 0);
            some.map(|b| format!("{}|{}", b.auction, b.price)).collect()
        }
        Query::Q3 => q3(&all),
        Query::Q4 => q4(&all),
        Query::Q5 => q5(&all),
        Query::Q7 => q7(&all),
        Query::Q8 => q8(&all),
        Query::Q11 => sessions(&all, 10_000),
        Query::Q11Gap1s => sessions(&all, 1_000),
        Query::Q12Eventtime => q12(&all),
    }
}

#[derive(Default)]
struct Events<'a> {
    persons: Vec<&'a Person>,
    auctions: Vec<&'a Auction>,
    bids: Vec<&'a Bid>,
}

impl<'a> Events<'a> {
    fn of(events: &'a [Event]) -> Self {
        let mut all = Events::default();
        for event in events {
            match event {
                Event::Person(person) => all.persons.push(person),
                Event::Auction(auction) => all.auctions.push(auction),
                Event::Bid(bid) => all.bids.push(bid),
            }
        }
        all
    }
}

fn bid_row(bid: &Bid, price: &str) -> String {
    format!("{}|{}|{price}|{}|{}", bid.auction, bid.bidder, time(bid.date_time), bid.extra)
}

fn in_euros(price: u64) -> String {
    let thousandths = price * 908;
    format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)
}

fn time(millis: u64) -> String {
    let mut text = Vec::new();
    RowWriter::new(&mut text).timestamp(millis);
    String::from_utf8(text).expect("a time is text")
}

fn q3(all: &Events<'_>) -> Vec<String> {
    let mut rows = Vec::new();
    for auction in &all.auctions {
        for person in &all.persons {
            let state = &*person.state;
            if auction.category == 10
                && auction.seller == person.id
                && (state == "or" || state == "id" || state == "ca")
            {
                rows.push(format!("{}|{}|{state}|{}", person.name, person.city, auction.id));
            }
        }
    }
    rows
}

fn q4(all: &Events<'_>) -> Vec<String> {
    let mut finals: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut bids: BTreeMap<u64, Vec<&Bid>> = BTreeMap::new();
    for bid in &all.bids {
        bids.entry(bid.auction).or_default().push(bid);
    }
    for auction in &all.auctions {
        let bids = bids.get(&auction.id).into_iter().flatten();
        let valid = bids.filter(|b| (auction.date_time..=auction.expires).contains(&b.date_time));
        if let Some(highest) = valid.map(|b| b.price).max() {
            finals.entry(auction.category).or_default().push(highest);
        }
    }
    let average = |of: &[u64]| of.iter().sum::<u64>() / of.len() as u64;
    finals.iter().map(|(category, of)| format!("{category}|{}", average(of))).collect()
}

fn q5(all: &Events<'_>) -> Vec<String> {
    let mut windows: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for bid in &all.bids {
        let newest = bid.date_time / 2_000 * 2_000;
        for start in (0..5).map(|n| newest - n * 2_000) {
            *windows.entry(start).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    let mut rows = Vec::new();
    for (start, counts) in windows {
        let most = *counts.values().max().expect("a window has a bid");
        for (auction, count) in counts.into_iter().filter(|(_, count)| *count == most) {
            rows.push(format!("{auction}|{count}|{}|{}", time(start), time(start + 10_000)));
        }
    }
    rows
}

fn q7(all: &Events<'_>) -> Vec<String> {
    let mut highest: BTreeMap<u64, u64> = BTreeMap::new();
    for bid in &all.bids {
        let price = highest.entry(bid.date_time / 10_000 * 10_000).or_default();
        *price = bid.price.max(*price);
    }
    let mut rows = Vec::new();
    for (start, price) in highest {
        let between = start..=start + 10_000;
        for bid in all.bids.iter().filter(|b| b.price == price && between.contains(&b.date_time)) {
            let (at, extra) = (time(bid.date_time), &bid.extra);
            rows.push(format!("{}|{price}|{}|{at}|{extra}", bid.auction, bid.bidder));
        }
    }
    rows
}

fn q8(all: &Events<'_>) -> Vec<String> {
    let window = |millis: u64| millis / 10_000 * 10_000;
    let persons: BTreeSet<_> =
        all.persons.iter().map(|p| (p.id, &*p.name, window(p.date_time))).collect();
    let sellers: BTreeSet<_> =
        all.auctions.iter().map(|a| (a.seller, window(a.date_time))).collect();
    let both = persons.into_iter().filter(|(id, _, start)| sellers.contains(&(*id, *start)));
    both.map(|(id, name, start)| format!("{id}|{name}|{}", time(start))).collect()
}

fn sessions(all: &Events<'_>, gap: u64) -> Vec<String> {
    let mut times: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for bid in &all.bids {
        times.entry(bid.bidder).or_default().push(bid.date_time);
    }
    let mut rows = Vec::new();
    for (bidder, mut times) in times {
        times.sort_unstable();
        for session in times.chunk_by(|before, after| after - before <= gap) {
            let (start, end) = (session[0], session[session.len() - 1] + gap);
            rows.push(format!("{bidder}|{}|{}|{}", session.len(), time(start), time(end)));
        }
    }
    rows
}

fn q12(all: &Events<'_>) -> Vec<String> {
    let mut counts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for bid in &all.bids {
        *counts.entry((bid.date_time / 10_000 * 10_000, bid.bidder)).or_default() += 1;
    }
    let row = |((start, bidder), count): (&(u64, u64), &u64)| {
        format!("{bidder}|{count}|{}|{}", time(*start), time(start + 10_000))
    };
    counts.iter().map(row).collect()
}
