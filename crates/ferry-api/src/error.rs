//! What a worker answers when it does not do what it was asked.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Kind of a refusal, for programs; people read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong; asking again changes nothing.
    InvalidRequest,
    /// Nobody knows who asks.
    Unauthenticated,
    /// It is known who asks, and they may not.
    Forbidden,
    /// No such machine, volume, job or call.
    NotFound,
    /// No worker of that name is configured here.
    UnknownWorker,
    /// The name or id is in use.
    AlreadyExists,
    /// Another job holds the machine or volume.
    Busy,
    /// It cannot be done as things stand (wrong state or order).
    Conflict,
    /// Ownership was handed over to another worker at a generation; this worker must not touch it any more.
    HandedOver,
    /// The worker has not enough room.
    NoRoom,
    /// A source is not there, or is not what was said.
    BadSource,
    /// The two sides speak different versions.
    VersionMismatch,
    /// The worker is starting, stopping or lost its records; ask again later.
    Unavailable,
    /// The other side could not be reached; nobody knows whether the request arrived.
    Unreachable,
    /// Something failed inside the worker; its log says more.
    Internal,
}

impl ErrorCode {
    /// The HTTP status that carries it.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::UnknownWorker => 404,
            Self::AlreadyExists | Self::Busy | Self::Conflict => 409,
            Self::HandedOver => 410,
            Self::BadSource => 422,
            Self::VersionMismatch => 426,
            Self::NoRoom => 507,
            Self::Unavailable => 503,
            Self::Unreachable => 502,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything: the other side was away or
    /// had trouble of its own, and did not refuse.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unavailable | Self::Unreachable | Self::Internal => true,
            Self::InvalidRequest
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::UnknownWorker
            | Self::AlreadyExists
            | Self::Busy
            | Self::Conflict
            | Self::HandedOver
            | Self::NoRoom
            | Self::BadSource
            | Self::VersionMismatch => false,
        }
    }
}

/// A refusal: one sentence that says what was wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Kind, for programs.
    pub code: ErrorCode,
    /// The sentence, for people.
    pub message: String,
}

impl ApiError {
    /// A refusal of kind `code` with the sentence `message`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A refusal of kind `code` that tells `error` and all its causes in one line.
    #[must_use]
    pub fn because(code: ErrorCode, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            let text = next.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = next.source();
        }
        Self { code, message }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_an_http_error() {
        for code in [ErrorCode::InvalidRequest, ErrorCode::HandedOver, ErrorCode::NoRoom, ErrorCode::Internal]
        {
            assert!(code.http_status() >= 400);
        }
    }

    #[test]
    fn causes_are_told_once_each() {
        let cause = ApiError::new(ErrorCode::Internal, "the disk is gone");
        let error = std::io::Error::other(cause);
        assert_eq!(ApiError::because(ErrorCode::Internal, &error).message, "the disk is gone");
    }
}
