//! A key must be a record.

use millstream::prelude::*;

#[derive(Clone, PartialEq, Eq, Hash)]
struct User(u64);

fn main() {
    let env = Environment::new(Config::default());
    let _ = env.from_collection("numbers", 0..10u64).key_by(|n| User(*n));
}
