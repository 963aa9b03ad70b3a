//! The door of the server: a request's header becomes a command that is right, or a refusal.
//!
//! Invariant: what leaves here as a [`Request`] lies within the export, is aligned and allowed, and no longer than
//! the export takes. Nothing behind this door checks again.

use crate::bytes::Reader;
use crate::command::{ByteRange, Command, HeaderStyle};
use crate::errno::Errno;
use crate::error::ProtocolError;
use crate::limits::{PAYLOAD_BYTES_MAX, PAYLOAD_SKIP_BYTES_MAX};
use crate::server::Negotiated;
use crate::wire;

/// A request that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's name for it, repeated in the reply.
    pub cookie: u64,
    /// What to do. `command.payload_bytes()` bytes of payload follow the header.
    pub command: Command,
}

/// A request that must not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The client's name for it.
    pub cookie: u64,
    /// Its offset field, which an extended reply repeats.
    pub offset: u64,
    /// Bytes after the header that must be skipped, at most [`crate::limits::PAYLOAD_SKIP_BYTES_MAX`].
    pub payload_bytes: u64,
    /// The answer.
    pub errno: Errno,
    /// Why, in one sentence.
    pub why: &'static str,
}

/// What a header turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Do it, then answer. [`Command::Disconnect`] has no answer: finish what is in flight and close.
    Request(Request),
    /// Skip its payload, then answer with [`Negotiated::refuse`].
    Refused(Refused),
}

/// A header's fields, read but not believed.
struct Fields {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len_bytes: u64,
}

