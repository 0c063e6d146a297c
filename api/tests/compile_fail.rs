//! Programs that the compiler must refuse, in words that say what to do.

#[test]
fn wrong_types_are_refused_with_a_remedy() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
