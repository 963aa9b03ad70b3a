//! Any bytes for `fuzz::notes::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::notes::run(bytes));
