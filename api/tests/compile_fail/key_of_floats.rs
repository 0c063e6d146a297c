//! Floating-point numbers are no keys.

use millstream::prelude::*;

fn main() {
    let env = Environment::new(Config::default());
    let _ = env.from_collection("numbers", [0.5, 1.5]).key_by(|n: &f64| *n);
}
