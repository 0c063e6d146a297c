//! A generator of Nexmark events, byte-identical to the crate `nexmark` 0.2 and faster.
//!
//! # Invariants
//! - Event `n` depends on the settings and on `n` alone: its fields are drawn, in a fixed order, from
//!   a random number generator seeded with `n`. A stream can therefore be partitioned exactly, and
//!   begun anywhere.
//! - The draws, their integer types and the single-precision arithmetic of timestamps and prices are
//!   part of the format. `tests` compares them with the crate, event by event.
//!
//! Speed comes from writing letters straight into buffers of their final size and from tables of the
//! strings that repeat.

mod vocabulary;

#[cfg(test)]
mod tests;

use std::io::Write;

use compact_str::CompactString;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{Auction, Bid, Event, Person};
use vocabulary::Vocabulary;

/// One person, three auctions and 46 bids make a round of events.
const ROUND: u64 = 50;
const AUCTIONS_PER_ROUND: u64 = 3;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const PERSONS_ACTIVE: u64 = 1_000;
/// Bids and sellers may name an id that is only about to appear: this far ahead of the newest.
const ID_LEAD: u64 = 10;
/// Hot auctions, sellers and bidders are those whose number is a multiple of this.
const HOT_STRIDE: u64 = 100;

const PERSON_ID_FIRST: u64 = 1_000;
const AUCTION_ID_FIRST: u64 = 1_000;
const CATEGORY_FIRST: u64 = 10;
const CATEGORIES: u64 = 5;

const PERSON_BYTES: usize = 200;
const AUCTION_BYTES: usize = 500;
const BID_BYTES: usize = 100;

/// What distinguishes one stream of Nexmark events from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Timestamp of the first event, milliseconds since the Unix epoch.
    pub base_time_millis: u64,
    /// Events per second of event time; at least 1.
    pub rate: u64,
}

impl Default for Settings {
    /// 10,000 events per second from 2015-07-15 00:00:00.
    fn default() -> Self {
        Settings { base_time_millis: 1_436_918_400_000, rate: 10_000 }
    }
}

/// Makes events in the order of their numbers; never ends.
#[derive(Clone, Debug)]
pub struct Generator {
    base_time_millis: u64,
    event_delay_micros: f32,
    next: u64,
    step: u64,
    vocabulary: &'static Vocabulary,
}

impl Generator {
    /// A generator that begins with event 0.
    ///
    /// # Panics
    /// If the rate is zero.
    pub fn new(settings: Settings) -> Self {
        assert!(settings.rate > 0, "a stream of zero events per second has no timestamps");
        Generator {
            base_time_millis: settings.base_time_millis,
            event_delay_micros: 1_000_000.0 / settings.rate as f32,
            next: 0,
            step: 1,
            vocabulary: Vocabulary::get(),
        }
    }

    /// Begins with event `offset` and goes on in steps of `step`, as one of `step` parallel
    /// generators would.
    ///
    /// # Panics
    /// If `step` is zero.
    pub fn partition(mut self, offset: u64, step: u64) -> Self {
        assert!(step > 0, "a generator with a step of zero repeats one event for ever");
        self.next = offset;
        self.step = step;
        self
    }

    /// Event number `number`, whatever was generated before.
    pub fn event(&self, number: u64) -> Event {
        match number % ROUND {
            0 => Event::Person(self.person(number)),
            1..=AUCTIONS_PER_ROUND => Event::Auction(self.auction(number)),
            _ => Event::Bid(self.bid(number)),
        }
    }

    /// Timestamp of an event. Single precision: from about 10^8 events on, neighbours fall together.
    fn timestamp_millis(&self, number: u64) -> u64 {
        self.base_time_millis + (number as f32 * self.event_delay_micros / 1_000.0).round() as u64
    }

    fn person(&self, number: u64) -> Person {
        let rng = &mut SmallRng::seed_from_u64(number);
        let words = self.vocabulary;

        let mut name = CompactString::const_new(pick(&words.first_names, rng));
        name.push(' ');
        name.push_str(pick(&words.last_names, rng));

        let mut email = [0; 16];
        fill_letters(&mut email[..7], rng);
        email[7] = b'@';
        fill_letters(&mut email[8..13], rng);
        let mut email_address = CompactString::new(ascii(&email[..13]));
        email_address.push_str(".com");

        let mut digits = [0; 19];
        let groups: [i32; 4] = std::array::from_fn(|_| rng.gen_range(0..10_000));
        write!(
            &mut digits[..],
            "{:04} {:04} {:04} {:04}",
            groups[0],
            groups[1],
            groups[2],
            groups[3]
        )
        .expect("four groups of four digits fit into 19 bytes");
        let credit_card = CompactString::new(ascii(&digits));

        let city = CompactString::const_new(pick(&words.cities, rng));
        let state = CompactString::const_new(pick(&words.states, rng));

        let size =
            8 + name.len() + email_address.len() + credit_card.len() + city.len() + state.len();
        Person {
            id: PERSON_ID_FIRST + person_number_last(number),
            name,
            email_address,
            credit_card,
            city,
            state,
            date_time: self.timestamp_millis(number),
            extra: padding(size, PERSON_BYTES, rng),
        }
    }

