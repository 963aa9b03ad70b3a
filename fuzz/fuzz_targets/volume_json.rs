//! Any bytes for `fuzz::volume::volume_json`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::volume::volume_json(bytes));
