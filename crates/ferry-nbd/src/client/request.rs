//! Requests: headers appended to a buffer. Payloads of writes follow by the shell.
//!
//! Invariant: nothing is sent that the server did not offer.

use super::pending::Pending;
use crate::bytes::Put;
use crate::client::Session;
use crate::command::{ByteRange, Command, HeaderStyle};
use crate::limits::{IN_FLIGHT_MAX, PAYLOAD_BYTES_MAX};
use crate::wire;
use thiserror::Error;

/// Why a request cannot be sent. Nothing was appended, the session is as before.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// A request with this cookie is in flight.
    #[error("request {0:#x} is already in flight")]
    CookieInUse(u64),
    /// Too many are in flight.
    #[error("{0} requests are in flight already; wait for one of them")]
    TooManyInFlight(usize),
    /// The range leaves the export.
    #[error("bytes up to {end} are beyond the export's {size_bytes}")]
    BeyondEnd {
        /// Where the range ends.
        end: u64,
        /// Where the export ends.
        size_bytes: u64,
    },
    /// The range is no multiple of the server's minimum block size.
    #[error("the range is not aligned to the server's minimum block size of {minimum_bytes} bytes")]
    Unaligned {
        /// The server's minimum.
        minimum_bytes: u32,
    },
    /// The range is longer than the server takes.
    #[error("{len_bytes} bytes are more than the {max_bytes} that one such request may be about")]
    TooLong {
        /// The range's length.
        len_bytes: u64,
        /// The most that may be.
        max_bytes: u64,
    },
    /// The server did not offer it.
    #[error("the server does not offer {0} on this export")]
    NotOffered(&'static str),
}

/// The longest range of a compact request that is aligned to any minimum block size, in bytes.
const COMPACT_RANGE_BYTES_MAX: u64 = 0xffff_0000;

impl Session {
    /// Appends the header of a request to `out` and remembers it until its [`super::Event::Done`]. The payload of a
    /// write follows by the shell. [`Command::Disconnect`] has no reply: its cookie does not matter.
    pub fn request(&mut self, cookie: u64, command: Command, out: &mut Vec<u8>) -> Result<(), RequestError> {
        self.check_offered(&command)?;
        if let Some(range) = command.range() {
            self.check_range(range, &command)?;
        }
        if command != Command::Disconnect {
            if self.pending.len() >= IN_FLIGHT_MAX {
                return Err(RequestError::TooManyInFlight(self.pending.len()));
            }
            if self.pending.contains_key(&cookie) {
                return Err(RequestError::CookieInUse(cookie));
            }
            self.pending.insert(cookie, Pending::new(command));
        }
        let (kind, flags) = self.kind_and_flags(&command);
        let (offset, len_bytes) = command.range().map_or((0, 0), |range| (range.offset(), range.len_bytes()));
        match self.style {
            HeaderStyle::Simple | HeaderStyle::Structured => {
                out.put_u32(wire::REQUEST_MAGIC);
                out.put_u16(flags);
                out.put_u16(kind);
                out.put_u64(cookie);
                out.put_u64(offset);
                out.put_u32(u32::try_from(len_bytes).expect("check_range keeps compact ranges below 4 GiB"));
            }
            HeaderStyle::Extended => {
                out.put_u32(wire::EXTENDED_REQUEST_MAGIC);
                out.put_u16(flags);
                out.put_u16(kind);
                out.put_u64(cookie);
                out.put_u64(offset);
                out.put_u64(len_bytes);
            }
        }
        Ok(())
    }

    /// The longest range of a command other than read and write on this connection, in bytes.
    pub fn range_bytes_max(&self) -> u64 {
        match self.style {
            HeaderStyle::Simple | HeaderStyle::Structured => COMPACT_RANGE_BYTES_MAX,
            HeaderStyle::Extended => i64::MAX as u64,
        }
    }

