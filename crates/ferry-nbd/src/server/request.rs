//! The door of the server: a request's header becomes a command that is right, or a refusal.

use crate::command::Command;
use crate::errno::Errno;
use crate::error::ProtocolError;
use crate::server::Negotiated;

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

impl Negotiated {
    /// Reads one header of exactly [`Negotiated::request_header_bytes`] bytes. The one place that validates: range,
    /// alignment, flags, read-only, payload length, abilities.
    ///
    /// Errors: the stream has lost its meaning; close the connection.
    pub fn decode(&self, _header: &[u8]) -> Result<Decoded, ProtocolError> {
        todo!()
    }
}
