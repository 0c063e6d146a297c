//! Decodes snapshots of slots, and visits all their entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::reframed_snapshot;
use millstream_state::Snapshot;

fuzz_target!(|input: &[u8]| {
    check(input);
    check(&reframed_snapshot(input));
});

fn check(bytes: &[u8]) {
    match Snapshot::read(bytes) {
        Ok(snapshot) => drop(snapshot.check_entries().map_err(|error| error.to_string())),
        Err(error) => drop(error.to_string()),
    }
}
