//! What crosses an exchange must be a record that owns its data.

use millstream::prelude::*;
use std::rc::Rc;

fn main() {
    let env = Environment::new(Config::default());
    let _ = env.from_collection("numbers", 0..10u64).map(Rc::new).rebalance();
}
