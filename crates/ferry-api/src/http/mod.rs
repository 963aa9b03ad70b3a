//! The door over HTTP + JSON: the router in front of an agent, and the client behind which an agent stands.
//!
//! Every call is one path under `/v1`. A refusal is `{"code": ..., "message": ...}` with the status of its code.
//!
//! ```text
//!  client ─ wire ─▶ TCP · TLS · unix socket ─▶ entrance ─▶ serve ─▶ admit (who asks, may they?) ─▶ router ─▶ AgentApi
//! ```

mod admit;
mod client;
mod courier;
mod entrance;
pub mod local;
mod router;
mod serve;
mod stream;
mod table;
mod tls;
mod wire;

pub use admit::{Asks, CallerAddress};
pub use client::{Client, ClientError};
pub use courier::{Call, Carried, Courier};
pub use entrance::Entrance;
pub use router::router;
pub use serve::serve;
pub use stream::Stream;
pub use tls::{AuthorityError, ClientTls, ServerTls};

#[cfg(test)]
mod tests;
