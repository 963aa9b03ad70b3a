//! The NBD protocol without I/O: both ends as state machines that eat and grow bytes.
//!
//! The spec is `doc/proto.md` of NetworkBlockDevice/nbd ("proto.md" below). Nothing here opens a socket: the shell
//! reads bytes, shows them to a machine of this crate, and writes what the machine appended to a `Vec<u8>`.
//!
//! ```text
//!               server                                     client
//!   Handshake::new -> greeting                   Handshake::new(Wanted)
//!   Handshake::advance  ── Ready(Negotiated)     Handshake::advance ── Ready(Session)
//!   Negotiated::decode  ── Request | Refused     Session::request   ── header to send
//!   Negotiated::reply   ── Reply: header bytes   Session::advance   ── Data · Hole · BlockStatus · Done
//! ```
//!
//! Invariants:
//! - **Header first.** The payload of a read or a write is never handed to this crate. It only says "the next N bytes
//!   of the stream are payload", and the shell moves them once, from where they are to where they belong.
//! - **Hostile peers.** Any bytes lead to events or to an error, never to a panic, and every allocation is bounded by
//!   a constant of [`limits`].
//! - What has passed the door is right: a [`Command`] that [`server::Negotiated::decode`] let through lies within the
//!   export, is allowed there, and carries only flags that its command knows.
//!
//! Rooms: [`wire`] the spec's numbers · [`limits`] ours · [`command`] what may be asked, for both ends · [`export`]
//! what is offered · [`errno`] how it may fail · [`error`] how a peer may misbehave · [`uri`] · [`server`] · [`client`].

mod bytes;
pub mod client;
pub mod command;
pub mod errno;
pub mod error;
pub mod export;
pub mod limits;
pub mod server;
pub mod uri;
pub mod wire;

pub use command::{ByteRange, Command, HeaderStyle};
pub use errno::Errno;
pub use error::ProtocolError;
pub use export::{
    BlockSizes, CONTEXT_ALLOCATION, CONTEXT_BASE, CONTEXT_CRC32C, CONTEXT_DIRTY, CONTEXT_HEAT, Context,
    ExportInfo, ExportRefusal, Exports, Extent, STATE_CHANGED,
};
pub use uri::{Address, Uri, UriError};
