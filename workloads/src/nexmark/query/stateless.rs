//! q0, q1 and q2: bids one by one.

use super::input::Input;
use super::row::Row;
use crate::nexmark::format::RowWriter;
use millstream::{Chain, DataStream};

/// All bids.
pub(super) fn q0(input: &Input<'_>) -> DataStream<impl Chain<Out = BidInDollars>> {
    input.bids(|bid| {
        Some(BidInDollars {
            auction: bid.auction,
            bidder: bid.bidder,
            cents: bid.price,
            date_time: bid.date_time,
            extra: bid.extra.clone(),
        })
    })
}

/// All bids, at 0.908 euros to the dollar.
pub(super) fn q1(input: &Input<'_>) -> DataStream<impl Chain<Out = BidInEuros>> {
    const EURO_THOUSANDTHS: u64 = 908;
    input.bids(|bid| {
        Some(BidInEuros {
            auction: bid.auction,
            bidder: bid.bidder,
            cent_thousandths: bid.price * EURO_THOUSANDTHS,
            date_time: bid.date_time,
            extra: bid.extra.clone(),
        })
    })
}

/// The bids on every 123rd auction.
pub(super) fn q2(input: &Input<'_>) -> DataStream<impl Chain<Out = Price>> {
    input.bids(|bid| {
        bid.auction.is_multiple_of(123).then_some(Price { auction: bid.auction, price: bid.price })
    })
}

/// A row of q0.
pub(super) struct BidInDollars {
    auction: u64,
    bidder: u64,
    cents: u64,
    date_time: u64,
    extra: String,
}

impl Row for BidInDollars {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.auction).integer(self.bidder).integer(self.cents);
        fields.timestamp(self.date_time).text(&self.extra);
    }
}

/// A row of q1.
pub(super) struct BidInEuros {
    auction: u64,
    bidder: u64,
    cent_thousandths: u64,
    date_time: u64,
    extra: String,
}

impl Row for BidInEuros {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.auction).integer(self.bidder).thousandths(self.cent_thousandths);
        fields.timestamp(self.date_time).text(&self.extra);
    }
}

/// A row of q2.
pub(super) struct Price {
    auction: u64,
    price: u64,
}

impl Row for Price {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.auction).integer(self.price);
    }
}
