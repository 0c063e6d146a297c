use millstream_macros::record;

#[record]
/// Documented.
pub trait Shape {}

fn main() {}
