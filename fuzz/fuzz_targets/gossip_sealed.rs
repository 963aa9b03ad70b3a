//! Any bytes for `fuzz::gossip::sealed`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::gossip::sealed(bytes));
