//! Health: how a machine is asked whether it does its work, and what came of it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

const INTERVAL_MS_DEFAULT: u64 = 10_000;
const TIMEOUT_MS_DEFAULT: u64 = 5_000;
const FAILURES_DEFAULT: NonZeroU32 = NonZeroU32::new(3).expect("it is not zero");

/// How a machine is asked whether it is well, again and again while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// How long after the end of a try the next one begins, in milliseconds.
    #[serde(default = "interval_ms_default")]
    pub interval_ms: u64,
    /// How long a try may take, in milliseconds.
    #[serde(default = "timeout_ms_default")]
    pub timeout_ms: u64,
    /// So many failures in a row make it unhealthy.
    #[serde(default = "failures_default")]
    pub failures: NonZeroU32,
    /// How long after its start failures do not count yet, in milliseconds.
    #[serde(default)]
    pub start_period_ms: u64,
}

impl HealthCheck {
    /// The longest that a machine can take from its start until it is known whether it is well, in milliseconds.
    #[must_use]
    pub fn decided_within_ms(&self) -> u64 {
        let once = self.interval_ms.saturating_add(self.timeout_ms);
        self.start_period_ms.saturating_add(once.saturating_mul(u64::from(self.failures.get()) + 1))
    }
}

fn interval_ms_default() -> u64 {
    INTERVAL_MS_DEFAULT
}

fn timeout_ms_default() -> u64 {
    TIMEOUT_MS_DEFAULT
}

fn failures_default() -> NonZeroU32 {
    FAILURES_DEFAULT
}

impl From<Probe> for HealthCheck {
    fn from(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: INTERVAL_MS_DEFAULT,
            timeout_ms: TIMEOUT_MS_DEFAULT,
            failures: FAILURES_DEFAULT,
            start_period_ms: 0,
        }
    }
}

/// One try. It is made where the machine is: in its namespaces, as its user. A VM's port or URL is tried from its worker, at the VM's
/// address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A command and its arguments; well if it exits with 0.
    Command(Vec<String>),
    /// Well if the port takes a connection on 127.0.0.1.
    Tcp(NonZeroU16),
    /// Well if it answers a GET with a status from 200 to 399.
    Http(HttpUrl),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(words) => write!(f, "`{}`", words.join(" ")),
            Self::Tcp(port) => write!(f, "a connection to port {port}"),
            Self::Http(url) => write!(f, "GET {url}"),
        }
    }
}

/// A URL with `http://`, a host, and a port and a path where they differ from 80 and `/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpUrl {
    text: String,
    host: String,
    port: u16,
}

/// A text is no URL that a machine can be asked by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no URL to ask for a machine's health; write it like http://127.0.0.1:8080/health")]
pub struct HttpUrlError {
    /// What was given.
    pub text: String,
}

impl HttpUrl {
    /// Host and port.
    #[must_use]
    pub fn authority(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether its host is the machine that is asked.
    #[must_use]
    pub fn is_of_itself(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        let after = self.text.strip_prefix("http://").unwrap_or_default();
        after.find('/').map_or("/", |at| &after[at..])
    }
}

impl FromStr for HttpUrl {
    type Err = HttpUrlError;

    fn from_str(text: &str) -> Result<Self, HttpUrlError> {
        let bad = || HttpUrlError { text: text.to_owned() };
        let is_plain = text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '@' | '#'));
        let after = text.strip_prefix("http://").filter(|_| is_plain).ok_or_else(bad)?;
        let authority = after.split('/').next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            Some(_) | None => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        match host.is_empty() || host.contains('?') || port == 0 {
            true => Err(bad()),
            false => Ok(Self { text: text.to_owned(), host, port }),
        }
    }
}

impl TryFrom<String> for HttpUrl {
    type Error = HttpUrlError;

    fn try_from(text: String) -> Result<Self, HttpUrlError> {
        text.parse()
    }
}

impl From<HttpUrl> for String {
    fn from(url: HttpUrl) -> Self {
        url.text
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// How a machine that runs and has a [`HealthCheck`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "snake_case")]
pub enum Health {
    /// It is not known yet.
    Starting {
        /// Why the last try failed, if one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// It is well.
    Healthy {
        /// Since when this agent knows that, in milliseconds since 1970.
        since_ms: u64,
    },
    /// It runs and is not well.
    Unhealthy {
        /// Since when this agent knows that, in milliseconds since 1970.
        since_ms: u64,
        /// Why, in words.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_a_port_and_a_path() {
        let parts = |text: &str| {
            let url: HttpUrl = text.parse().unwrap();
            let (host, port) = url.authority();
            (host.to_owned(), port, url.path().to_owned())
        };
        assert_eq!(parts("http://localhost"), ("localhost".to_owned(), 80, "/".to_owned()));
        assert_eq!(parts("http://[::1]:8080/a?b=c"), ("::1".to_owned(), 8080, "/a?b=c".to_owned()));
        assert_eq!(parts("http://[::1]/"), ("::1".to_owned(), 80, "/".to_owned()));
        let is_of_itself = |text: &str| text.parse::<HttpUrl>().unwrap().is_of_itself();
        assert!(is_of_itself("http://localhost/") && is_of_itself("http://[::1]:1/"));
        assert!(!is_of_itself("http://10.0.0.1/") && !is_of_itself("http://example/"));
        for text in ["https://x", "x:80", "http://", "http://x:0", "http://x:y", "http://a b/", "http://u@x/"]
        {
            assert!(text.parse::<HttpUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_check_says_only_what_differs_from_the_default() {
        let check: HealthCheck = serde_json::from_str(r#"{"probe": {"tcp": 5432}}"#).unwrap();
        assert_eq!(check, Probe::Tcp(NonZeroU16::new(5432).unwrap()).into());
        assert_eq!(check.decided_within_ms(), 60_000);
    }
}
