//! How a peer may misbehave. After any of these the connection must be closed: the stream has lost its meaning.

use thiserror::Error;

/// The peer sent what the protocol does not allow, or more than we accept.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// A magic number is wrong.
    #[error("the peer does not speak NBD or lost its place: {place} begins with {found:#018x}")]
    BadMagic {
        /// Where it was expected.
        place: &'static str,
        /// What was there.
        found: u64,
    },
    /// The server speaks the old style, which can name no export.
    #[error("the server speaks oldstyle NBD; use one that speaks newstyle (any since 2011)")]
    OldStyle,
    /// The client's flags hold bits that the spec does not know.
    #[error("the client sent unknown handshake flags {0:#010x}")]
    UnknownClientFlags(u32),
    /// A client without fixed newstyle may only send `NBD_OPT_EXPORT_NAME`.
    #[error("the client sent option {0} without having agreed to fixed newstyle")]
    OptionBeforeFixedNewstyle(u32),
    /// An option is longer than anything a server would skip.
    #[error("option {option} is {len_bytes} bytes long, more than a server reads")]
    OptionTooLong {
        /// The option's number.
        option: u32,
        /// Its announced length.
        len_bytes: u32,
    },
    /// A client haggles without end.
    #[error("the client sent more than {0} options without beginning to transmit")]
    TooManyOptions(u32),
    /// Answering this client has cost too much.
    #[error("the handshake's replies exceed {0} bytes")]
    HandshakeTooLong(usize),
    /// A field's length and its contents do not fit.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A part of a reply is longer than accepted.
    #[error("{what} is {len_bytes} bytes long, more than the accepted {max_bytes}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its announced length.
        len_bytes: u64,
        /// What would have been accepted.
        max_bytes: u64,
    },
    /// A write carries a payload that is too long even to be skipped.
    #[error("a write of {len_bytes} bytes is more than a server skips")]
    PayloadTooLong {
        /// Its announced length.
        len_bytes: u64,
    },
    /// A reply answers an option that was not asked.
    #[error("the server answered option {found} when option {asked} had been asked")]
    WrongOption {
        /// What was asked.
        asked: u32,
        /// What was answered.
        found: u32,
    },
    /// A reply to an option has a type that does not belong there.
    #[error("the server answered option {option} with reply type {reply:#x}, which does not belong there")]
    UnexpectedOptionReply {
        /// What was asked.
        option: u32,
        /// The reply's type.
        reply: u32,
    },
    /// A server answers one option without end.
    #[error("the server sent more than {0} replies to one option")]
    TooManyReplies(u32),
    /// The reply to GO lacks the size.
    #[error("the server accepted the export without telling its size")]
    NoExportInfo,
    /// The export's size or its block sizes contradict the spec.
    #[error("the server's {what} of {value} is not allowed by the protocol")]
    BadExport {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A reply to a request that is not in flight.
    #[error("the server answered request {0:#x}, which is not in flight")]
    UnknownCookie(u64),
    /// A reply of a style that was not negotiated, or that the command does not allow.
    #[error("the server sent {0}")]
    UnexpectedReply(&'static str),
    /// A chunk type that nobody negotiated.
    #[error("the server sent a reply chunk of unknown type {0:#x}")]
    UnknownChunk(u16),
    /// A chunk outside of what was asked, or over what was already answered.
    #[error("the server answered bytes {offset}+{len_bytes}, which were not asked or were already answered")]
    ChunkOutside {
        /// First byte of the chunk.
        offset: u64,
        /// Its length.
        len_bytes: u64,
    },
    /// A read is answered in too many scattered pieces.
    #[error("the server answered one read in more than {0} scattered pieces")]
    TooManyPieces(usize),
    /// A read was declared done with bytes missing.
    #[error("the server ended a read of {asked_bytes} bytes after {answered_bytes}")]
    ShortRead {
        /// Bytes asked.
        asked_bytes: u64,
        /// Bytes answered.
        answered_bytes: u64,
    },
}
