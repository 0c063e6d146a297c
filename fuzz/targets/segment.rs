//! Decodes whole segments, record by record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::reframed_segment;
use millstream_state::check_segment;

fuzz_target!(|input: &[u8]| {
    for bytes in [input, &reframed_segment(input)] {
        drop(check_segment("fuzzed", bytes).map_err(|error| error.to_string()));
    }
});
