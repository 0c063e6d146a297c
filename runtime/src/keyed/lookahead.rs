//! Whether to look ahead in a batch, found out by trying.
//!
//! To hash all keys of a batch and ask for each entry some rows before it is touched hides the misses
//! of a table that is larger than the cache. Where the keys that occur are in the cache all the same,
//! because few of many are hot, the second pass over the batch only costs. The size of a table does
//! not tell which it is; the clock does.

use crate::rows::Rows;
use millstream_types::Timestamp;
use std::time::Instant;

/// Of so many batches the first few are trials.
const PERIOD_BATCHES: u32 = 256;
/// The same where one way is far better, and to try the other costs accordingly.
const CLEAR_PERIOD_BATCHES: u32 = 4_096;
/// One way is far better if the other takes so many times as long.
const CLEAR_RATIO: f64 = 1.5;
/// Batches that each way is tried for in a period. The first of each is not counted: it finds the
/// branch predictor trained for the other.
const TRIAL_BATCHES: u32 = 4;

/// The two ways to go through a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Row by row.
    Straight,
    /// Row by row, the entries of later rows asked for.
    Ahead,
}

/// Tries both ways now and then, and goes the faster one.
#[derive(Debug)]
pub(super) struct Lookahead {
    batch: u32,
    /// Nanoseconds per row, the least of the present trials.
    straight: f64,
    ahead: f64,
    better: Way,
    /// Batches from trial to trial.
    period: u32,
}

impl Default for Lookahead {
    fn default() -> Self {
        let untried = f64::INFINITY;
        Self {
            batch: 0,
            straight: untried,
            ahead: untried,
            better: Way::Straight,
            period: PERIOD_BATCHES,
        }
    }
}

impl Lookahead {
    /// Goes through a batch of `rows` rows.
    #[inline]
    pub(super) fn run(&mut self, rows: usize, go: impl FnOnce(Way)) {
        let batch = self.batch;
        self.batch = if batch + 1 >= self.period { 0 } else { batch + 1 };
        if batch >= 2 * TRIAL_BATCHES {
            return go(self.better);
        }
        let way = if batch < TRIAL_BATCHES { Way::Straight } else { Way::Ahead };
        let start = Instant::now();
        go(way);
        let nanos = start.elapsed().as_nanos() as f64 / rows.max(1) as f64;
        self.count(batch, way, nanos);
    }

    fn count(&mut self, batch: u32, way: Way, nanos: f64) {
        if batch == 0 {
            (self.straight, self.ahead) = (f64::INFINITY, f64::INFINITY);
        }
        if !batch.is_multiple_of(TRIAL_BATCHES) {
            let least = match way {
                Way::Straight => &mut self.straight,
                Way::Ahead => &mut self.ahead,
            };
            *least = least.min(nanos);
        }
        if batch + 1 == 2 * TRIAL_BATCHES {
            let (straight, ahead) = (self.straight, self.ahead);
            self.better = if ahead < straight { Way::Ahead } else { Way::Straight };
            let is_clear = straight.max(ahead) > CLEAR_RATIO * straight.min(ahead);
            self.period = if is_clear { CLEAR_PERIOD_BATCHES } else { PERIOD_BATCHES };
        }
    }
}

/// How many rows are gone through between looking ahead in a store: so few that what is asked for at
/// once fits the processor's fill buffers, beyond which it is dropped.
const STORE_BLOCK_ROWS: usize = 8;
/// How many rows ahead entries of a store are asked for.
const STORE_ENTRIES_AHEAD: usize = 24;
/// How many rows ahead what leads to them is asked for.
const STORE_PLACES_AHEAD: usize = 48;

/// Goes through a batch row by row, the entries of the next ones on their way into the cache: in a store
/// a look-up waits for memory twice. `places` and `entries` are given what `each` is, and hashes to
/// ask for.
#[inline(always)]
pub(super) fn through_store<In, C>(
    rows: &mut Rows<In>,
    hashes: &[u64],
    context: &mut C,
    places: impl Fn(&C, &[u64]),
    entries: impl Fn(&C, &[u64]),
    mut each: impl FnMut(&mut C, In, Timestamp, u64),
) {
    let ahead = |from: usize, len: usize| {
        let end = hashes.len().min(from + len);
        &hashes[from.min(end)..end]
    };
    places(context, ahead(0, STORE_PLACES_AHEAD));
    entries(context, ahead(0, STORE_ENTRIES_AHEAD));
    let mut row = 0;
    rows.drain_each(|value, timestamp| {
        if row % STORE_BLOCK_ROWS == 0 {
            places(context, ahead(row + STORE_PLACES_AHEAD, STORE_BLOCK_ROWS));
            entries(context, ahead(row + STORE_ENTRIES_AHEAD, STORE_BLOCK_ROWS));
        }
        each(context, value, timestamp, hashes[row]);
        row += 1;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_that_was_faster_is_gone_until_the_next_trial() {
        let mut lookahead = Lookahead::default();
        for better in [Way::Ahead, Way::Straight, Way::Straight, Way::Ahead] {
            for batch in 0..2 * TRIAL_BATCHES {
                let way = if batch < TRIAL_BATCHES { Way::Straight } else { Way::Ahead };
                lookahead.count(batch, way, if way == better { 2.0 } else { 3.0 });
            }
            assert_eq!((lookahead.better, lookahead.period), (better, PERIOD_BATCHES));
        }
    }

    #[test]
    fn a_way_that_was_far_slower_is_tried_less_often() {
        let mut lookahead = Lookahead::default();
        for (straight, period) in [(9.0, CLEAR_PERIOD_BATCHES), (3.0, PERIOD_BATCHES)] {
            for batch in 0..2 * TRIAL_BATCHES {
                let (way, nanos) = if batch < TRIAL_BATCHES {
                    (Way::Straight, straight)
                } else {
                    (Way::Ahead, 2.5)
                };
                lookahead.count(batch, way, nanos);
            }
            assert_eq!((lookahead.better, lookahead.period), (Way::Ahead, period));
        }
    }
}
