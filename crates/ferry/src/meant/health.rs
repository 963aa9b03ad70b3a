//! The table `[health]` of a machine's file.

use ferry_api::{HealthCheck, HttpUrl, Probe};
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::machine_file::{span, span_text};

/// A health check as a person writes it down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthInFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<NonZeroU16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpUrl>,
    #[serde(default, deserialize_with = "some_span", serialize_with = "some_span_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<Duration>,
    #[serde(default, deserialize_with = "some_span", serialize_with = "some_span_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failures: Option<NonZeroU32>,
    #[serde(default, deserialize_with = "some_span", serialize_with = "some_span_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    start_period: Option<Duration>,
}

impl HealthInFile {
    /// The check that is meant.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn check(self) -> Result<HealthCheck, &'static str> {
        let probe = match (self.command, self.tcp, self.http) {
            (Some(words), None, None) if words.is_empty() => {
                return Err("command is empty; write the program and its arguments");
            }
            (Some(words), None, None) => Probe::Command(words),
            (None, Some(port), None) => Probe::Tcp(port),
            (None, None, Some(url)) => Probe::Http(url),
            _ => return Err("give one of `command`, `tcp` and `http`"),
        };
        let plain = HealthCheck::from(probe);
        let ms = |span: Option<Duration>, otherwise| span.map_or(otherwise, in_whole_ms);
        let check = HealthCheck {
            interval_ms: ms(self.interval, plain.interval_ms),
            timeout_ms: ms(self.timeout, plain.timeout_ms),
            failures: self.failures.unwrap_or(plain.failures),
            start_period_ms: ms(self.start_period, plain.start_period_ms),
            ..plain
        };
        match check.interval_ms.min(check.timeout_ms) {
            0 => Err("interval and timeout are at least 1ms"),
            _ => Ok(check),
        }
    }
}

impl From<HealthCheck> for HealthInFile {
    fn from(check: HealthCheck) -> Self {
        let (mut command, mut tcp, mut http) = (None, None, None);
        match check.probe {
            Probe::Command(words) => command = Some(words),
            Probe::Tcp(port) => tcp = Some(port),
            Probe::Http(url) => http = Some(url),
        }
        Self {
            command,
            tcp,
            http,
            interval: Some(Duration::from_millis(check.interval_ms)),
            timeout: Some(Duration::from_millis(check.timeout_ms)),
            failures: Some(check.failures),
            start_period: Some(Duration::from_millis(check.start_period_ms)),
        }
    }
}

fn in_whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn some_span<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    span(from).map(Some)
}

fn some_span_text<S: serde::Serializer>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    span_text(&span.unwrap_or_default(), to)
}
