//! q8: new sellers.

use super::input::Input;
use super::row::Row;
use crate::nexmark::Event;
use crate::nexmark::format::RowWriter;
use compact_str::CompactString;
use millstream::prelude::*;
use millstream::{Chain, record};

const SIZE: Duration = Duration::from_secs(10);

/// The persons who put something up for auction in the window in which they registered, once each.
pub(super) fn q8(input: &Input<'_>) -> DataStream<impl Chain<Out = NewSeller>> {
    let (sellers, persons) = input.split(
        |event| match event {
            Event::Auction(auction) => Some(auction.seller),
            _ => None,
        },
        |event| match event {
            Event::Person(person) => Some(Person { id: person.id, name: person.name.clone() }),
            _ => None,
        },
    );
    // Counted only to have each once: what a window gives falls into the same window of the join.
    let persons = persons.key_by(Person::clone).window(Tumbling::of(SIZE)).count();
    let sellers = sellers.key_by(|seller| *seller).window(Tumbling::of(SIZE)).count();
    persons
        .key_by(|person| person.key.id)
        .join(sellers.key_by(|seller| seller.key))
        .window(Tumbling::of(SIZE))
        .apply(|person, _| NewSeller {
            person: person.key.clone(),
            registered_in: person.window.start,
        })
}

#[record]
#[derive(Clone, PartialEq, Eq, Hash)]
struct Person {
    id: u64,
    name: CompactString,
}

/// A row of q8.
pub(super) struct NewSeller {
    person: Person,
    registered_in: Timestamp,
}

impl Row for NewSeller {
    fn write(&self, fields: &mut RowWriter<'_>) {
        fields.integer(self.person.id).text(&self.person.name);
        fields.timestamp(self.registered_in.as_millis() as u64);
    }
}
