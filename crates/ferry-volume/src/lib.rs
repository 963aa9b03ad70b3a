//! The volume server: one process that serves one volume.
//!
//! ```text
//!  guest ──NBD, unix socket──▶ ┌──────────── server ────────────┐ ◀──NBD, TCP── other workers (sealed volumes)
//!  agent ──JSON, control.sock─▶│  reactor (ring) ── Engine ♥    │ ──NBD, or a raw file──▶ source
//!                              └──────┬───────────────┬─────────┘
//!                                    data            map
//! ```
//!
//! The engine decides, this crate does: it moves bytes between sockets and files on one io_uring, and hands every
//! completion back to the engine. There is no async runtime here and no policy.
//!
//! Rooms: [`directory`] what lies on disk · [`control`] how an agent talks to a server · [`server`] the server ·
//! [`client`] a small blocking NBD client · [`Credentials`] TLS · [`SourceUri`] where a clone reads from.

mod abandoned;
mod base;
mod buffer;
pub mod client;
pub mod control;
mod dial;
pub mod directory;
mod extents;
mod frontend;
mod heat;
mod left;
mod lent;
mod precopy;
mod rest;
mod ring;
pub mod server;
mod source_uri;
mod store;
mod sums_file;
mod tls;
pub mod ublk;
pub mod virtio_blk;
mod writeback;

pub use base::Base;
pub use dial::DialError;
pub use frontend::{Frontend, FrontendKind, FrontendStatus};
pub use left::Left;
pub use rest::check_at_rest;
pub use ring::{IoBackend, probe_io_uring};
#[doc(hidden)]
pub use server::serve_impatiently;
pub use server::{ServeError, ServeOptions, UblkDriver, clear_devices, probe_ublk, serve};
pub use source_uri::{SourceUri, SourceUriError};
pub use store::{
    CreateOptions, LastState, REGION_BYTES_DEFAULT, REGION_BYTES_MAX, StoreError, check_direct_io, create,
    discard, last_state,
};
pub use tls::{Credentials, CredentialsError, TlsError};
