//! Any bytes for `fuzz::nbd::client::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::nbd::client::run(bytes));
