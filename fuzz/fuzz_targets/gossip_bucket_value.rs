//! Any bytes for `fuzz::gossip::bucket_value`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::gossip::bucket_value(bytes));