type Refusal = (Errno, &'static str);

impl Negotiated {
    /// Reads one header of exactly [`Negotiated::request_header_bytes`] bytes. The one place that validates: range,
    /// alignment, flags, read-only, payload length, abilities.
    ///
    /// Errors: the stream has lost its meaning; close the connection.
    pub fn decode(&self, header: &[u8]) -> Result<Decoded, ProtocolError> {
        let fields = Fields::read(header, self.style)?;
        let announced = self.style == HeaderStyle::Extended && fields.flags & wire::CMD_FLAG_PAYLOAD_LEN != 0;
        let has_payload = fields.kind == wire::CMD_WRITE || announced;
        if has_payload && fields.len_bytes > PAYLOAD_SKIP_BYTES_MAX {
            return Err(ProtocolError::PayloadTooLong { len_bytes: fields.len_bytes });
        }
        let Fields { cookie, offset, .. } = fields;
        Ok(match self.admit(&fields) {
            Ok(command) => Decoded::Request(Request { cookie, command }),
            Err((errno, why)) => {
                let payload_bytes = if has_payload { fields.len_bytes } else { 0 };
                Decoded::Refused(Refused { cookie, offset, payload_bytes, errno, why })
            }
        })
    }

    fn admit(&self, fields: &Fields) -> Result<Command, Refusal> {
        self.check_flags(fields)?;
        let flag = |flag: u16| fields.flags & flag != 0;
        let fua = flag(wire::CMD_FLAG_FUA);
        match fields.kind {
            wire::CMD_READ => {
                let range = self.range(fields, Errno::Invalid)?;
                let dont_fragment = flag(wire::CMD_FLAG_DF);
                let too_long = if dont_fragment { Errno::Overflow } else { Errno::Invalid };
                self.check_length(range, too_long)?;
                Ok(Command::Read { range, dont_fragment })
            }
            wire::CMD_WRITE => {
                self.check_writable()?;
                let range = self.range(fields, Errno::NoSpace)?;
                self.check_length(range, Errno::Invalid)?;
                Ok(Command::Write { range, fua })
            }
            wire::CMD_DISC => Ok(Command::Disconnect),
            wire::CMD_FLUSH => {
                offered(self.export.can_flush, "this export does not offer flush")?;
                let bare = fields.offset == 0 && fields.len_bytes == 0;
                offered(bare, "a flush is about the whole export: its offset and length must be zero")?;
                Ok(Command::Flush)
            }
            wire::CMD_TRIM => {
                self.check_writable()?;
                offered(self.export.can_trim, "this export does not offer trim")?;
                Ok(Command::Trim { range: self.range(fields, Errno::Invalid)?, fua })
            }
            wire::CMD_CACHE => {
                offered(self.export.can_cache, "this export does not offer cache")?;
                Ok(Command::Cache { range: self.range(fields, Errno::Invalid)? })
            }
            wire::CMD_WRITE_ZEROES => {
                self.check_writable()?;
                offered(self.export.can_write_zeroes, "this export does not offer write zeroes")?;
                let range = self.range(fields, Errno::NoSpace)?;
                let (no_hole, fast) = (flag(wire::CMD_FLAG_NO_HOLE), flag(wire::CMD_FLAG_FAST_ZERO));
                Ok(Command::WriteZeroes { range, fua, no_hole, fast })
            }
            wire::CMD_BLOCK_STATUS => {
                offered(!self.contexts.is_empty(), "no metadata context was negotiated for block status")?;
                let range = self.range(fields, Errno::Invalid)?;
                Ok(Command::BlockStatus { range, only_one: flag(wire::CMD_FLAG_REQ_ONE) })
            }
            _ => Err((Errno::Invalid, "this server does not know this command")),
        }
    }

    /// FUA may come with any command, the spec says. Every other flag belongs to one.
    fn check_flags(&self, fields: &Fields) -> Result<(), Refusal> {
        let of_command = match fields.kind {
            wire::CMD_READ if self.can_send_chunks() => wire::CMD_FLAG_DF,
            wire::CMD_WRITE if self.style == HeaderStyle::Extended => wire::CMD_FLAG_PAYLOAD_LEN,
            wire::CMD_WRITE_ZEROES if self.export.can_fast_zero => {
                wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO
            }
            wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE,
            wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
            wire::CMD_DISC => !wire::CMD_FLAG_PAYLOAD_LEN,
            _ => 0,
        };
        let everywhere = if self.export.can_fua { wire::CMD_FLAG_FUA } else { 0 };
        offered(
            fields.flags & !(of_command | everywhere) == 0,
            "the command has a flag that it does not take",
        )
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        if self.export.read_only { Err((Errno::NotPermitted, "this export is read-only")) } else { Ok(()) }
    }

    fn check_length(&self, range: ByteRange, too_long: Errno) -> Result<(), Refusal> {
        let maximum = self.export.block_sizes.maximum.min(PAYLOAD_BYTES_MAX);
        if range.len_bytes() > u64::from(maximum) {
            return Err((too_long, "the request is longer than the export's maximum block size"));
        }
        Ok(())
    }

    fn range(&self, fields: &Fields, beyond_end: Errno) -> Result<ByteRange, Refusal> {
        if fields.len_bytes == 0 {
            return Err((Errno::Invalid, "the request is about no bytes"));
        }
        let beyond = (beyond_end, "the request goes beyond the end of the export");
        let range = ByteRange::new(fields.offset, fields.len_bytes).ok_or(beyond)?;
        if range.end() > self.export.size_bytes {
            return Err(beyond);
        }
        let minimum = u64::from(self.export.block_sizes.minimum.max(1));
        let aligned = fields.offset.is_multiple_of(minimum) && fields.len_bytes.is_multiple_of(minimum);
        offered(aligned, "the request is not aligned to the export's minimum block size")?;
        Ok(range)
    }
}

impl Fields {
    fn read(header: &[u8], style: HeaderStyle) -> Result<Fields, ProtocolError> {
        let (magic, extended) = match style {
            HeaderStyle::Simple | HeaderStyle::Structured => (wire::REQUEST_MAGIC, false),
            HeaderStyle::Extended => (wire::EXTENDED_REQUEST_MAGIC, true),
        };
        let mut reader = Reader::new(header);
        let found = reader.u32().ok_or(ProtocolError::Malformed("a request's header"))?;
        if found != magic {
            return Err(ProtocolError::BadMagic { place: "a request", found: found.into() });
        }
        let mut read = || {
            let (flags, kind) = (reader.u16()?, reader.u16()?);
            let (cookie, offset) = (reader.u64()?, reader.u64()?);
            let len_bytes = if extended { reader.u64()? } else { reader.u32()?.into() };
            reader.is_empty().then_some(Fields { flags, kind, cookie, offset, len_bytes })
        };
        read().ok_or(ProtocolError::Malformed("a request's header"))
    }
}

fn offered(yes: bool, otherwise: &'static str) -> Result<(), Refusal> {
    if yes { Ok(()) } else { Err((Errno::Invalid, otherwise)) }
}
