use millstream_macros::record;

#[record(derive(Debug))]
struct Play {
    user: u64,
}

fn main() {}
