//! Any bytes for `fuzz::nbd::uri::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::nbd::uri::run(bytes));
