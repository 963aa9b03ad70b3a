//! What is in the way of a bucket of NATS servers, and what to do about it. Pure.

use super::credentials::CredentialsError;
use ferry_gossip::Unfit;
use std::fmt;
use std::path::PathBuf;

/// Why workers cannot tell each other of themselves in a bucket. Nothing of what a file of credentials holds is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsTrouble {
    /// The file that says who the worker is cannot be used.
    Credentials(CredentialsError),
    /// A certificate, a key or the authorities' certificates cannot be read.
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// None of the servers is reached.
    Unreachable {
        /// Their URLs.
        servers: String,
        /// What the last one that was tried came to.
        why: String,
    },
    /// A server is reached, but TLS with it does not come about.
    Tls {
        /// The URLs of all that were tried.
        servers: String,
        /// What did not fit.
        why: String,
    },
    /// A server does not let this worker in.
    Denied {
        /// The URLs of all that were tried.
        servers: String,
        /// Whether a file of credentials is named.
        has_credentials: bool,
    },
    /// JetStream is off, or not for this worker's user.
    NoJetStream {
        /// The servers' URLs.
        servers: String,
    },
    /// There is no such bucket.
    Missing {
        /// Its name.
        bucket: String,
    },
    /// It does not keep facts as they are to be kept.
    Unfit {
        /// Its name.
        bucket: String,
        /// What it does instead.
        why: Unfit,
    },
    /// It cannot be looked at, read or written.
    Refused {
        /// Its name.
        bucket: String,
        /// What, and what the server said.
        why: String,
    },
    /// It was used and is not to be had any more.
    Lost {
        /// The servers' URLs.
        servers: String,
    },
}

impl NatsTrouble {
    /// What is wrong, in half a sentence.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Credentials(error) => error.what(),
            Self::File { path, cause } => format!("cannot read {}: {cause}", path.display()),
            Self::Unreachable { servers, why } => format!("cannot connect to {servers}: {why}"),
            Self::Tls { servers, why } => format!("cannot connect to {servers} over TLS: {why}"),
            Self::Denied { servers, has_credentials: true } => {
                format!("cannot connect to {servers}: this worker's credentials are not taken")
            }
            Self::Denied { servers, has_credentials: false } => {
                format!("cannot connect to {servers}: nobody is let in without credentials")
            }
            Self::NoJetStream { servers } => {
                format!("JetStream is off at {servers}, or not for this worker's user")
            }
            Self::Missing { bucket } => format!("there is no bucket {bucket}"),
            Self::Unfit { bucket, why } => format!("the bucket {bucket} is not fit for a directory: {why}"),
            Self::Refused { bucket, why } => format!("the bucket {bucket} cannot be used: {why}"),
            Self::Lost { servers } => format!("the connection to {servers} is lost"),
        }
    }

    /// What to do about it, in half a sentence; none where it is tried again and nobody needs to do anything.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        Some(match self {
            Self::Credentials(error) => error.advice(),
            Self::File { .. } => {
                "make it readable for the agent, or correct [directory] in the configuration".to_owned()
            }
            Self::Unreachable { .. } => "look whether NATS runs there and is reached from this host".to_owned(),
            Self::Tls { .. } => {
                "look whether the server offers TLS for the name that its URL has, and at `ca`, `certificate` and `key` in [directory]"
                    .to_owned()
            }
            Self::Denied { has_credentials: true, .. } => {
                "look whether the file that [directory] names as `credentials` is that of a user of these servers".to_owned()
            }
            Self::Denied { has_credentials: false, .. } => {
                "name this worker's file of them: `credentials` in [directory]".to_owned()
            }
            Self::NoJetStream { .. } => {
                "turn it on in the servers' configuration, and for the account of that user".to_owned()
            }
            Self::Missing { bucket } => format!(
                "make it: nats kv add {bucket} --history 1 --ttl 1h --max-value-size 1024 --replicas 3"
            ),
            Self::Unfit { .. } => "change it with `nats kv` or name another one".to_owned(),
            Self::Refused { .. } => {
                "look whether JetStream is well there and this worker's user may do that".to_owned()
            }
            Self::Lost { .. } => return None,
        })
    }

    /// The same with what the server complained of: that somebody may not do something it says only there.
    pub(super) fn with(self, complaint: Option<String>) -> Self {
        match (self, complaint) {
            (Self::Refused { bucket, why }, Some(said)) => {
                Self::Refused { bucket, why: format!("{why} ({said})") }
            }
            (trouble, _) => trouble,
        }
    }
}

impl fmt::Display for NatsTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.advice() {
            Some(advice) => write!(f, "{}; {advice}", self.what()),
            None => f.write_str(&self.what()),
        }
    }
}

impl std::error::Error for NatsTrouble {}

impl From<CredentialsError> for NatsTrouble {
    fn from(error: CredentialsError) -> Self {
        Self::Credentials(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_no_credentials_is_told_where_to_and_whose_are_not_taken_to_look_at_them() {
        let denied = |has_credentials| NatsTrouble::Denied { servers: "tls://a".to_owned(), has_credentials };
        assert_eq!(
            denied(false).to_string(),
            "cannot connect to tls://a: nobody is let in without credentials; name this worker's file of them: `credentials` in [directory]"
        );
        assert!(denied(true).to_string().contains("credentials are not taken; look whether the file"));
    }

    #[test]
    fn what_a_server_complained_of_is_told_only_where_something_was_refused() {
        let refused = NatsTrouble::Refused { bucket: "b".to_owned(), why: "put".to_owned() };
        let said = || Some("permissions violation".to_owned());
        assert!(refused.clone().with(said()).what().ends_with("put (permissions violation)"));
        assert!(refused.clone().with(None) == refused);
        let missing = NatsTrouble::Missing { bucket: "b".to_owned() };
        assert_eq!(missing.clone().with(said()), missing);
    }

    #[test]
    fn a_lost_connection_is_made_again_and_asks_nothing_of_anybody() {
        let lost = NatsTrouble::Lost { servers: "tls://a".to_owned() };
        assert_eq!(lost.to_string(), "the connection to tls://a is lost");
    }
}
