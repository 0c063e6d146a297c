//! Counts of numbers without end. What it remembers does not grow, nor does it wait for event time: if
//! memory grows, it is for what is on the way.

use millstream::prelude::*;
use millstream::{Chain, Environment, Generator};

const KEYS: u64 = 1_000;
/// Few results, so that they are not what takes time.
const RESULT_EVERY: u64 = 10_000;

pub(super) fn counts(env: &Environment) -> DataStream<impl Chain<Out = String>> {
    env.generate("numbers", Generator::new(|n: u64, _| n))
        .key_by(|n| n % KEYS)
        .count()
        .filter(|(_, count)| count.is_multiple_of(RESULT_EVERY))
        .map(|(key, count)| format!("{key} {count}"))
}
