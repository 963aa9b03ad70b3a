//! Any bytes for `fuzz::volume::control_socket`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::volume::control_socket(bytes));
