//! ublk, the server's side, without I/O: what the kernel's driver is told, and what it asks.
//!
//! The driver makes a block device of a program: it gives the program its requests through io_uring, as commands on two
//! character devices, `/dev/ublk-control` for devices as such and `/dev/ublkcN` for the requests of one of them. The
//! bytes of reads and writes are copied by `pread` and `pwrite` on the latter, at an address that names the request.
//!
//! The source of all of it is `include/uapi/linux/ublk_cmd.h` of Linux, and Documentation/block/ublk.rst beside it.
//! Numbers are in the machine's own byte order.

pub mod control;
pub mod request;

pub use control::{Command, DeviceInfo, State};
pub use request::{Ask, Range, Refusal, parse};

/// Unit of addresses and lengths in requests, in bytes, whatever the block size is.
pub const SECTOR_BYTES: u64 = 512;
/// Requests of one device without an answer. With [`REQUEST_BYTES_MAX`] this is what the mailbox lets one guest have
/// under way, so that posting a request never waits.
pub const DEPTH: u16 = 128;
/// Most bytes one request reads or writes.
pub const REQUEST_BYTES_MAX: u32 = 512 << 10;
/// Most sectors of one discard or write-zeroes (1 GiB).
pub const RANGE_SECTORS_MAX: u32 = 1 << 21;
/// Most requests of one queue (UBLK_MAX_QUEUE_DEPTH).
pub const DEPTH_MAX: u16 = 4096;

/// What a driver can do (UBLK_F_*), as a set.
pub mod features {
    /// The device waits for another server when its own dies ...
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// ... who is asked again what had no answer.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// Commands are numbered as those of `ioctl` are.
    pub const CMD_IOCTL_ENCODE: u64 = 1 << 6;
    /// Bytes are copied by `pread` and `pwrite`.
    pub const USER_COPY: u64 = 1 << 7;
    /// A device can grow (Linux 6.16).
    pub const UPDATE_SIZE: u64 = 1 << 10;
    /// Nobody looks for partitions on a new device (Linux 7.0).
    pub const NO_AUTO_PART_SCAN: u64 = 1 << 18;

    /// What there must be: Linux 6.5 has it.
    pub const NEEDED: u64 = USER_RECOVERY | USER_RECOVERY_REISSUE | CMD_IOCTL_ENCODE | USER_COPY;
    /// What is used where it is.
    pub const WANTED: u64 = NEEDED | UPDATE_SIZE | NO_AUTO_PART_SCAN;
}
