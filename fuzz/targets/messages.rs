//! Reads what members of a job say to each other. What is accepted must be the same when it is written and read
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::reframed_message;
use millstream_runtime::fuzzing::check_message;

fuzz_target!(|input: &[u8]| {
    // Which kind of message, and the message.
    let Some((kind, bytes)) = input.split_first() else { return };
    for bytes in [bytes, &reframed_message(bytes)] {
        drop(check_message(*kind, bytes).map_err(|error| error.to_string()));
    }
});
