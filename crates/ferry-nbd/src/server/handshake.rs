//! Option haggling on the server. proto.md, "Fixed newstyle negotiation".
//!
//! Invariant: every option gets exactly one closing reply (ACK or an error), except `NBD_OPT_EXPORT_NAME`, which the
//! spec leaves without a way to refuse.

use super::options;
use crate::bytes::{Put, Reader};
use crate::command::HeaderStyle;
use crate::error::ProtocolError;
use crate::export::{Context, ExportInfo, Exports};
use crate::limits::{
    HANDSHAKE_REPLY_BYTES_MAX, OPTION_BYTES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX, STRING_BYTES_MAX,
};
use crate::server::Negotiated;
use crate::wire;

/// What [`Handshake::advance`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// Bytes of the input that are dealt with; the caller drops them and keeps the rest for the next call.
    pub consumed: usize,
    /// How it goes on.
    pub outcome: Outcome,
}

/// Whether a connection is secured before anything is told on it. proto.md, "TLS versions" and "Server-side
/// requirements" (NOTLS and FORCEDTLS; there is no SELECTIVETLS here).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// There is no TLS to be had.
    Off,
    /// Before `NBD_OPT_STARTTLS` every other option is refused, and no export is named.
    Required,
}

/// How a handshake goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send what is in `out`, read more, call again.
    NeedMore,
    /// Send what is in `out`; from here on the stream is TLS, bytes of the input that were not consumed included. Call
    /// again with what is decrypted.
    StartTls,
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
    /// `NBD_OPT_EXPORT_NAME` came before `NBD_OPT_STARTTLS`; closing is the only answer there is.
    Unsecured,
}

/// The server's side of one connection's handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    state: State,
    tls: TlsPolicy,
    /// Whether what is read now came through TLS.
    secured: bool,
    fixed_newstyle: bool,
    no_zeroes: bool,
    pub(super) style: HeaderStyle,
    pub(super) selected: Option<Selected>,
    options: u32,
    sent_bytes: usize,
}

/// The contexts of the last `NBD_OPT_SET_META_CONTEXT`. They count only if transmission begins on the same export.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) export: String,
    pub(super) contexts: Vec<Context>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    ClientFlags,
    Options,
    /// The payload of an option that was too big, already answered.
    Skipping {
        left_bytes: u32,
    },
    Over,
}

/// One step through the input.
enum Step {
    NeedMore,
    Consumed(usize),
    Secured(usize),
    Over(usize, Outcome),
}

impl Handshake {
    /// A handshake, and the greeting to send at once.
    pub fn new(tls: TlsPolicy) -> (Handshake, Vec<u8>) {
        let mut greeting = Vec::with_capacity(wire::GREETING_BYTES);
        greeting.put_u64(wire::MAGIC);
        greeting.put_u64(wire::OPTION_MAGIC);
        greeting.put_u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        let handshake = Handshake {
            state: State::ClientFlags,
            tls,
            secured: false,
            fixed_newstyle: false,
            no_zeroes: false,
            style: HeaderStyle::Simple,
            selected: None,
            options: 0,
            sent_bytes: 0,
        };
        (handshake, greeting)
    }

