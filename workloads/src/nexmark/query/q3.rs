//! q3: who sells in a category, in some states.

use super::input::Input;
use super::row::Row;
use crate::nexmark::Event;
use crate::nexmark::format::RowWriter;
use compact_str::CompactString;
use millstream::prelude::*;
use millstream::{Chain, record};

const CATEGORY: u64 = 10;
const STATES: [&str; 3] = ["or", "id", "ca"];

/// The persons of some states, joined with what they put up for auction in a category, whenever
/// they did.
pub(super) fn q3(input: &Input<'_>) -> DataStream<impl Chain<Out = LocalItem>> {
    let (auctions, persons) = input.split(
        |event| match event {
            Event::Auction(auction) if auction.category == CATEGORY => {
                Some(Item { id: auction.id, seller: auction.seller })
            }
            _ => None,
        },
        |event| match event {
            Event::Person(person) if STATES.contains(&person.state.as_str()) => Some(Seller {
                id: person.id,
                name: person.name.clone(),
                city: person.city.clone(),
                state: person.state.clone(),
            }),
            _ => None,
        },
    );
    persons
        .key_by(|person| person.id)
        .connect(auctions.key_by(|auction| auction.seller))
        .process(|state| JoinSellers { seller: state.value("seller"), items: state.list("items") })
        .name("join sellers and items")
}

/// A person of one of the states.
#[record]
#[derive(Clone)]
struct Seller {
    id: u64,
    name: CompactString,
    city: CompactString,
    state: CompactString,
}

/// An auction of the category.
#[record]
#[derive(Clone)]
struct Item {
    id: u64,
    seller: u64,
}

/// Joins the items with their seller. Of a key there is the seller, or there are the items that came
/// before.
struct JoinSellers {
    seller: ValueState<u64, Seller>,
    items: ListState<u64, u64>,
}

impl KeyedCoProcessFunction<u64, Seller, Item> for JoinSellers {
    type Out = LocalItem;

    fn process_left(
        &mut self,
        seller: Seller,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<LocalItem>,
    ) -> Result<(), BoxError> {
        for item in self.items.take(cx) {
            out.collect(LocalItem::new(&seller, item));
        }
        self.seller.set(cx, seller);
        Ok(())
    }

    fn process_right(
        &mut self,
        item: Item,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Collector<LocalItem>,
    ) -> Result<(), BoxError> {
        let row = self.seller.with(cx, |seller| seller.map(|s| LocalItem::new(s, item.id)));
        match row {
            Some(row) => out.collect(row),
            None => self.items.push(cx, item.id),
        }
        Ok(())
    }
}

/// A row of q3.
pub(super) struct LocalItem {
    name: CompactString,
    city: CompactString,
    state: CompactString,
    auction: u64,
}

impl LocalItem {
    fn new(seller: &Seller, auction: u64) -> Self {
        Self {
            name: seller.name.clone(),
            city: seller.city.clone(),
            state: seller.state.clone(),
            auction,
        }
    }
}

impl Row for LocalItem {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.text(&self.name).text(&self.city).text(&self.state).integer(self.auction);
    }
}
