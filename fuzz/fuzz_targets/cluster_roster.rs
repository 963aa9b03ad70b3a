//! Any bytes for `fuzz::cluster::roster`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::cluster::roster(bytes));
