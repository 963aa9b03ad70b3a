//! NBD: both ends of a connection, and URIs.

pub mod client;
mod pieces;
pub mod server;
pub mod uri;
