//! The table `[directory]`: in which bucket of which NATS servers the members of a cluster tell each other of themselves.
//!
//! ```toml
//! [directory]
//! nats = "tls://nats-1:4222,tls://nats-2:4222"
//! bucket = "ferry"                # which must be there; without it, this one
//! credentials = "nats.creds"      # who the worker is to the servers, in a file that only it reads
//! ca = "nats-ca.pem"              # whose servers are believed; without it, those that the host believes
//! certificate = "nats.pem"        # what is shown to servers that ask for one ...
//! key = "nats-key.pem"            # ... and its key
//! insecure = true                 # nats:// also beyond this host
//! ```

use super::{ConfigError, Place, beside};
use async_nats::ServerAddr;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// The bucket if nothing is said.
const BUCKET_DEFAULT: &str = "ferry";
/// Longest name of a bucket, in bytes.
const BUCKET_BYTES_MAX: usize = 64;
/// How many servers may be named.
const SERVERS_MAX: usize = 16;

/// A bucket of NATS servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// The servers, one of which is connected to; all over TLS, unless that was said not to be needed.
    pub servers: Vec<ServerAddr>,
    /// The bucket's name.
    pub bucket: String,
    /// Who the worker is to the servers: a file with a user's JWT and seed, a seed, or `user:password`. An absolute path.
    pub credentials: Option<PathBuf>,
    /// Certificates of the authorities whose servers are believed (PEM); the host's if none. An absolute path.
    pub ca: Option<PathBuf>,
    /// What is shown to servers that ask for a certificate: it and its key (PEM). Absolute paths.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl NatsConfig {
    /// Whether nothing is said before TLS is up.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.servers.iter().all(ServerAddr::tls_required)
    }
}

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    nats: toml::Spanned<String>,
    bucket: Option<toml::Spanned<String>>,
    credentials: Option<toml::Spanned<PathBuf>>,
    ca: Option<toml::Spanned<PathBuf>>,
    certificate: Option<toml::Spanned<PathBuf>>,
    key: Option<toml::Spanned<PathBuf>>,
    #[serde(default)]
    insecure: bool,
}

impl Section {
    /// The bucket that it means.
    pub(super) fn checked(self, place: &Place<'_>) -> Result<NatsConfig, ConfigError> {
        let servers = servers(place, &self.nats, self.insecure)?;
        let path = |given: &toml::Spanned<PathBuf>| beside(place, given);
        let certificate = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((path(certificate)?, path(key)?)),
            (None, None) => None,
            (Some(alone), None) | (None, Some(alone)) => {
                let what = "a certificate and its key go together; give both `certificate` and `key`";
                return Err(place.wrong(alone.span().start, what.to_owned()));
            }
        };
        Ok(NatsConfig {
            servers,
            bucket: bucket(place, self.bucket)?,
            credentials: self.credentials.as_ref().map(path).transpose()?,
            ca: self.ca.as_ref().map(path).transpose()?,
            certificate,
        })
    }
}

fn servers(
    place: &Place<'_>,
    given: &toml::Spanned<String>,
    insecure: bool,
) -> Result<Vec<ServerAddr>, ConfigError> {
    let wrong = |what| place.wrong(given.span().start, what);
    let urls: Vec<&str> = given.get_ref().split(',').map(str::trim).collect();
    if urls.len() > SERVERS_MAX {
        return Err(wrong(format!("{} servers are named and at most {SERVERS_MAX} allowed", urls.len())));
    }
    urls.into_iter().map(|url| server(url, insecure).map_err(wrong)).collect()
}

fn server(url: &str, insecure: bool) -> Result<ServerAddr, String> {
    // Not shown: it may hold a password.
    if url.contains('@') {
        return Err("a URL names no user and no password; put them into a file, and that into `credentials`"
            .to_owned());
    }
    let no = || format!("'{url}' is not a server; write it like tls://nats.example:4222");
    let server: ServerAddr = url.parse().map_err(|_| no())?;
    match server.scheme() {
        _ if server.host().is_empty() => Err(no()),
        "tls" => Ok(server),
        "nats" if insecure || is_loopback(server.host()) => Ok(server),
        "nats" => Err(format!(
            "{url} is not secured and beyond this host; write tls://, or `insecure = true` in [directory] if nobody else is between"
        )),
        _ => Err(no()),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn bucket(place: &Place<'_>, given: Option<toml::Spanned<String>>) -> Result<String, ConfigError> {
    let Some(given) = given else { return Ok(BUCKET_DEFAULT.to_owned()) };
    let (at, name) = (given.span().start, given.into_inner());
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    match (1..=BUCKET_BYTES_MAX).contains(&name.len()) && name.bytes().all(letter) {
        true => Ok(name),
        false => Err(place.wrong(
            at,
            format!("'{name}' is not the name of a bucket; one has 1 to {BUCKET_BYTES_MAX} letters, digits, - and _"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn read(lines: &str) -> Result<NatsConfig, String> {
        let text = format!("name = \"w1\"\nstate_dir = \"/s\"\n[directory]\n{lines}\n");
        let config = Config::parse(Path::new("/etc/ferry.toml"), &text).map_err(|error| error.to_string())?;
        Ok(config.nats.expect("there is the table"))
    }

    #[test]
    fn servers_are_enough_and_files_lie_beside_the_configuration() {
        let config = read("nats = \"tls://a:4222, tls://b\"\ncredentials = \"nats.creds\"").unwrap();
        let at: Vec<_> = config.servers.iter().map(|at| (at.host(), at.port(), at.tls_required())).collect();
        assert_eq!(at, [("a", 4222, true), ("b", 4222, true)]);
        assert_eq!((&config.bucket[..], config.is_secured()), ("ferry", true));
        assert_eq!(config.credentials, Some(PathBuf::from("/etc/nats.creds")));
    }

    #[test]
    fn a_server_beyond_this_host_is_asked_over_tls_unless_something_else_is_said() {
        for near in ["nats://127.0.0.1:4222", "nats://[::1]", "nats://localhost:1"] {
            assert!(!read(&format!("nats = \"{near}\"")).unwrap().is_secured());
        }
        let refusal = read("nats = \"tls://a,nats://b\"").unwrap_err();
        assert!(refusal.starts_with("/etc/ferry.toml:4: nats: nats://b is not secured"), "{refusal}");
        assert!(read("nats = \"nats://b\"\ninsecure = true").is_ok());
    }

    #[test]
    fn no_password_is_in_a_url_or_in_what_is_said_of_it() {
        let refusal = read("nats = \"tls://me:secret@a\"").unwrap_err();
        assert!(refusal.contains("`credentials`") && !refusal.contains("secret"), "{refusal}");
    }

    #[test]
    fn what_is_none_is_refused_with_what_would_do() {
        let many = vec!["tls://a"; SERVERS_MAX + 1].join(",");
        for (lines, says) in [
            ("bucket = \"b\"", "the field `nats` is missing"),
            ("nats = \"\"", "is not a server"),
            ("nats = \"https://a\"", "is not a server"),
            (&format!("nats = \"{many}\""), "17 servers are named"),
            ("nats = \"tls://a\"\nbucket = \"a.b\"", "is not the name of a bucket"),
            ("nats = \"tls://a\"\nkey = \"k.pem\"", "give both `certificate` and `key`"),
            ("nats = \"tls://a\"\nttl = 5", "unknown field `ttl`"),
        ] {
            let refusal = read(lines).unwrap_err();
            assert!(refusal.contains(says), "{lines}: {refusal}");
        }
    }
}