    /// The longest read or write on this connection, in bytes; a multiple of the server's minimum block size.
    pub fn payload_bytes_max(&self) -> u32 {
        self.export.block_sizes.maximum.min(PAYLOAD_BYTES_MAX)
    }

    fn check_offered(&self, command: &Command) -> Result<(), RequestError> {
        let export = &self.export;
        let (offered, fua, what) = match *command {
            Command::Read { dont_fragment, .. } => {
                let simple = self.style == HeaderStyle::Simple;
                (!dont_fragment || simple || self.can_send_df, false, "unfragmented reads")
            }
            Command::Write { fua, .. } => (!export.read_only, fua, "writes"),
            Command::Disconnect => (true, false, "disconnect"),
            Command::Flush => (export.can_flush, false, "flush"),
            Command::Trim { fua, .. } => (!export.read_only && export.can_trim, fua, "trim"),
            Command::Cache { .. } => (export.can_cache, false, "cache"),
            Command::WriteZeroes { fua, fast, .. } => {
                let offered = !export.read_only && export.can_write_zeroes;
                (offered && (!fast || export.can_fast_zero), fua, "such write zeroes")
            }
            Command::BlockStatus { .. } => (!self.contexts.is_empty(), false, "block status"),
        };
        if !offered {
            return Err(RequestError::NotOffered(what));
        }
        if fua && !export.can_fua {
            return Err(RequestError::NotOffered("durable writes (FUA); write, then flush"));
        }
        Ok(())
    }

    fn check_range(&self, range: ByteRange, command: &Command) -> Result<(), RequestError> {
        let size_bytes = self.export.size_bytes;
        if range.end() > size_bytes {
            return Err(RequestError::BeyondEnd { end: range.end(), size_bytes });
        }
        let minimum_bytes = self.export.block_sizes.minimum;
        let unit = u64::from(minimum_bytes.max(1));
        if !range.offset().is_multiple_of(unit) || !range.len_bytes().is_multiple_of(unit) {
            return Err(RequestError::Unaligned { minimum_bytes });
        }
        let max_bytes = match command {
            Command::Read { .. } | Command::Write { .. } => self.payload_bytes_max().into(),
            Command::Trim { .. }
            | Command::Cache { .. }
            | Command::WriteZeroes { .. }
            | Command::BlockStatus { .. }
            | Command::Disconnect
            | Command::Flush => self.range_bytes_max(),
        };
        if range.len_bytes() > max_bytes {
            return Err(RequestError::TooLong { len_bytes: range.len_bytes(), max_bytes });
        }
        Ok(())
    }

    fn kind_and_flags(&self, command: &Command) -> (u16, u16) {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let extended = self.style == HeaderStyle::Extended;
        match *command {
            Command::Read { dont_fragment, .. } => {
                (wire::CMD_READ, flag(dont_fragment && self.can_send_df, wire::CMD_FLAG_DF))
            }
            Command::Write { fua, .. } => {
                let payload = flag(extended, wire::CMD_FLAG_PAYLOAD_LEN);
                (wire::CMD_WRITE, flag(fua, wire::CMD_FLAG_FUA) | payload)
            }
            Command::Disconnect => (wire::CMD_DISC, 0),
            Command::Flush => (wire::CMD_FLUSH, 0),
            Command::Trim { fua, .. } => (wire::CMD_TRIM, flag(fua, wire::CMD_FLAG_FUA)),
            Command::Cache { .. } => (wire::CMD_CACHE, 0),
            Command::WriteZeroes { fua, no_hole, fast, .. } => {
                let flags = flag(fua, wire::CMD_FLAG_FUA)
                    | flag(no_hole, wire::CMD_FLAG_NO_HOLE)
                    | flag(fast, wire::CMD_FLAG_FAST_ZERO);
                (wire::CMD_WRITE_ZEROES, flags)
            }
            Command::BlockStatus { only_one, .. } => {
                (wire::CMD_BLOCK_STATUS, flag(only_one, wire::CMD_FLAG_REQ_ONE))
            }
        }
    }
}
