//! Any bytes for `fuzz::ublk::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::ublk::run(bytes));
