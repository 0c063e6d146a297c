use millstream_macros::record;

#[record]
/// Documented.
union Number { integer: u32, float: f32 }

fn main() {}
