//! What the driver is told: commands for devices, and the commands that take requests and answer them.
//!
//! ```text
//! a command for a device (struct ublksrv_ctrl_cmd, 32 bytes)
//!   0 u32 device   4 u16 queue (ffff: none)   6 u16 length of a buffer   8 u64 its address   16 u64 a number   24 zeroes
//! a command for a request (struct ublksrv_io_cmd, 16 bytes)
//!   0 u16 queue   2 u16 tag   4 i32 result   8 u64 zero
//! a device (struct ublksrv_ctrl_dev_info, 64 bytes)
//!   0 u16 queues      8 u32 max bytes of a request    16 i32 pid    32 u64 a mark of the server's own
//!   2 u16 depth      12 u32 device (ffffffff: any)    24 u64 features
//!   4 u16 state
//! its parameters (struct ublk_params, 60 bytes)
//!   0 u32 length     12 u8 log2(block)       16 u32 max sectors of a request     40 u32 discard alignment
//!   4 u32 kinds      13 u8 log2(physical)    20 u32 chunk, in sectors (none)     44 u32 discard granularity, in bytes
//!   8 u32 attributes 14 u8 log2(optimal I/O) 24 u64 size, in sectors             48 u32 max sectors of a discard
//!                    15 u8 log2(minimum I/O) 32 u64 virtual boundary (none)      52 u32 max sectors zeroed
//!                                                                                56 u16 max ranges of a discard, 58 zero
//! ```

use super::{RANGE_SECTORS_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES};

/// Bytes of a device's description.
pub const INFO_BYTES: usize = 64;
/// Bytes of a device's parameters.
pub const PARAMS_BYTES: usize = 60;
/// Bytes of a command for a device, as an entry of io_uring has room for them.
pub const COMMAND_BYTES: usize = 80;
/// Bytes of a command for a request.
pub const IO_COMMAND_BYTES: usize = 16;
/// Where a new device gets a number of the driver's choice.
pub const ANY_DEVICE: u32 = u32::MAX;

/// The volume's own unit is 4 KiB; a sector has 512 bytes, as in a virtual machine, so that a partition table made through
/// one frontend is understood through another.
const BLOCK_SHIFT: u8 = 9;
const UNIT_SHIFT: u8 = 12;
const UNIT_BYTES: u32 = 1 << UNIT_SHIFT;
const VOLATILE_CACHE: u32 = 1 << 2;
const FUA: u32 = 1 << 3;
/// Both kinds of parameters that are drawn above.
const BASIC_AND_DISCARD: u32 = 3;
const NO_QUEUE: u16 = u16::MAX;

/// A command of `/dev/ublk-control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell what the driver can do; the buffer takes a u64.
    Features,
    /// Describe a device; the buffer takes [`INFO_BYTES`].
    Info,
    /// Make a device of the description in the buffer, which is replaced by what became of it.
    Add,
    /// Give a device, which is not started, the parameters in the buffer.
    SetParams,
    /// Let guests use it. Answered when the server takes requests. The number is the server's pid.
    Start,
    /// Take it away from guests.
    Stop,
    /// Forget it. Answered when nobody has its character device open.
    Delete,
    /// The server is dead, another wants its place.
    BeginRecovery,
    /// Let guests go on, once the other server takes requests. The number is its pid.
    EndRecovery,
    /// Grow it. The number is the size in sectors.
    UpdateSize,
}

/// `_IOC` of linux/ioctl.h for the driver's letter: bytes of the argument, whether the kernel writes and reads it.
const fn ioctl_number(writes: bool, number: u32, argument_bytes: usize) -> u32 {
    let direction: u32 = if writes { 3 } else { 2 };
    direction << 30 | (argument_bytes as u32) << 16 | (b'u' as u32) << 8 | number
}

/// Number of the command that takes a first request (UBLK_U_IO_FETCH_REQ).
pub const FETCH: u32 = ioctl_number(true, 0x20, IO_COMMAND_BYTES);
/// Number of the command that answers a request and takes another (UBLK_U_IO_COMMIT_AND_FETCH_REQ).
pub const COMMIT_AND_FETCH: u32 = ioctl_number(true, 0x21, IO_COMMAND_BYTES);

impl Command {
    /// Its number, as io_uring carries it.
    #[must_use]
    pub fn number(self) -> u32 {
        let (writes, number) = match self {
            Self::Features => (false, 0x13),
            Self::Info => (false, 0x02),
            Self::Add => (true, 0x04),
            Self::Delete => (true, 0x05),
            Self::Start => (true, 0x06),
            Self::Stop => (true, 0x07),
            Self::SetParams => (true, 0x08),
            Self::BeginRecovery => (true, 0x10),
            Self::EndRecovery => (true, 0x11),
            Self::UpdateSize => (true, 0x15),
        };
        ioctl_number(writes, number, 32)
    }
}

/// The body of a command for `device`, with a buffer of so many bytes at an address, and a number.
#[must_use]
pub fn command(device: u32, (address, len): (u64, u16), number: u64) -> [u8; COMMAND_BYTES] {
    let mut body = [0; COMMAND_BYTES];
    let mut put = |at: usize, bytes: &[u8]| body[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &device.to_ne_bytes());
    put(4, &NO_QUEUE.to_ne_bytes());
    put(6, &len.to_ne_bytes());
    put(8, &address.to_ne_bytes());
    put(16, &number.to_ne_bytes());
    body
}

