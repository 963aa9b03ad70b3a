//! Replies: headers appended to a buffer. Payloads of reads follow by the shell.

use crate::bytes::{Put, clipped};
use crate::command::{ByteRange, HeaderStyle};
use crate::errno::Errno;
use crate::export::Extent;
use crate::server::{Negotiated, Refused, Request};
use crate::wire;

/// Whether a chunk ends its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// More chunks follow.
    More,
    /// It is the last.
    Last,
}

/// The pen for the reply to one request. Small and `Copy`: keep it with the request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    style: HeaderStyle,
    cookie: u64,
    offset: u64,
}

impl Negotiated {
    /// The pen for the reply to `request`.
    pub fn reply(&self, request: &Request) -> Reply {
        let offset = request.command.range().map_or(0, ByteRange::offset);
        Reply { style: self.style, cookie: request.cookie, offset }
    }

    /// Appends the answer to a refused request. Its payload must be skipped first.
    pub fn refuse(&self, refused: &Refused, out: &mut Vec<u8>) {
        Reply { style: self.style, cookie: refused.cookie, offset: refused.offset }.error(
            refused.errno,
            refused.why,
            out,
        );
    }
}

impl Reply {
    /// Success without data: for writes and the like, or to end the chunks of a read or block status.
    pub fn done(self, out: &mut Vec<u8>) {
        match self.style {
            HeaderStyle::Simple => self.simple(0, out),
            HeaderStyle::Structured | HeaderStyle::Extended => {
                self.chunk(wire::REPLY_TYPE_NONE, Part::Last, 0, out);
            }
        }
    }

    /// Failure; ends the reply. `message` is for people and may be empty (a simple reply drops it). With
    /// [`HeaderStyle::Simple`] not after [`Reply::data`].
    pub fn error(self, errno: Errno, message: &str, out: &mut Vec<u8>) {
        match self.style {
            HeaderStyle::Simple => self.simple(errno.to_wire(), out),
            HeaderStyle::Structured | HeaderStyle::Extended => {
                let message = clipped(message);
                let message_bytes = message.len() as u16;
                self.chunk(wire::REPLY_TYPE_ERROR, Part::Last, 4 + 2 + u64::from(message_bytes), out);
                out.put_u32(errno.to_wire());
                out.put_u16(message_bytes);
                out.extend_from_slice(message.as_bytes());
            }
        }
    }

    /// The head of `range.len_bytes()` bytes of a read's data, which the shell sends right after `out`.
    /// With [`HeaderStyle::Simple`] the range must be the request's whole range and the part the last.
    pub fn data(self, range: ByteRange, part: Part, out: &mut Vec<u8>) {
        match self.style {
            HeaderStyle::Simple => {
                assert_eq!(part, Part::Last, "a simple reply has one part");
                self.simple(0, out);
            }
            HeaderStyle::Structured | HeaderStyle::Extended => {
                self.chunk(wire::REPLY_TYPE_OFFSET_DATA, part, 8 + range.len_bytes(), out);
                out.put_u64(range.offset());
            }
        }
    }

    /// `range` of a read is zeroes. Never with [`HeaderStyle::Simple`], never when the request said
    /// `dont_fragment` and the range is not the whole.
    pub fn hole(self, range: ByteRange, part: Part, out: &mut Vec<u8>) {
        assert_ne!(self.style, HeaderStyle::Simple, "a simple reply has no holes");
        self.chunk(wire::REPLY_TYPE_OFFSET_HOLE, part, 8 + 4, out);
        out.put_u64(range.offset());
        out.put_u32(u32::try_from(range.len_bytes()).expect("a read is at most PAYLOAD_BYTES_MAX long"));
    }

    /// The extents of one context, from the request's offset on and within its range. Extents without length are
    /// left out; there must be one with length. Never with [`HeaderStyle::Simple`].
    pub fn block_status(self, context_id: u32, extents: &[Extent], part: Part, out: &mut Vec<u8>) {
        let extents = extents.iter().filter(|extent| extent.len_bytes > 0);
        let count = extents.clone().count() as u64;
        assert!(count > 0, "the spec wants at least one extent");
        match self.style {
            HeaderStyle::Simple => panic!("a simple reply has no block status; decode refuses it"),
            HeaderStyle::Structured => {
                self.chunk(wire::REPLY_TYPE_BLOCK_STATUS, part, 4 + 8 * count, out);
                out.put_u32(context_id);
                for extent in extents {
                    out.put_u32(u32::try_from(extent.len_bytes).expect("a compact request is shorter"));
                    out.put_u32(u32::try_from(extent.flags).expect("a compact context has 32 bits of flags"));
                }
            }
            HeaderStyle::Extended => {
                self.chunk(wire::REPLY_TYPE_BLOCK_STATUS_EXT, part, 8 + 16 * count, out);
                out.put_u32(context_id);
                out.put_u32(u32::try_from(count).expect("so many extents do not fit in memory"));
                for extent in extents {
                    out.put_u64(extent.len_bytes);
                    out.put_u64(extent.flags);
                }
            }
        }
    }

    fn simple(self, error: u32, out: &mut Vec<u8>) {
        out.put_u32(wire::SIMPLE_REPLY_MAGIC);
        out.put_u32(error);
        out.put_u64(self.cookie);
    }

    /// The head of a chunk; `payload_bytes` more follow.
    fn chunk(self, kind: u16, part: Part, payload_bytes: u64, out: &mut Vec<u8>) {
        let extended = match self.style {
            HeaderStyle::Simple => panic!("a simple reply has no chunks"),
            HeaderStyle::Structured => false,
            HeaderStyle::Extended => true,
        };
        out.put_u32(if extended { wire::EXTENDED_REPLY_MAGIC } else { wire::STRUCTURED_REPLY_MAGIC });
        out.put_u16(match part {
            Part::More => 0,
            Part::Last => wire::REPLY_FLAG_DONE,
        });
        out.put_u16(kind);
        out.put_u64(self.cookie);
        if extended {
            out.put_u64(self.offset);
            out.put_u64(payload_bytes);
        } else {
            out.put_u32(
                u32::try_from(payload_bytes).expect("a compact reply's chunk is at most 32 MiB and a bit"),
            );
        }
    }
}
