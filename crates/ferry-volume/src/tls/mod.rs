//! TLS between volume servers, and between them and any other NBD server or client: rustls, always mutual, 1.3 only.
//!
//! ```text
//!  credentials ─▶ Session ── open:  records in place ─▶ plaintext        (the reactor's streams, server/secure.rs)
//!                         └─ seal:  plaintext ─▶ records                 (the blocking wire, wire.rs)
//! ```
//!
//! A [`Session`] has no buffers of its own and does no I/O: it works in those of whoever owns the socket.

mod credentials;
mod wire;

pub(crate) use credentials::identity;
pub use credentials::{Credentials, CredentialsError};
pub(crate) use wire::Wire;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

/// Longest record on the wire, in bytes: RFC 8446, section 5.2.
pub(crate) const RECORD_BYTES_MAX: usize = 5 + 16384 + 256;
/// Most plaintext in a record, in bytes: RFC 8446, section 5.1.
pub(crate) const PLAINTEXT_BYTES_MAX: usize = 16384;
/// What sealing adds to a record, in bytes, with each cipher of TLS 1.3: header, content type, tag.
const SEAL_BYTES: usize = 5 + 1 + 16;

/// Room for what may come before it: a change of keys, ours or asked for, each a record of 27 bytes.
const KEY_UPDATES_BYTES: usize = 64;

/// Why a connection cannot be secured, or is no longer.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The other side, or what came from it, is not accepted.
    #[error("the connection is not secure: {0}; look at both sides' certificates")]
    Refused(#[from] rustls::Error),
    /// A host's name that no certificate can bear.
    #[error(
        "{0:?} is not a name that a certificate can bear; write the source's host as its certificate does"
    )]
    Host(String),
    /// Whoever came is believed, and is not whom the volume is exported for.
    #[error("the volume is not exported for {0}; it is read by the worker that it moves to, while it does")]
    NotForYou(String),
    /// The session has sealed as much as its keys allow.
    #[error("the connection's keys are used up; it must be made anew")]
    Exhausted,
}

/// One connection's keys and handshake.
pub(crate) enum Session {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// How far a look at what came in got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Bytes at the beginning of the input that are done with.
    pub(crate) consumed: usize,
    pub(crate) then: Then,
}

/// What follows a look at what came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Look again: there may be more.
    Again,
    /// Nothing more without more input; plaintext cannot be sealed yet.
    Handshake,
    /// Nothing more without more input.
    Ready,
    /// The other side has taken its leave.
    Closed,
}

impl Session {
    pub(crate) fn client(credentials: &Credentials, host: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let connection = UnbufferedClientConnection::new(credentials.as_client(), name)?;
        Ok(Self::Client(Box::new(connection)))
    }

    pub(crate) fn server(credentials: &Credentials) -> Result<Self, TlsError> {
        let connection = UnbufferedServerConnection::new(credentials.as_server())?;
        Ok(Self::Server(Box::new(connection)))
    }

    /// Whether plaintext cannot be sealed yet.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        match self {
            Self::Client(connection) => connection.is_handshaking(),
            Self::Server(connection) => connection.is_handshaking(),
        }
    }

    /// Who the other side is, as its certificate says; nobody before the handshake has ended, or if that names no one.
    pub(crate) fn peer(&self) -> Option<String> {
        let chain = match self {
            Self::Client(connection) => connection.peer_certificates(),
            Self::Server(connection) => connection.peer_certificates(),
        };
        chain.and_then(|chain| chain.first()).and_then(identity)
    }

    /// Opens at most one record of plaintext at the beginning of `input`. `take` gets it; what must be sent (the
    /// handshake, alerts) is appended to `answer`, also when the end is an error.
    ///
    /// # Errors
    /// The other side is not who it should be, or its bytes are not what it sent. The connection must end.
    pub(crate) fn open(
        &mut self,
        input: &mut [u8],
        answer: &mut Vec<u8>,
        take: impl FnMut(&[u8]),
    ) -> Result<Opened, TlsError> {
        match self {
            Self::Client(connection) => step(connection.process_tls_records(input), answer, take),
            Self::Server(connection) => step(connection.process_tls_records(input), answer, take),
        }
    }

    /// Seals `plaintext` into records in `to`; gives how many bytes they take, at most [`sealed_bytes_max`].
    ///
    /// # Errors
    /// The session's keys are used up. Never before the handshake has ended.
    pub(crate) fn seal(&mut self, plaintext: &[u8], to: &mut [u8]) -> Result<usize, TlsError> {
        match self {
            Self::Client(connection) => seal(connection.process_tls_records(&mut []).state, plaintext, to),
            Self::Server(connection) => seal(connection.process_tls_records(&mut []).state, plaintext, to),
        }
    }
}

/// The most bytes that so much plaintext takes once it is sealed.
pub(crate) const fn sealed_bytes_max(plaintext_bytes: usize) -> usize {
    plaintext_bytes + plaintext_bytes.div_ceil(PLAINTEXT_BYTES_MAX) * SEAL_BYTES + KEY_UPDATES_BYTES
}

fn step<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    answer: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
) -> Result<Opened, TlsError> {
    let UnbufferedStatus { mut discard, state } = status;
    let then = match state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                take(record.payload);
            }
            Then::Again
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let at = answer.len();
            let written = match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(needed)) => {
                    answer.resize(at + needed.required_size, 0);
                    data.encode(&mut answer[at..]).unwrap_or(0)
                }
                Ok(_) | Err(EncodeError::AlreadyEncoded) => 0,
            };
            answer.truncate(at + written);
            Then::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Then::Again
        }
        ConnectionState::BlockedHandshake => Then::Handshake,
        ConnectionState::WriteTraffic(_) => Then::Ready,
        // Early data is never accepted (`max_early_data_size` is 0), nor are states of a later rustls.
        ConnectionState::PeerClosed | ConnectionState::Closed | ConnectionState::ReadEarlyData(_) | _ => {
            Then::Closed
        }
    };
    Ok(Opened { consumed: discard, then })
}

fn seal<Side>(
    state: Result<ConnectionState<'_, '_, Side>, rustls::Error>,
    plaintext: &[u8],
    to: &mut [u8],
) -> Result<usize, TlsError> {
    // `open` leaves nothing behind, so that anything else is the end of the session.
    let ConnectionState::WriteTraffic(mut traffic) = state? else { return Err(TlsError::Exhausted) };
    traffic.encrypt(plaintext, to).map_err(|error| match error {
        EncryptError::EncryptExhausted => TlsError::Exhausted,
        EncryptError::InsufficientSize(needed) => {
            panic!("a record of {} bytes must fit into {}", needed.required_size, to.len())
        }
    })
}

#[cfg(test)]
mod tests;
