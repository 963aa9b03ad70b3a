//! Any bytes for `fuzz::cluster::join_token`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::cluster::join_token(bytes));
