use millstream_macros::record;

#[record]
/// Documented.
fn function() {}

fn main() {}
