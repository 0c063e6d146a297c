//! The benchmark suites, written over the public API alone.
