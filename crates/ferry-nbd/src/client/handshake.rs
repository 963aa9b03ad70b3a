//! Option haggling on the client. proto.md, "Fixed newstyle negotiation".
//!
//! ```text
//! Greeting ─(TLS wanted: STARTTLS ─▶ secured)─▶ EXTENDED_HEADERS ─refused─▶ STRUCTURED_REPLY ─▶ SET_META_CONTEXT ─▶ GO ─▶ Ready(Session)
//!    │               └──────────────────────────────────────────────▲             └─unsupported─┐
//!    └─ not fixed newstyle ───────────────────────────────────────────────────────────▶ EXPORT_NAME ─▶ Ready
//! ```
//! Invariant: at most one option is unanswered at any time.

use super::facts::Facts;
use crate::bytes::{Put, Reader};
use crate::client::Session;
use crate::command::HeaderStyle;
use crate::error::ProtocolError;
use crate::export::Context;
use crate::limits::{CONTEXTS_MAX, OPTION_REPLIES_MAX, OPTION_REPLY_BYTES_MAX, STRING_BYTES_MAX};
use crate::wire;
use thiserror::Error;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The export's name; may be empty.
    pub export: String,
    /// Metadata contexts, by full name. Those the server does not know are left out of the session.
    pub contexts: Vec<String>,
    /// Secure the connection before naming the export; without TLS there is none.
    pub tls: bool,
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
    /// The stream is TLS from here on, bytes of the input that were not consumed included: shake hands there, then call
    /// again, also without input.
    StartTls,
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
    #[error("the server insists on TLS: write nbds:// and have certificates for it")]
    TlsRequired,
    /// TLS is wanted and the server has none.
    #[error("the server does not offer TLS{}; serve the export with it, or write nbd:// to read it without", said(.message))]
    TlsRefused {
        /// The server's words, may be empty.
        message: String,
    },
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
    /// More contexts are wanted than a server accepts.
    #[error("more than {0} metadata contexts were asked for")]
    TooManyContexts(usize),
    /// What is wanted does not fit into the protocol.
    #[error("{0} is longer than the protocol allows (4096 bytes)")]
    NameTooLong(&'static str),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// The client's side of one connection's handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    wanted: Wanted,
    state: State,
    no_zeroes: bool,
    style: HeaderStyle,
    contexts: Vec<Context>,
    facts: Facts,
    /// Replies to the option that is asked.
    replies: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Asked(u32),
    /// TLS has begun; the server waits for the next option.
    Secured,
    ExportName,
    Over,
}

/// One step through the input.
enum Step {
    NeedMore,
    Consumed(usize),
    Secured(usize),
    Ready(usize),
}

/// A reply to the option that is asked.
struct OptionReply<'a> {
    option: u32,
    kind: u32,
    payload: &'a [u8],
}

impl Handshake {
    /// A handshake. The server speaks first.
    ///
    /// Errors: a name of `wanted` is too long, or there are too many.
    pub fn new(wanted: Wanted) -> Result<Handshake, HandshakeError> {
        if wanted.export.len() > STRING_BYTES_MAX {
            return Err(HandshakeError::NameTooLong("the export's name"));
        }
        if wanted.contexts.iter().any(|name| name.len() > STRING_BYTES_MAX) {
            return Err(HandshakeError::NameTooLong("a metadata context's name"));
        }
        if wanted.contexts.len() > CONTEXTS_MAX {
            return Err(HandshakeError::TooManyContexts(CONTEXTS_MAX));
        }
        Ok(Handshake {
            wanted,
            state: State::Greeting,
            no_zeroes: false,
            style: HeaderStyle::Simple,
            contexts: Vec::new(),
            facts: Facts::default(),
            replies: 0,
        })
    }

