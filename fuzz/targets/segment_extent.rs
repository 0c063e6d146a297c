//! Decodes the records and tables of segments whose frames are right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::segment_of_extents;
use millstream_state::check_segment;

fuzz_target!(|input: &[u8]| {
    let bytes = segment_of_extents(input);
    drop(check_segment("fuzzed", &bytes).map_err(|error| error.to_string()));
});
