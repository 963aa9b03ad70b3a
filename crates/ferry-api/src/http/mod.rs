//! The door over HTTP + JSON: the router in front of an agent, and the client behind which an agent stands.
//!
//! Every call is one path under `/v1`. A refusal is `{"code": ..., "message": ...}` with the status of its code.

mod client;
mod router;

pub use client::{Client, ClientError};
pub use router::router;

#[cfg(test)]
mod tests;
