//! Events, the arithmetic of the queries, and signatures.
//!
//! # Invariants
//! - A result's signature is computed from every field that the query yields, so that a wrong field
//!   shows in the check-sum.
//! - Check-sums are sums: the order in which results arrive and the slot at which they arrive make no
//!   difference.
//! - Signatures equal those of the programs in `bench/peers`.

use serde::{Deserialize, Serialize};

/// Length of the windows of q5, q7 and q8.
pub const WINDOW_MILLIS: u64 = 10_000;

/// The windows of q5 begin this far apart.
pub const WINDOW_SLIDE_MILLIS: u64 = 2_000;

/// Events that a source hands out before it moves its watermark. Blocks are dealt to parallel
/// sources in turn.
pub const BLOCK_EVENTS: usize = 4_096;

/// A Nexmark event without its strings, 40 bytes. Timestamps are milliseconds since the Unix epoch.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub enum Ev {
    /// Somebody registered.
    Person {
        /// Unique among persons.
        id: u64,
        /// The name's [`word_hash`].
        name: u64,
        /// Time of registration.
        ts: u64,
    },
    /// An item was put up for auction.
    Auction {
        /// The category of the item.
        category: u32,
        /// Unique among auctions.
        id: u64,
        /// The person who sells.
        seller: u64,
        /// Lowest price at which the item is sold, in cents.
        reserve: u64,
        /// When the auction opened.
        ts: u64,
    },
    /// Somebody bid on an item.
    Bid(Bid),
}

const _: () = assert!(size_of::<Ev>() == 40);

/// A bid without its strings.
#[derive(
    Clone,
    Copy,
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
    /// Time of the bid, milliseconds since the Unix epoch.
    pub ts: u64,
}

impl Ev {
    /// When the event happened, in milliseconds since the Unix epoch.
    #[inline]
    pub fn timestamp_millis(&self) -> u64 {
        match *self {
            Ev::Person { ts, .. } | Ev::Auction { ts, .. } | Ev::Bid(Bid { ts, .. }) => ts,
        }
    }

    /// The bid, if the event is one.
    #[inline]
    pub fn bid(self) -> Option<Bid> {
        match self {
            Ev::Bid(bid) => Some(bid),
            _ => None,
        }
    }

    /// Signature of an event that reaches the sink as it is (q0).
    #[inline]
    pub fn signature(&self) -> u64 {
        match *self {
            Ev::Person { id, name, ts } => id.wrapping_mul(3) ^ name ^ ts,
            Ev::Auction { category, id, seller, reserve, ts } => {
                id.wrapping_mul(5) ^ seller ^ reserve ^ ts ^ u64::from(category)
            }
            Ev::Bid(bid) => bid.signature(),
        }
    }
}

impl Bid {
    /// The bid with its price in euros, rounded down (q1).
    #[inline]
    pub fn in_euros(self) -> Bid {
        Bid { price: self.price * 908 / 1_000, ..self }
    }

    /// Whether the bid is on one of the auctions that q2 looks for.
    #[inline]
    pub fn is_on_watched_auction(&self) -> bool {
        self.auction.is_multiple_of(123)
    }

    /// Whether this bid, not `other`, is the highest of a window (q7): the higher price wins, then
    /// the smaller auction, then the smaller bidder. A total order, so one bid wins whatever the
    /// order of arrival.
    #[inline]
    pub fn beats(&self, other: &Bid) -> bool {
        // Complemented, so that the smaller number is the greater key.
        let key = |bid: &Bid| (bid.price, !bid.auction, !bid.bidder);
        key(self) > key(other)
    }

    /// Signature of a bid that reaches the sink (q1, q2).
    #[inline]
    pub fn signature(&self) -> u64 {
        self.auction.wrapping_mul(7) ^ self.bidder ^ self.price ^ self.ts
    }
}

