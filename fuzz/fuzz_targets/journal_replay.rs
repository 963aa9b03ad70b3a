//! Any bytes for `fuzz::journal::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::journal::run(bytes));