    /// Deals with as much of `input` as there is and appends what to send to `out`. `input` begins with the first
    /// byte that was not consumed so far; it must be able to grow to [`crate::limits::HANDSHAKE_BUFFER_BYTES`].
    ///
    /// Errors: close the connection, after sending `out` (it may hold a polite `NBD_OPT_ABORT`).
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Advance, HandshakeError> {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let step = match self.state {
                State::Greeting => self.greeting(rest, out)?,
                State::Asked(option) => self.option_reply(option, rest, out)?,
                State::Secured => {
                    self.ask(wire::OPT_EXTENDED_HEADERS, &[], out);
                    Step::Consumed(0)
                }
                State::ExportName => self.export_name_reply(rest)?,
                State::Over => return Err(ProtocolError::Malformed("a handshake that is over").into()),
            };
            match step {
                Step::NeedMore => return Ok(Advance { consumed, outcome: Outcome::NeedMore }),
                Step::Consumed(bytes) => consumed += bytes,
                Step::Secured(bytes) => {
                    self.state = State::Secured;
                    return Ok(Advance { consumed: consumed + bytes, outcome: Outcome::StartTls });
                }
                Step::Ready(bytes) => {
                    self.state = State::Over;
                    let session = self.session()?;
                    return Ok(Advance {
                        consumed: consumed + bytes,
                        outcome: Outcome::Ready(Box::new(session)),
                    });
                }
            }
        }
    }

    /// What to report when the server closes the connection now.
    pub fn closed(&self) -> HandshakeError {
        match self.state {
            State::Greeting => HandshakeError::Closed { during: "its greeting" },
            State::Asked(wire::OPT_GO) => HandshakeError::Closed { during: "its answer about the export" },
            State::Asked(_) | State::Secured => HandshakeError::Closed { during: "the handshake" },
            // Closing is how a server without GO says that it does not have the export.
            State::ExportName => HandshakeError::ExportUnknown {
                export: self.wanted.export.clone(),
                message: "it closed the connection when asked for it".to_owned(),
            },
            State::Over => HandshakeError::Closed { during: "transmission" },
        }
    }

    fn greeting(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let mut reader = Reader::new(input);
        let Some(magic) = reader.u64() else { return Ok(Step::NeedMore) };
        if magic != wire::MAGIC {
            return Err(ProtocolError::BadMagic { place: "the greeting", found: magic }.into());
        }
        match reader.u64() {
            None => return Ok(Step::NeedMore),
            Some(wire::OPTION_MAGIC) => {}
            Some(wire::OLDSTYLE_MAGIC) => return Err(ProtocolError::OldStyle.into()),
            Some(found) => return Err(ProtocolError::BadMagic { place: "the greeting", found }.into()),
        }
        let Some(flags) = reader.u16() else { return Ok(Step::NeedMore) };
        let agreed = flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        self.no_zeroes = agreed & wire::FLAG_NO_ZEROES != 0;
        let fixed_newstyle = agreed & wire::FLAG_FIXED_NEWSTYLE != 0;
        if self.wanted.tls && !fixed_newstyle {
            return Err(HandshakeError::TlsRefused { message: String::new() });
        }
        out.put_u32(agreed.into());
        match (fixed_newstyle, self.wanted.tls) {
            (true, true) => self.ask(wire::OPT_STARTTLS, &[], out),
            (true, false) => self.ask(wire::OPT_EXTENDED_HEADERS, &[], out),
            (false, _) => self.ask_export_name(out),
        }
        Ok(Step::Consumed(wire::GREETING_BYTES))
    }

    fn ask(&mut self, option: u32, payload: &[u8], out: &mut Vec<u8>) {
        self.state = State::Asked(option);
        self.replies = 0;
        put_option(option, payload, out);
    }

    fn ask_contexts_or_go(&mut self, out: &mut Vec<u8>) {
        if self.wanted.contexts.is_empty() || self.style == HeaderStyle::Simple {
            return self.ask_go(out);
        }
        let mut payload = Vec::new();
        put_string(&self.wanted.export, &mut payload);
        payload.put_u32(self.wanted.contexts.len() as u32);
        for name in &self.wanted.contexts {
            put_string(name, &mut payload);
        }
        self.ask(wire::OPT_SET_META_CONTEXT, &payload, out);
    }

    fn ask_go(&mut self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        put_string(&self.wanted.export, &mut payload);
        payload.put_u16(1);
        payload.put_u16(wire::INFO_BLOCK_SIZE);
        self.ask(wire::OPT_GO, &payload, out);
    }

    fn ask_export_name(&mut self, out: &mut Vec<u8>) {
        put_option(wire::OPT_EXPORT_NAME, self.wanted.export.as_bytes(), out);
        self.state = State::ExportName;
    }

    fn option_reply(&mut self, asked: u32, input: &[u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let mut reader = Reader::new(input);
        let Some(magic) = reader.u64() else { return Ok(Step::NeedMore) };
        if magic != wire::OPTION_REPLY_MAGIC {
            return Err(ProtocolError::BadMagic { place: "an option reply", found: magic }.into());
        }
        let (Some(option), Some(kind), Some(len_bytes)) = (reader.u32(), reader.u32(), reader.u32()) else {
            return Ok(Step::NeedMore);
        };
        if option != asked {
            return Err(ProtocolError::WrongOption { asked, found: option }.into());
        }
        if len_bytes > OPTION_REPLY_BYTES_MAX {
            let (what, max_bytes) = ("an option reply", OPTION_REPLY_BYTES_MAX.into());
            return Err(ProtocolError::TooLong { what, len_bytes: len_bytes.into(), max_bytes }.into());
        }
        let Some(payload) = reader.take(len_bytes as usize) else { return Ok(Step::NeedMore) };
        self.replies += 1;
        if self.replies > OPTION_REPLIES_MAX {
            return Err(ProtocolError::TooManyReplies(OPTION_REPLIES_MAX).into());
        }
        let bytes = wire::OPTION_REPLY_HEADER_BYTES + payload.len();
        let reply = OptionReply { option, kind, payload };
        if kind & wire::REP_FLAG_ERROR != 0 {
            self.refused(&reply, out)?;
            return Ok(Step::Consumed(bytes));
        }
        self.accepted(&reply, bytes, out)
    }

    /// Takes a reply of `bytes` that is no error.
    fn accepted(
        &mut self,
        reply: &OptionReply<'_>,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<Step, HandshakeError> {
        match (reply.option, reply.kind) {
            (wire::OPT_EXTENDED_HEADERS, wire::REP_ACK) => {
                self.style = HeaderStyle::Extended;
                self.ask_contexts_or_go(out);
            }
            (wire::OPT_STRUCTURED_REPLY, wire::REP_ACK) => {
                self.style = HeaderStyle::Structured;
                self.ask_contexts_or_go(out);
            }
            (wire::OPT_SET_META_CONTEXT, wire::REP_META_CONTEXT) => self.context_granted(reply.payload)?,
            (wire::OPT_SET_META_CONTEXT, wire::REP_ACK) => self.ask_go(out),
            (wire::OPT_GO, wire::REP_INFO) => self.facts.learn(reply.payload)?,
            (wire::OPT_STARTTLS, wire::REP_ACK) => return Ok(Step::Secured(bytes)),
            (wire::OPT_GO, wire::REP_ACK) => return Ok(Step::Ready(bytes)),
            (option, reply) => return Err(ProtocolError::UnexpectedOptionReply { option, reply }.into()),
        }
        Ok(Step::Consumed(bytes))
    }

    /// Takes an error reply: does without where that is possible.
    fn refused(&mut self, reply: &OptionReply<'_>, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let export = || self.wanted.export.clone();
        let message = || String::from_utf8_lossy(reply.payload).into_owned();
        let error = match (reply.option, reply.kind) {
            (_, wire::REP_ERR_TLS_REQD) => HandshakeError::TlsRequired,
            (_, wire::REP_ERR_SHUTDOWN) => HandshakeError::ShuttingDown,
            (wire::OPT_STARTTLS, _) => HandshakeError::TlsRefused { message: message() },
            (wire::OPT_EXTENDED_HEADERS, _) => {
                self.ask(wire::OPT_STRUCTURED_REPLY, &[], out);
                return Ok(());
            }
            (wire::OPT_STRUCTURED_REPLY, _) => {
                self.ask_contexts_or_go(out);
                return Ok(());
            }
            (wire::OPT_SET_META_CONTEXT, _) => {
                self.contexts.clear();
                self.ask_go(out);
                return Ok(());
            }
            (_, wire::REP_ERR_UNSUP) => {
                self.ask_export_name(out);
                return Ok(());
            }
            (_, wire::REP_ERR_UNKNOWN) => {
                HandshakeError::ExportUnknown { export: export(), message: message() }
            }
            (_, reply) => HandshakeError::Refused { export: export(), reply, message: message() },
        };
        put_option(wire::OPT_ABORT, &[], out);
        Err(error)
    }

    fn context_granted(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let malformed = ProtocolError::Malformed("a metadata context");
        let mut reader = Reader::new(payload);
        let id = reader.u32().ok_or(malformed.clone())?;
        let name = std::str::from_utf8(reader.rest()).map_err(|_| malformed.clone())?;
        if self.contexts.iter().any(|granted| granted.id == id || granted.name == name) {
            return Err(malformed);
        }
        // A context nobody asked for is not worth a quarrel; its chunks are skipped as those of any unknown id.
        if self.wanted.contexts.iter().any(|wanted| wanted == name) {
            self.contexts.push(Context { id, name: name.to_owned() });
        }
        Ok(())
    }

    fn export_name_reply(&mut self, input: &[u8]) -> Result<Step, HandshakeError> {
        let zeroes = if self.no_zeroes { 0 } else { wire::EXPORT_NAME_ZEROES_BYTES };
        let mut reader = Reader::new(input);
        let (Some(size_bytes), Some(flags), Some(_)) = (reader.u64(), reader.u16(), reader.take(zeroes))
        else {
            return Ok(Step::NeedMore);
        };
        self.facts.learn_size(size_bytes, flags)?;
        Ok(Step::Ready(wire::EXPORT_NAME_REPLY_BYTES + zeroes))
    }

    fn session(&mut self) -> Result<Session, ProtocolError> {
        let contexts = std::mem::take(&mut self.contexts);
        let names = contexts.iter().map(|context| context.name.clone()).collect();
        let export = self.facts.export(self.wanted.export.clone(), names)?;
        Ok(Session::new(export, self.style, contexts, self.facts.can_send_df()))
    }
}

fn put_option(option: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.put_u64(wire::OPTION_MAGIC);
    out.put_u32(option);
    out.put_u32(u32::try_from(payload.len()).expect("payloads are made of a few strings of limited length"));
    out.extend_from_slice(payload);
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    out.put_u32(u32::try_from(text.len()).expect("names were checked against the limit"));
    out.extend_from_slice(text.as_bytes());
}
