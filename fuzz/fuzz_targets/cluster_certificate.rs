//! Any bytes for `fuzz::cluster::certificate`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::cluster::certificate(bytes));
