//! Any bytes for `fuzz::sums::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::sums::run(bytes));
