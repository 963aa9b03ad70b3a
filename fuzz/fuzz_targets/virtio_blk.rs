//! Any bytes for `fuzz::virtio_blk::run`, which says what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::virtio_blk::run(bytes));
