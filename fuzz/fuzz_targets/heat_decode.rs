//! Any bytes for `fuzz::heat::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::heat::run(bytes));
