//! Requests: headers appended to a buffer. Payloads of writes follow by the shell.

use crate::client::Session;
use crate::command::Command;
use thiserror::Error;

/// Why a request cannot be sent. Nothing was appended, the session is as before.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// A request with this cookie is in flight.
    #[error("request {0:#x} is already in flight")]
    CookieInUse(u64),
    /// Too many are in flight.
    #[error("{0} requests are in flight already; wait for one of them")]
    TooManyInFlight(usize),
    /// The range leaves the export.
    #[error("bytes up to {end} are beyond the export's {size_bytes}")]
    BeyondEnd {
        /// Where the range ends.
        end: u64,
        /// Where the export ends.
        size_bytes: u64,
    },
    /// The range is no multiple of the server's minimum block size.
    #[error("the range is not aligned to the server's minimum block size of {minimum_bytes} bytes")]
    Unaligned {
        /// The server's minimum.
        minimum_bytes: u32,
    },
    /// The range is longer than the server takes.
    #[error("{len_bytes} bytes are more than the {max_bytes} that one such request may be about")]
    TooLong {
        /// The range's length.
        len_bytes: u64,
        /// The most that may be.
        max_bytes: u64,
    },
    /// The server did not offer it.
    #[error("the server does not offer {0} on this export")]
    NotOffered(&'static str),
}

impl Session {
    /// Appends the header of a request to `out` and remembers it until its [`super::Event::Done`]. The payload of a
    /// write follows by the shell.
    pub fn request(
        &mut self,
        _cookie: u64,
        _command: Command,
        _out: &mut Vec<u8>,
    ) -> Result<(), RequestError> {
        todo!()
    }

    /// The longest range of a command other than read and write on this connection, in bytes.
    pub fn range_bytes_max(&self) -> u64 {
        todo!()
    }
}
