//! virtio-blk, the device's side, without I/O: what a guest's driver asks, and what it is told about the disk.
//!
//! Everything a guest says comes from memory that it can change at any time. So a byte of it is copied once and judged
//! in the copy; what is returned here holds numbers only, never a promise about the guest's memory.
//!
//! The source of all of it is "Virtual I/O Device (VIRTIO) Version 1.2", section 5.2 (block device) and 2.7 (split
//! virtqueues).

pub mod chain;
pub mod config;
pub mod request;

pub use chain::{Broken, Chain, GuestMemory, Scatter, Unmapped};
pub use config::Device;
pub use request::{Ask, Parsed, Range, Refusal, parse};

/// Unit of addresses and lengths in requests, in bytes, whatever the block size is.
pub const SECTOR_BYTES: u64 = 512;
/// Most data segments of one request.
pub const SEGMENTS_MAX: u32 = 126;
/// Longest data segment, in bytes. All segments of a request together fit in one buffer of the server.
pub const SEGMENT_BYTES_MAX: u32 = 256 * 1024;
/// Most bytes one request reads or writes.
pub const REQUEST_BYTES_MAX: u32 = SEGMENTS_MAX * SEGMENT_BYTES_MAX;
/// Most ranges of one discard or write-zeroes.
pub const RANGES_MAX: u32 = 32;
/// Most sectors in one range of a discard or write-zeroes (1 GiB).
pub const RANGE_SECTORS_MAX: u32 = 1 << 21;
/// Bytes of the serial number that a guest is given.
pub const SERIAL_BYTES: usize = 20;

/// Byte that ends a request, as the guest reads it (VIRTIO 1.2, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or made no sense.
    IoError = 1,
    /// This device does not do that.
    Unsupported = 2,
}
