//! Option haggling on the client: extended headers, else structured replies, contexts, GO, else EXPORT_NAME.

use crate::client::Session;
use crate::error::ProtocolError;
use thiserror::Error;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The export's name; may be empty.
    pub export: String,
    /// Metadata contexts, by full name. Those the server does not know are left out of the session.
    pub contexts: Vec<String>,
}

/// What [`Handshake::advance`] did.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Bytes of the input that are dealt with; the caller drops them and keeps the rest for the next call.
    pub consumed: usize,
    /// How it goes on.
    pub outcome: Outcome,
}

/// How a handshake goes on.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Send what is in `out`, read more, call again.
    NeedMore,
    /// Send what is in `out` (if anything); from here on the stream is transmission.
    Ready(Box<Session>),
}

/// Why a handshake came to nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// The server misbehaved.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The server does not have the export.
    #[error("the server has no export {export:?}{}", said(.message))]
    ExportUnknown {
        /// The name that was asked for.
        export: String,
        /// The server's words, may be empty.
        message: String,
    },
    /// The server insists on TLS.
    #[error("the server insists on TLS, which is not supported: serve the export without it")]
    TlsRequired,
    /// The server refuses the export.
    #[error("the server refuses export {export:?} (reply {reply:#x}){}", said(.message))]
    Refused {
        /// The name that was asked for.
        export: String,
        /// The option reply's type.
        reply: u32,
        /// The server's words, may be empty.
        message: String,
    },
    /// The server is about to go; try again later.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The server closed the connection.
    #[error("the server closed the connection during {during}")]
    Closed {
        /// What it should have answered.
        during: &'static str,
    },
    /// What is wanted does not fit into the protocol.
    #[error("{0} is longer than the protocol allows (4096 bytes)")]
    NameTooLong(&'static str),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// The client's side of one connection's handshake.
#[derive(Clone, Debug)]
pub struct Handshake {}

impl Handshake {
    /// A handshake. The server speaks first.
    ///
    /// Errors: a name of `wanted` is too long, or there are too many.
    pub fn new(_wanted: Wanted) -> Result<Handshake, HandshakeError> {
        todo!()
    }

    /// Deals with as much of `input` as there is and appends what to send to `out`. `input` begins with the first
    /// byte that was not consumed so far; it must be able to grow to [`crate::limits::HANDSHAKE_BUFFER_BYTES`].
    ///
    /// Errors: close the connection, after sending `out` (it may hold a polite `NBD_OPT_ABORT`).
    pub fn advance(&mut self, _input: &[u8], _out: &mut Vec<u8>) -> Result<Advance, HandshakeError> {
        todo!()
    }

    /// What to report when the server closes the connection now.
    pub fn closed(&self) -> HandshakeError {
        todo!()
    }
}
