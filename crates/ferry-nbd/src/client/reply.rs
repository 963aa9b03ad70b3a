//! Replies, header first. Every chunk is checked against the request it answers.

use crate::client::Session;
use crate::command::ByteRange;
use crate::errno::Errno;
use crate::error::ProtocolError;
use crate::export::Extent;

/// What [`Session::advance`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that are dealt with.
    pub consumed: usize,
    /// What happened. None: more input is needed.
    pub event: Option<Event>,
}

/// The server failed a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How.
    pub errno: Errno,
    /// The server's words, may be empty.
    pub message: String,
}

/// One step of one request's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next `range.len_bytes()` bytes of the stream are the data of these bytes of the export. They were asked by
    /// this request and were not answered before.
    Data {
        /// The request.
        cookie: u64,
        /// Which bytes of the export.
        range: ByteRange,
    },
    /// These bytes of the export are zeroes.
    Hole {
        /// The request.
        cookie: u64,
        /// Which bytes of the export.
        range: ByteRange,
    },
    /// The extents of one context, from the request's offset on: none without length, none beyond the range that was
    /// asked; all together they may cover less. At most once for each context and request.
    BlockStatus {
        /// The request.
        cookie: u64,
        /// The context's number, one of [`Session::contexts`].
        context_id: u32,
        /// The extents.
        extents: Vec<Extent>,
    },
    /// The one and only end of the request. If a read ends with `Ok`, all of its bytes were answered. After an error
    /// its bytes mean nothing.
    Done {
        /// The request.
        cookie: u64,
        /// How it ended.
        result: Result<(), Failure>,
    },
}

impl Session {
    /// Reads one event. `input` begins with the first byte that was neither consumed nor payload; it must be able to
    /// grow to [`crate::limits::REPLY_BUFFER_BYTES`].
    ///
    /// Errors: close the connection; requests in flight are lost and may be asked again on another.
    pub fn advance(&mut self, _input: &[u8]) -> Result<Progress, ProtocolError> {
        todo!()
    }
}