    fn auction(&self, number: u64) -> Auction {
        let rng = &mut SmallRng::seed_from_u64(number);
        let date_time = self.timestamp_millis(number);

        let mut item_name = [0; 20];
        fill_letters(&mut item_name, rng);
        let description = letters(100, rng);
        let initial_bid = price(rng);
        let reserve = initial_bid + price(rng);
        let expires = date_time + self.auction_length_millis(number, date_time, rng);
        let seller = if rng.gen_range(0..4usize) > 0 {
            person_number_last(number) / HOT_STRIDE * HOT_STRIDE
        } else {
            person_number_any(number, rng)
        };
        let category = CATEGORY_FIRST + rng.gen_range(0..CATEGORIES);

        // The crate counts the id and five more numbers of eight bytes, not all that it has.
        let size = 6 * 8 + item_name.len() + description.len();
        Auction {
            id: AUCTION_ID_FIRST + auction_number_last(number),
            item_name: CompactString::new(ascii(&item_name)),
            description,
            initial_bid,
            reserve,
            date_time,
            expires,
            seller: PERSON_ID_FIRST + seller,
            category,
            extra: padding(size, AUCTION_BYTES, rng),
        }
    }

    /// Auctions last as long as it takes, twice over at most, until the house has seen as many new
    /// auctions as are in flight.
    fn auction_length_millis(&self, number: u64, date_time: u64, rng: &mut SmallRng) -> u64 {
        let events = AUCTIONS_IN_FLIGHT * ROUND / AUCTIONS_PER_ROUND;
        let horizon = self.timestamp_millis(number + events) - date_time;
        1 + rng.gen_range(0..(horizon * 2).max(1))
    }

    fn bid(&self, number: u64) -> Bid {
        let rng = &mut SmallRng::seed_from_u64(number);
        let auction = if rng.gen_range(0..2usize) > 0 {
            auction_number_last(number) / HOT_STRIDE * HOT_STRIDE
        } else {
            auction_number_any(number, rng)
        };
        // One past the hot sellers, so that the two do not coincide.
        let bidder = if rng.gen_range(0..4usize) > 0 {
            person_number_last(number) / HOT_STRIDE * HOT_STRIDE + 1
        } else {
            person_number_any(number, rng)
        };
        let price = price(rng);
        let (channel, url) = if rng.gen_range(0..2usize) > 0 {
            let hot = &self.vocabulary.hot_channels;
            &hot[rng.gen_range(0..hot.len())]
        } else {
            let all = &self.vocabulary.channels;
            &all[rng.gen_range(0..all.len() as u32) as usize]
        };
        Bid {
            auction: AUCTION_ID_FIRST + auction,
            bidder: PERSON_ID_FIRST + bidder,
            price,
            channel: channel.clone(),
            url: url.clone(),
            date_time: self.timestamp_millis(number),
            extra: padding(4 * 8, BID_BYTES, rng),
        }
    }
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let event = self.event(self.next);
        self.next += self.step;
        Some(event)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

/// Number, from 0, of the newest person at event `number`.
fn person_number_last(number: u64) -> u64 {
    number / ROUND
}

/// Number of one of the active persons, or of one of those about to register.
fn person_number_any(number: u64, rng: &mut SmallRng) -> u64 {
    let persons = person_number_last(number) + 1;
    let active = persons.min(PERSONS_ACTIVE);
    persons - active + rng.gen_range(0..active + ID_LEAD)
}

/// Number, from 0, of the newest auction at event `number`, which is an auction or a bid.
fn auction_number_last(number: u64) -> u64 {
    let in_round = (number % ROUND - 1).min(AUCTIONS_PER_ROUND - 1);
    number / ROUND * AUCTIONS_PER_ROUND + in_round
}

/// Number of one of the auctions in flight, or of one of those about to open.
fn auction_number_any(number: u64, rng: &mut SmallRng) -> u64 {
    let newest = auction_number_last(number);
    let oldest = newest.saturating_sub(AUCTIONS_IN_FLIGHT);
    oldest + rng.gen_range(0..newest - oldest + 1 + ID_LEAD)
}

/// Log-uniform between 1 and 1,000,000 units of 100 cents.
fn price(rng: &mut SmallRng) -> u64 {
    (10.0_f32.powf(rng.r#gen::<f32>() * 6.0) * 100.0).round() as u64
}

/// Letters that bring an event of `size` bytes to `wanted` bytes, give or take a fifth of the rest.
fn padding(size: usize, wanted: usize, rng: &mut SmallRng) -> String {
    if size > wanted {
        return String::new();
    }
    let missing = wanted - size;
    let spread = (missing + 2) / 5;
    let extra = if spread == 0 { 0 } else { rng.gen_range(0..2 * spread) };
    letters(missing - spread + extra, rng)
}

fn letters(count: usize, rng: &mut SmallRng) -> String {
    let mut bytes = vec![0; count];
    fill_letters(&mut bytes, rng);
    String::from_utf8(bytes).expect("letters are ASCII")
}

fn fill_letters(bytes: &mut [u8], rng: &mut SmallRng) {
    for byte in bytes {
        *byte = rng.gen_range(b'a'..=b'z');
    }
}

fn pick(words: &[&'static str], rng: &mut SmallRng) -> &'static str {
    words[rng.gen_range(0..words.len() as u32) as usize]
}

fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("letters and digits are ASCII")
}
