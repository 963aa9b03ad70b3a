//! Replies: headers appended to a buffer. Payloads of reads follow by the shell.

use crate::command::{ByteRange, HeaderStyle};
use crate::errno::Errno;
use crate::export::Extent;
use crate::server::{Negotiated, Refused, Request};

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
    pub fn done(self, _out: &mut Vec<u8>) {
        todo!()
    }

    /// Failure; ends the reply. `message` is for people and may be empty (a simple reply drops it). With
    /// [`HeaderStyle::Simple`] not after [`Reply::data`].
    pub fn error(self, _errno: Errno, _message: &str, _out: &mut Vec<u8>) {
        todo!()
    }

    /// The head of `range.len_bytes()` bytes of a read's data, which the shell sends right after `out`.
    /// With [`HeaderStyle::Simple`] the range must be the request's whole range and the part the last.
    pub fn data(self, _range: ByteRange, _part: Part, _out: &mut Vec<u8>) {
        todo!()
    }

    /// `range` of a read is zeroes. Never with [`HeaderStyle::Simple`], never when the request said
    /// `dont_fragment` and the range is not the whole.
    pub fn hole(self, _range: ByteRange, _part: Part, _out: &mut Vec<u8>) {
        todo!()
    }

    /// The extents of one context, from the request's offset on. Extents without length are left out; there must be
    /// one with length. Never with [`HeaderStyle::Simple`].
    pub fn block_status(self, _context_id: u32, _extents: &[Extent], _part: Part, _out: &mut Vec<u8>) {
        todo!()
    }
}
