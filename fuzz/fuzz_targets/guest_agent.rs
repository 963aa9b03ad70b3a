//! Any bytes for `fuzz::guest_agent::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::guest_agent::run(bytes));
