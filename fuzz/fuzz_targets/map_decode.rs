//! Any bytes for `fuzz::map::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::map::run(bytes));
