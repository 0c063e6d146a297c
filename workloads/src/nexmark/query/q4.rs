//! q4: the average of the highest bids per category.

use super::input::Input;
use super::row::Row;
use crate::nexmark::Event;
use crate::nexmark::format::RowWriter;
use millstream::prelude::*;
use millstream::{Chain, record};

/// For each auction the highest bid from its opening to its expiry, for each category the average of
/// these over the auctions that have one. A bid that raises the highest of its auction gives a new
/// average.
pub(super) fn q4(input: &Input<'_>) -> DataStream<impl Chain<Out = CategoryAverage>> {
    let (bids, auctions) = input.split(
        |event| match event {
            Event::Bid(bid) => {
                let offer = Offer { time: bid.date_time, price: bid.price };
                Some((bid.auction, offer))
            }
            _ => None,
        },
        |event| match event {
            Event::Auction(auction) => {
                let terms = Terms {
                    category: auction.category,
                    opens: auction.date_time,
                    expires: auction.expires,
                };
                Some((auction.id, terms))
            }
            _ => None,
        },
    );
    auctions
        .key_by(|(auction, _)| *auction)
        .connect(bids.key_by(|(auction, _)| *auction))
        .process(|state| HighestBid { sale: state.value("sale") })
        .name("highest bid")
        .key_by(|raise| raise.category)
        .process(|state| Average { finals: state.value("finals") })
        .name("average")
}

/// What q4 has to know of an auction. Times in milliseconds since the Unix epoch.
#[record]
#[derive(Clone, Copy)]
struct Terms {
    category: u64,
    opens: u64,
    expires: u64,
}

/// A bid.
#[record]
#[derive(Clone, Copy)]
struct Offer {
    time: u64,
    price: u64,
}

/// The highest bid of an auction is no longer `from` (if there was one) but `to`.
#[record]
#[derive(Clone, Copy)]
struct Raise {
    category: u64,
    from: Option<u64>,
    to: u64,
}

/// What is known of an auction.
#[record]
enum Sale {
    /// It has not come, but bids on it have.
    Expected(Vec<Offer>),
    /// It has come.
    Open(Open),
}

/// An auction that may yet get bids.
#[record]
struct Open {
    terms: Terms,
    highest: Option<u64>,
}

impl Open {
    /// Takes a bid into account.
    fn bid(&mut self, offer: Offer) -> Option<Raise> {
        let valid = (self.terms.opens..=self.terms.expires).contains(&offer.time);
        if !valid || self.highest.is_some_and(|highest| offer.price <= highest) {
            return None;
        }
        let from = self.highest.replace(offer.price);
        Some(Raise { category: self.terms.category, from, to: offer.price })
    }
}

/// Follows each auction's highest bid.
///
/// What is known of an auction is forgotten when event time says that it cannot matter any more. An
/// open auction is kept until its expiry. A bid that came before its auction is kept until its own
/// time: an auction that is still to come then opens after the bid.
struct HighestBid {
    sale: ValueState<u64, Sale>,
}

impl KeyedCoProcessFunction<u64, (u64, Terms), (u64, Offer)> for HighestBid {
    type Out = Raise;

    fn process_left(
        &mut self,
        (_, terms): (u64, Terms),
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Raise>,
    ) -> Result<(), BoxError> {
        let mut open = Open { terms, highest: None };
        if let Some(Sale::Expected(early)) = self.sale.take(cx) {
            early
                .into_iter()
                .filter_map(|offer| open.bid(offer))
                .for_each(|raise| out.collect(raise));
        }
        self.sale.set(cx, Sale::Open(open));
        cx.register_event_timer(Timestamp::from_millis(terms.expires as i64));
        Ok(())
    }

    fn process_right(
        &mut self,
        (_, offer): (u64, Offer),
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<Raise>,
    ) -> Result<(), BoxError> {
        let mut is_early = false;
        let expected = || Sale::Expected(Vec::new());
        let raise = self.sale.modify(cx, expected, |sale| match sale {
            Sale::Open(open) => open.bid(offer),
            Sale::Expected(early) => {
                is_early = true;
                early.push(offer);
                None
            }
        });
        if is_early {
            cx.register_event_timer(Timestamp::from_millis(offer.time as i64));
        }
        if let Some(raise) = raise {
            out.collect(raise);
        }
        Ok(())
    }

    fn on_timer(
        &mut self,
        time: Timestamp,
        cx: &mut KeyedContext<'_, u64>,
        _: &mut impl Collector<Raise>,
    ) -> Result<(), BoxError> {
        let now = time.as_millis() as u64;
        let kept = match self.sale.take(cx) {
            Some(Sale::Open(open)) if open.terms.expires > now => Some(Sale::Open(open)),
            Some(Sale::Expected(mut early)) => {
                early.retain(|offer| offer.time > now);
                (!early.is_empty()).then_some(Sale::Expected(early))
            }
            _ => None,
        };
        if let Some(sale) = kept {
            self.sale.set(cx, sale);
        }
        Ok(())
    }
}

/// Keeps the average of the highest bids of a category.
struct Average {
    finals: ValueState<u64, Finals>,
}

/// The highest bids of a category: their sum, and how many there are.
#[record]
struct Finals {
    sum: u64,
    count: u64,
}

impl KeyedProcessFunction<u64, Raise> for Average {
    type Out = CategoryAverage;

    fn process(
        &mut self,
        raise: Raise,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<CategoryAverage>,
    ) -> Result<(), BoxError> {
        let none = || Finals { sum: 0, count: 0 };
        let average = self.finals.modify(cx, none, |finals| {
            finals.sum += raise.to - raise.from.unwrap_or(0);
            finals.count += u64::from(raise.from.is_none());
            finals.sum / finals.count
        });
        out.collect(CategoryAverage { category: raise.category, average });
        Ok(())
    }
}

/// A row of q4.
pub(super) struct CategoryAverage {
    pub category: u64,
    average: u64,
}

impl Row for CategoryAverage {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.category).integer(self.average);
    }
}
