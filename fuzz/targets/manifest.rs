//! Decodes manifests. One that is accepted must be written again as the same bytes, since the format
//! leaves nothing open.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::reframed_manifest;
use millstream_protocol::Manifest;

fuzz_target!(|input: &[u8]| {
    check(input);
    check(&reframed_manifest(input));
});

fn check(bytes: &[u8]) {
    match Manifest::decode(bytes) {
        Ok(manifest) => {
            assert!(manifest.encode() == bytes, "{manifest:?} is written otherwise");
            manifest.referenced_bytes();
        }
        Err(error) => drop(error.to_string()),
    }
}
