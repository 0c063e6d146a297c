//! Feeds batches and signals to the receiving end of a channel between hosts. Rows that are accepted must be the
//! same when they are written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_runtime::fuzzing::check_frames;

fuzz_target!(|input: &[u8]| {
    check_frames(input);
});
