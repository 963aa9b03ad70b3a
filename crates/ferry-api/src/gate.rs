//! Who asks, and what they may ask for.
//!
//! A [`Gate`] knows whom to believe: it is given what a caller shows, and says who that is. What a call asks of its
//! caller stands beside its path, in [`crate::http::router`].

use crate::{ApiError, WorkerName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a person or a program may do; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything, change nothing.
    View,
    /// Run what is there: start, stop, move, drain, pace.
    Operate,
    /// Decide what is there: create, destroy, delete, give up data.
    Admin,
}

/// Why a text is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no role; choose view, operate or admin")]
pub struct RoleError(pub String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "view" => Ok(Self::View),
            "operate" => Ok(Self::Operate),
            "admin" => Ok(Self::Admin),
            _ => Err(RoleError(text.to_owned())),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Admin => "admin",
        })
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reaches the agent of a worker that belongs to no cluster. May do everything.
    Anybody,
    /// Whoever may open the agent's socket on its own host. May do everything but what workers ask of each other.
    Local,
    /// Another worker of the cluster. May ask what workers ask of each other, and look at everything.
    Worker(WorkerName),
    /// Whoever has a token.
    Token {
        /// What the token was called when it was made.
        name: String,
        /// What it is good for.
        role: Role,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Local => f.write_str("this host"),
            Self::Worker(name) => write!(f, "worker {name}"),
            Self::Token { name, role } => write!(f, "the token {name} ({role})"),
        }
    }
}

/// What a caller shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented<'a> {
    /// The certificate (DER) with which its connection was made; its chain and its dates were good then.
    Certificate(&'a [u8]),
    /// The text of a token.
    Token(&'a str),
}

/// Knows whom to believe.
pub trait Gate: Send + Sync + 'static {
    /// Says who shows that. Asked at every call, so that who is believed no longer is refused on open connections, too.
    ///
    /// # Errors
    /// `Unauthenticated`, with what is wrong with it.
    fn admit(&self, presented: Presented<'_>) -> Result<Caller, ApiError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_as_it_is_written() {
        for role in [Role::View, Role::Operate, Role::Admin] {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        }
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("choose view"));
    }
}
