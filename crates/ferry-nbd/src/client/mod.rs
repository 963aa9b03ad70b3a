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

mod facts;
mod handshake;
mod pending;
mod reply;
mod request;

pub use handshake::{Advance, Handshake, HandshakeError, Outcome, Wanted};
pub use reply::{Event, Failure, Progress};
pub use request::RequestError;

use crate::command::HeaderStyle;
use crate::export::{Context, ExportInfo};
use pending::Pending;
use reply::Status;
use std::collections::BTreeMap;

/// One connection in transmission.
///
/// Invariant: a cookie is in `pending` from its request to its [`Event::Done`], and never twice.
#[derive(Clone, Debug)]
pub struct Session {
    export: ExportInfo,
    style: HeaderStyle,
    contexts: Vec<Context>,
    can_send_df: bool,
    pending: BTreeMap<u64, Pending>,
    /// A request whose last chunk was told and whose `Done` was not.
    due: Option<u64>,
    /// A block status chunk of which not everything has arrived.
    status: Option<Status>,
}

impl Session {
    fn new(export: ExportInfo, style: HeaderStyle, contexts: Vec<Context>, can_send_df: bool) -> Session {
        let pending = BTreeMap::new();
        Session { export, style, contexts, can_send_df, pending, due: None, status: None }
    }

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
        self.pending.len()
    }
}
