//! What is kept in state must be a record.

use millstream::prelude::*;

struct Profile {
    plays: u64,
}

struct Taste {
    profile: ValueState<u64, Profile>,
}

fn open(state: &mut KeyedState<'_, u64>) -> Taste {
    Taste { profile: state.value("profile") }
}

fn main() {
    let _ = open;
}
