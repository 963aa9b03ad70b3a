//! The client's end.
//!
//! A shell's loop in transmission, `input` being what it has read and not consumed:
//! ```text
//! loop {
//!     let progress = session.advance(input)?;  drop progress.consumed bytes of input
//!     match progress.event {
//!         None                                     => read more into input, or go and wait
//!         Data{cookie, range}                      => the next range.len_bytes() bytes of the stream are payload: take
//!                                                     what input holds of it, receive the rest in place, then go on
//!         Hole{..} | BlockStatus{..}               => note it
//!         Done{cookie, result}                     => the one and only end of that request
//!     }
//! }
//! ```
//! After a payload call [`Session::advance`] again also with an empty input: the `Done` of that request may be due
//! without another byte from the server.

mod handshake;
mod reply;
mod request;

pub use handshake::{Advance, Handshake, HandshakeError, Outcome, Wanted};
pub use reply::{Event, Failure, Progress};
pub use request::RequestError;

use crate::command::HeaderStyle;
use crate::export::{Context, ExportInfo};

/// One connection in transmission.
#[derive(Clone, Debug)]
pub struct Session {
    export: ExportInfo,
    style: HeaderStyle,
    contexts: Vec<Context>,
}

impl Session {
    /// What the server told about the export.
    pub fn export(&self) -> &ExportInfo {
        &self.export
    }

    /// How requests and replies look.
    pub fn style(&self) -> HeaderStyle {
        self.style
    }

    /// The contexts that were granted. Empty: there is no block status on this connection.
    pub fn contexts(&self) -> &[Context] {
        &self.contexts
    }

    /// The number of a granted context.
    pub fn context_id(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|context| context.name == name).map(|context| context.id)
    }

    /// Requests without a `Done` so far.
    pub fn in_flight(&self) -> usize {
        todo!()
    }
}