/// The body of a command for the request `tag` of the only queue. `result` answers the request before: how many bytes of a
/// read or write are done, or an error number below zero.
#[must_use]
pub fn io_command(tag: u16, result: i32) -> [u8; IO_COMMAND_BYTES] {
    let mut body = [0; IO_COMMAND_BYTES];
    body[2..4].copy_from_slice(&tag.to_ne_bytes());
    body[4..8].copy_from_slice(&result.to_ne_bytes());
    body
}

/// How a device stands (UBLK_S_DEV_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started, or stopped.
    Dead,
    /// Served.
    Live,
    /// Its server is dead, and its guest waits for another.
    Quiesced,
    /// A state of a later driver.
    Other(u16),
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// How many queues it has.
    pub queues: u16,
    /// How many requests may be in each.
    pub depth: u16,
    /// How it stands.
    pub state: State,
    /// Most bytes of one request.
    pub request_bytes_max: u32,
    /// Its number: the N of `/dev/ublkbN`.
    pub device: u32,
    /// What was agreed on, of [`super::features`].
    pub features: u64,
    /// What the server wrote here to know it again; the driver only keeps it.
    pub mark: u64,
}

impl DeviceInfo {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; INFO_BYTES] {
        let mut bytes = [0; INFO_BYTES];
        let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
        let state = match self.state {
            State::Dead => 0,
            State::Live => 1,
            State::Quiesced => 2,
            State::Other(number) => number,
        };
        put(0, &self.queues.to_ne_bytes());
        put(2, &self.depth.to_ne_bytes());
        put(4, &u16::to_ne_bytes(state));
        put(8, &self.request_bytes_max.to_ne_bytes());
        put(12, &self.device.to_ne_bytes());
        put(24, &self.features.to_ne_bytes());
        put(32, &self.mark.to_ne_bytes());
        bytes
    }

    /// As it is received. Any bytes describe a device.
    #[must_use]
    pub fn decode(bytes: &[u8; INFO_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let state = match u16_at(4) {
            0 => State::Dead,
            1 => State::Live,
            2 => State::Quiesced,
            other => State::Other(other),
        };
        Self {
            queues: u16_at(0),
            depth: u16_at(2),
            state,
            request_bytes_max: u32_at(8),
            device: u32_at(12),
            features: u64_at(24),
            mark: u64_at(32),
        }
    }
}

/// The parameters of a device of so many bytes, a multiple of [`SECTOR_BYTES`].
#[must_use]
pub fn params(size_bytes: u64) -> [u8; PARAMS_BYTES] {
    let mut bytes = [0; PARAMS_BYTES];
    let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
    put(0, &(PARAMS_BYTES as u32).to_ne_bytes());
    put(4, &BASIC_AND_DISCARD.to_ne_bytes());
    put(8, &(VOLATILE_CACHE | FUA).to_ne_bytes());
    put(12, &[BLOCK_SHIFT, UNIT_SHIFT, UNIT_SHIFT, UNIT_SHIFT]);
    put(16, &(REQUEST_BYTES_MAX / SECTOR_BYTES as u32).to_ne_bytes());
    put(24, &(size_bytes / SECTOR_BYTES).to_ne_bytes());
    put(44, &UNIT_BYTES.to_ne_bytes());
    put(48, &RANGE_SECTORS_MAX.to_ne_bytes());
    put(52, &RANGE_SECTORS_MAX.to_ne_bytes());
    // The driver knows no other number.
    put(56, &1_u16.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_numbers_of_the_kernels_header() {
        // As a C compiler makes them of linux/ublk_cmd.h.
        assert_eq!(Command::Features.number(), 0x8020_7513);
        assert_eq!(Command::Info.number(), 0x8020_7502);
        assert_eq!(Command::Add.number(), 0xc020_7504);
        assert_eq!(Command::Delete.number(), 0xc020_7505);
        assert_eq!(Command::EndRecovery.number(), 0xc020_7511);
        assert_eq!(Command::UpdateSize.number(), 0xc020_7515);
        assert_eq!((FETCH, COMMIT_AND_FETCH), (0xc010_7520, 0xc010_7521));
    }

    #[test]
    fn a_device_is_read_as_it_is_written() {
        let device = DeviceInfo {
            queues: 1,
            depth: 128,
            state: State::Quiesced,
            request_bytes_max: 1 << 19,
            device: 7,
            features: super::super::features::WANTED,
            mark: 0x0123_4567_89ab_cdef,
        };
        assert_eq!(DeviceInfo::decode(&device.encode()), device);
        assert_eq!(DeviceInfo::decode(&[0xff; INFO_BYTES]).state, State::Other(0xffff));
    }

    #[test]
    fn a_device_caches_until_a_flush_and_takes_whole_sectors() {
        let params = params(3 << 20);
        let u32_at = |at: usize| u32::from_ne_bytes(params[at..at + 4].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(4), u32_at(8)), (60, 3, 12));
        assert_eq!(params[12..16], [9, 12, 12, 12]);
        assert_eq!((u32_at(16), u32_at(44), u32_at(48), u32_at(52)), (1024, 4096, 1 << 21, 1 << 21));
        assert_eq!(u64::from_ne_bytes(params[24..32].try_into().unwrap()), 6144);
    }
}
