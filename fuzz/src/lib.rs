//! What must hold for any bytes from outside, one body for each parser of them.
//!
//! A body takes bytes and panics when something does not hold. The fuzz targets here and the stable tests
//! `tests/foreign_bytes` of each crate run the same bodies; the tests include these files by their paths, so that no
//! crate depends on this one.

pub mod cluster;
pub mod gossip;
pub mod guest_agent;
pub mod heat;
pub mod journal;
pub mod map;
pub mod nbd;
pub mod notes;
pub mod sums;
pub mod ublk;
pub mod virtio_blk;
pub mod volume;
