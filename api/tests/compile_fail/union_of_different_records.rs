//! Streams of different records cannot be united.

use millstream::prelude::*;

fn main() {
    let env = Environment::new(Config::default());
    let numbers = env.from_collection("numbers", 0..10u64);
    let words = env.from_collection("words", ["a".to_owned()]);
    numbers.union(words).discard();
}
