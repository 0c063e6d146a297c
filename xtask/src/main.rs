//! What continuous integration checks beyond the compiler.
fn main() {}
