//! The door over HTTP + JSON: the router in front of an agent, and the client behind which an agent stands.
//!
//! Every call is one path under `/v1`. A refusal is `{"code": ..., "message": ...}` with the status of its code.

mod client;
pub mod local;
mod router;
mod serve;

pub use client::{Call, Carried, Client, ClientError, Courier};
pub use router::router;
pub use serve::serve;

#[cfg(test)]
mod tests;
