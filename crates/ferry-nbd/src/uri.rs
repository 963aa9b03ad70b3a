//! NBD URIs: `nbd://host[:port]/export` and `nbd+unix:///export?socket=/path` (doc/uri.md of the spec).
//!
//! Invariant: `uri.to_string().parse() == Ok(uri)`.

use std::path::PathBuf;
use thiserror::Error;

/// Where a server listens, and which export is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri {
    /// Where the server listens.
    pub address: Address,
    /// The export's name; may be empty.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp {
        /// A name or an address (IPv6 without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        socket: PathBuf,
    },
}

/// Why a text is no NBD URI for us.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UriError {
    /// There is no `scheme://`.
    #[error("{0:?} is not an NBD URI; write nbd://host[:port]/export or nbd+unix:///export?socket=/path")]
    NotAUri(String),
}

impl std::str::FromStr for Uri {
    type Err = UriError;

    fn from_str(_text: &str) -> Result<Uri, UriError> {
        todo!()
    }
}

impl std::fmt::Display for Uri {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
