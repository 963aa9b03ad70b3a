//! Option haggling on the server. proto.md, "Fixed newstyle negotiation".

use crate::error::ProtocolError;
use crate::export::Exports;
use crate::server::Negotiated;

/// What [`Handshake::advance`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Bytes of the input that are dealt with; the caller drops them and keeps the rest for the next call.
    pub consumed: usize,
    /// How it goes on.
    pub outcome: Outcome,
}

/// How a handshake goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send what is in `out`, read more, call again.
    NeedMore,
    /// Send what is in `out`; from here on the stream is transmission.
    Ready(Box<Negotiated>),
    /// Send what is in `out`, then close.
    Closed(CloseReason),
}

/// Why a handshake ended without transmission, the client having done nothing wrong in the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client left with `NBD_OPT_ABORT`.
    Aborted,
    /// `NBD_OPT_EXPORT_NAME` named an export that is not to be had; closing is the only answer there is.
    ExportRefused(String),
}

/// The server's side of one connection's handshake.
#[derive(Clone, Debug)]
pub struct Handshake {}

impl Handshake {
    /// A handshake, and the greeting to send at once.
    pub fn new() -> (Handshake, Vec<u8>) {
        todo!()
    }

    /// Deals with as much of `input` as there is and appends the answers to `out`. `input` begins with the first byte
    /// that was not consumed so far; it must be able to grow to [`crate::limits::HANDSHAKE_BUFFER_BYTES`].
    ///
    /// Errors: the connection must be closed, after sending `out`.
    pub fn advance(
        &mut self,
        _input: &[u8],
        _exports: &dyn Exports,
        _out: &mut Vec<u8>,
    ) -> Result<Advance, ProtocolError> {
        todo!()
    }
}