    /// Deals with as much of `input` as there is and appends the answers to `out`. `input` begins with the first byte
    /// that was not consumed so far; it must be able to grow to [`crate::limits::HANDSHAKE_BUFFER_BYTES`].
    ///
    /// Errors: the connection must be closed, after sending `out`.
    pub fn advance(
        &mut self,
        input: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Advance, ProtocolError> {
        let mut consumed = 0;
        loop {
            let out_before = out.len();
            let step = self.step(&input[consumed..], exports, out)?;
            self.sent_bytes += out.len() - out_before;
            if self.sent_bytes > HANDSHAKE_REPLY_BYTES_MAX {
                out.truncate(out_before);
                return Err(ProtocolError::HandshakeTooLong(HANDSHAKE_REPLY_BYTES_MAX));
            }
            match step {
                Step::NeedMore => return Ok(Advance { consumed, outcome: Outcome::NeedMore }),
                Step::Consumed(bytes) => consumed += bytes,
                Step::Secured(bytes) => {
                    return Ok(Advance { consumed: consumed + bytes, outcome: Outcome::StartTls });
                }
                Step::Over(bytes, outcome) => {
                    self.state = State::Over;
                    return Ok(Advance { consumed: consumed + bytes, outcome });
                }
            }
        }
    }

    fn step(
        &mut self,
        input: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, ProtocolError> {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Options => self.option(input, exports, out),
            State::Skipping { left_bytes } => {
                let skipped = input.len().min(left_bytes as usize);
                let left_bytes = left_bytes - skipped as u32;
                self.state = if left_bytes == 0 { State::Options } else { State::Skipping { left_bytes } };
                Ok(if skipped == 0 && left_bytes > 0 { Step::NeedMore } else { Step::Consumed(skipped) })
            }
            State::Over => Err(ProtocolError::Malformed("a handshake that is over")),
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let Some(flags) = Reader::new(input).u32() else { return Ok(Step::NeedMore) };
        let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
        if flags & !known != 0 {
            return Err(ProtocolError::UnknownClientFlags(flags));
        }
        self.fixed_newstyle = flags & u32::from(wire::FLAG_FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
        self.state = State::Options;
        Ok(Step::Consumed(wire::CLIENT_FLAGS_BYTES))
    }

    fn option(
        &mut self,
        input: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, ProtocolError> {
        let mut reader = Reader::new(input);
        let Some(magic) = reader.u64() else { return Ok(Step::NeedMore) };
        if magic != wire::OPTION_MAGIC {
            return Err(ProtocolError::BadMagic { place: "an option", found: magic });
        }
        let (Some(option), Some(len_bytes)) = (reader.u32(), reader.u32()) else { return Ok(Step::NeedMore) };
        if !self.fixed_newstyle && option != wire::OPT_EXPORT_NAME {
            return Err(ProtocolError::OptionBeforeFixedNewstyle(option));
        }
        if len_bytes > OPTION_SKIP_BYTES_MAX
            || (option == wire::OPT_EXPORT_NAME && len_bytes > OPTION_BYTES_MAX)
        {
            return Err(ProtocolError::OptionTooLong { option, len_bytes });
        }
        let payload = if len_bytes > OPTION_BYTES_MAX { None } else { reader.take(len_bytes as usize) };
        if len_bytes <= OPTION_BYTES_MAX && payload.is_none() {
            return Ok(Step::NeedMore);
        }
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Err(ProtocolError::TooManyOptions(OPTIONS_MAX));
        }
        let Some(payload) = payload else {
            options::refuse(option, wire::REP_ERR_TOO_BIG, "this option is too long", out);
            self.state = State::Skipping { left_bytes: len_bytes };
            return Ok(Step::Consumed(wire::OPTION_HEADER_BYTES));
        };
        let bytes = wire::OPTION_HEADER_BYTES + payload.len();
        if option == wire::OPT_STARTTLS {
            return Ok(if self.start_tls(payload, out) {
                Step::Secured(bytes)
            } else {
                Step::Consumed(bytes)
            });
        }
        if self.tls == TlsPolicy::Required && !self.secured && option != wire::OPT_ABORT {
            return Ok(self.refuse_unsecured(option, bytes, out));
        }
        Ok(match self.answer(option, payload, exports, out) {
            None => Step::Consumed(bytes),
            Some(outcome) => Step::Over(bytes, outcome),
        })
    }

    /// Answers `NBD_OPT_STARTTLS`; tells whether the stream is TLS from here on. Nothing was agreed on before it that
    /// would have to be forgotten: other options were refused.
    fn start_tls(&mut self, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let option = wire::OPT_STARTTLS;
        if !payload.is_empty() {
            options::refuse(option, wire::REP_ERR_INVALID, "this option takes no data", out);
            return false;
        }
        match self.tls {
            TlsPolicy::Off => options::refuse(option, wire::REP_ERR_POLICY, "there is no TLS here", out),
            TlsPolicy::Required if self.secured => {
                options::refuse(option, wire::REP_ERR_INVALID, "the connection is secured already", out);
            }
            TlsPolicy::Required => {
                self.secured = true;
                options::acknowledge(option, out);
                return true;
            }
        }
        false
    }

    fn refuse_unsecured(&self, option: u32, bytes: usize, out: &mut Vec<u8>) -> Step {
        if option == wire::OPT_EXPORT_NAME {
            return Step::Over(bytes, Outcome::Closed(CloseReason::Unsecured));
        }
        options::refuse(option, wire::REP_ERR_TLS_REQD, "begin with TLS: nothing is told without it", out);
        Step::Consumed(bytes)
    }

    /// Answers one whole option; tells the outcome if that ends the handshake.
    fn answer(
        &mut self,
        option: u32,
        payload: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Option<Outcome> {
        match option {
            wire::OPT_EXPORT_NAME => return Some(self.export_name(payload, exports, out)),
            wire::OPT_ABORT => {
                options::acknowledge(option, out);
                return Some(Outcome::Closed(CloseReason::Aborted));
            }
            wire::OPT_LIST => options::list(payload, exports, out),
            wire::OPT_INFO | wire::OPT_GO => {
                let export = self.info(option, payload, exports, out);
                if option == wire::OPT_GO {
                    return export.map(|export| Outcome::Ready(Box::new(self.negotiated(export))));
                }
            }
            wire::OPT_STRUCTURED_REPLY => self.structured_reply(payload, out),
            wire::OPT_EXTENDED_HEADERS => self.extended_headers(payload, out),
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => {
                self.meta_context(option, payload, exports, out);
            }
            _ => options::refuse(option, wire::REP_ERR_UNSUP, "this server does not know this option", out),
        }
        None
    }

    fn export_name(&self, payload: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Outcome {
        let refused = |why: &str| Outcome::Closed(CloseReason::ExportRefused(why.to_owned()));
        let name = match std::str::from_utf8(payload) {
            Ok(name) if name.len() <= STRING_BYTES_MAX => name,
            Ok(_) | Err(_) => return refused("the client asked for an export whose name is malformed"),
        };
        let export = match exports.find(name) {
            Ok(export) => export,
            Err(refusal) => return refused(refusal.message()),
        };
        if export.block_sizes.minimum > 1 {
            return refused("the export has a minimum block size, which NBD_OPT_EXPORT_NAME cannot tell");
        }
        out.put_u64(export.size_bytes);
        out.put_u16(options::transmission_flags(&export, self.style));
        if !self.no_zeroes {
            out.resize(out.len() + wire::EXPORT_NAME_ZEROES_BYTES, 0);
        }
        Outcome::Ready(Box::new(self.negotiated(export)))
    }

    fn structured_reply(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let option = wire::OPT_STRUCTURED_REPLY;
        if !payload.is_empty() {
            return options::refuse(option, wire::REP_ERR_INVALID, "this option takes no data", out);
        }
        match self.style {
            HeaderStyle::Simple | HeaderStyle::Structured => {
                self.style = HeaderStyle::Structured;
                options::acknowledge(option, out);
            }
            HeaderStyle::Extended => {
                let why = "extended headers are negotiated, which include structured replies";
                options::refuse(option, wire::REP_ERR_EXT_HEADER_REQD, why, out);
            }
        }
    }

    fn extended_headers(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let option = wire::OPT_EXTENDED_HEADERS;
        if !payload.is_empty() {
            return options::refuse(option, wire::REP_ERR_INVALID, "this option takes no data", out);
        }
        self.style = HeaderStyle::Extended;
        options::acknowledge(option, out);
    }

    fn negotiated(&self, export: ExportInfo) -> Negotiated {
        let contexts = match &self.selected {
            Some(selected) if selected.export == export.name => selected.contexts.clone(),
            Some(_) | None => Vec::new(),
        };
        Negotiated { export, style: self.style, contexts }
    }
}