/// The finaliser of MurmurHash3: a bijection in which every input bit affects every output bit.
#[inline]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// FNV-1a, finished by [`mix`].
#[inline]
pub fn word_hash(word: &[u8]) -> u64 {
    let fnv = word.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// Signature of one result of count and countp: the `count`-th bid on `auction`.
#[inline]
pub fn count_signature(auction: u64, count: u64) -> u64 {
    auction.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
}

/// Signature of one result of q5: `auction` has the most bids, `count`, of the window that ends at
/// `window_end` (milliseconds). Of auctions with equally many the smallest counts.
pub fn q5_signature(window_end: u64, auction: u64, count: u64) -> u64 {
    chain([window_end, auction, count])
}

/// Signature of one result of q7: `bid` is the highest of the window that ends at `window_end`
/// (milliseconds).
pub fn q7_signature(window_end: u64, bid: &Bid) -> u64 {
    chain([window_end, bid.price, bid.auction, bid.bidder])
}

/// Signature of one result of q8: in the window that ends at `window_end` (milliseconds) `person`
/// registered and put up an item for at least `reserve`.
pub fn q8_signature(window_end: u64, person: u64, name: u64, reserve: u64) -> u64 {
    chain([window_end, person, name, reserve])
}

/// Signature of one result of wc: `word` occurs `count` times.
pub fn word_signature(word: &str, count: u64) -> u64 {
    word_hash(word.as_bytes()).wrapping_mul(count)
}

/// Mixes the fields from the last to the first, so that each place counts differently.
fn chain<const N: usize>(fields: [u64; N]) -> u64 {
    fields.into_iter().rev().fold(0, |inner, field| mix(field ^ inner))
}

/// What reached a sink: the sum of the results' signatures, and how many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    sum: u64,
    results: u64,
}

impl Checksum {
    /// The check-sum of so many results whose signatures have this sum.
    pub fn of(sum: u64, results: u64) -> Self {
        Self { sum, results }
    }

    /// Takes in one result.
    #[inline]
    pub fn add(&mut self, signature: u64) {
        self.sum = self.sum.wrapping_add(signature);
        self.results += 1;
    }

    /// Takes in what another sink of the same run got.
    pub fn merge(&mut self, other: Checksum) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.results += other.results;
    }

    /// The sum of all signatures, modulo 2^64.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many results there were.
    pub fn results(&self) -> u64 {
        self.results
    }
}

/// 16 hexadecimal digits.
impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BID: Bid = Bid { auction: 5, bidder: 7, price: 100, ts: 3 };

    #[test]
    fn the_higher_price_then_the_smaller_auction_then_the_smaller_bidder_wins() {
        let dearer = Bid { price: 101, auction: 9, bidder: 9, ..BID };
        let earlier_auction = Bid { auction: 4, bidder: 9, ..BID };
        let earlier_bidder = Bid { bidder: 6, ..BID };
        for winner in [dearer, earlier_auction, earlier_bidder] {
            assert!(winner.beats(&BID), "{winner:?}");
            assert!(!BID.beats(&winner), "{winner:?}");
        }
        assert!(!BID.beats(&Bid { ts: 99, ..BID }), "time does not count");
    }

    #[test]
    fn prices_in_euros_are_rounded_down() {
        assert_eq!(Bid { price: 1_001, ..BID }.in_euros(), Bid { price: 908, ..BID });
        assert_eq!(Bid { price: 1_101, ..BID }.in_euros(), Bid { price: 999, ..BID });
    }

    #[test]
    fn the_order_of_results_does_not_change_the_check_sum_but_their_fields_do() {
        let results: Vec<u64> = (0..100).map(|n| q5_signature(n * 2_000, 1_000 + n, n)).collect();
        let mut forwards = Checksum::default();
        results.iter().for_each(|&s| forwards.add(s));
        let (mut odd, mut even) = (Checksum::default(), Checksum::default());
        for (n, &signature) in results.iter().enumerate().rev() {
            if n % 2 == 0 { even.add(signature) } else { odd.add(signature) }
        }
        even.merge(odd);
        assert_eq!(forwards, even);
        assert_eq!(forwards.results(), 100);

        even.add(q5_signature(1, 2, 3));
        assert_ne!(forwards, even);
        assert_ne!(q5_signature(1, 2, 3), q5_signature(1, 3, 2));
        assert_ne!(q7_signature(1, &BID), q7_signature(1, &Bid { bidder: 8, ..BID }));
    }

    #[test]
    fn a_check_sum_is_shown_as_16_digits() {
        let mut checksum = Checksum::default();
        checksum.add(0xabc);
        assert_eq!(checksum.to_string(), "0000000000000abc");
    }
}
