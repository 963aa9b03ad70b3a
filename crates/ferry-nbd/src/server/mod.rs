//! The server's end.
//!
//! ```text
//!  new ─greeting─▶ ClientFlags ─▶ (STARTTLS ─▶) Options ⟲ ─ GO, EXPORT_NAME ─▶ Ready(Negotiated) ─▶ decode · reply, for ever
//!                                    └────── ABORT, unknown name of EXPORT_NAME ────▶ Closed
//! ```
//!
//! A shell's loop, `input` being what it has read and not consumed:
//! ```text
//! header of negotiated.request_header_bytes() -> negotiated.decode(header)?
//!   Request{cookie, command}: take command.payload_bytes() bytes, do it, then negotiated.reply(&request).…
//!   Refused(refused):         skip refused.payload_bytes, then negotiated.refuse(&refused, &mut out)
//! ```

mod handshake;
mod options;
mod reply;
mod request;

pub use handshake::{Advance, CloseReason, Handshake, Outcome, TlsPolicy};
pub use reply::{Part, Reply};
pub use request::{Decoded, Refused, Request};

use crate::command::HeaderStyle;
use crate::export::{Context, ExportInfo};
use crate::wire;

/// What handshake and client agreed on: everything transmission needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The export.
    pub export: ExportInfo,
    /// How requests and replies look.
    pub style: HeaderStyle,
    /// The contexts that every block status must answer, each once. Empty: block status is refused.
    pub contexts: Vec<Context>,
}

impl Negotiated {
    /// Bytes of every request's header on this connection.
    pub fn request_header_bytes(&self) -> usize {
        match self.style {
            HeaderStyle::Simple | HeaderStyle::Structured => wire::REQUEST_BYTES,
            HeaderStyle::Extended => wire::EXTENDED_REQUEST_BYTES,
        }
    }

    /// Whether a read may be answered in several chunks and with holes.
    pub fn can_send_chunks(&self) -> bool {
        match self.style {
            HeaderStyle::Simple => false,
            HeaderStyle::Structured | HeaderStyle::Extended => true,
        }
    }
}
