//! NBD URIs: `nbd://host[:port]/export` and `nbd+unix:///export?socket=/path`, `nbds` for TLS (doc/uri.md of the spec).
//!
//! Invariant: `uri.to_string().parse() == Ok(uri)`.

use crate::limits::STRING_BYTES_MAX;
use crate::wire::PORT_DEFAULT;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// Where a host's name is missing, the spec says this one is meant.
const HOST_DEFAULT: &str = "localhost";

/// Bytes of a unix socket's path that the kernel takes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a server listens, and which export is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri {
    /// Where the server listens.
    pub address: Address,
    /// The export's name; may be empty.
    pub export: String,
    /// Whether the connection is secured by TLS. With which certificates is not the URI's business.
    pub tls: bool,
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
    /// The scheme is none of NBD's.
    #[error("the scheme {0:?} is not one of NBD's; write nbd:// or nbd+unix://")]
    UnknownScheme(String),
    /// The scheme is NBD's, but we cannot connect that way.
    #[error("{0}:// is not supported; serve over TCP or a unix socket and write nbd:// or nbd+unix://")]
    UnsupportedScheme(String),
    /// There is a `user@`, which means something only with pre-shared keys.
    #[error("an NBD URI without pre-shared keys has no user; leave out the part before the @")]
    User,
    /// There is a `#`.
    #[error("an NBD URI has no #fragment; write %23 for a # in a name")]
    Fragment,
    /// A `%` is not followed by two hexadecimal digits.
    #[error("a % in an NBD URI must be followed by two hexadecimal digits; write %25 for a %")]
    Percent,
    /// The host's name is malformed.
    #[error("{0:?} is not a host; write a name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    /// The port is malformed.
    #[error("{0:?} is not a port; write a number from 1 to 65535")]
    Port(String),
    /// The export's name is not UTF-8.
    #[error("the export's name is not UTF-8")]
    ExportNotUtf8,
    /// The export's name is too long.
    #[error("the export's name is {0} bytes long; NBD allows 4096")]
    ExportTooLong(usize),
    /// `nbd+unix` without a socket.
    #[error("nbd+unix:// needs the socket's path: nbd+unix:///export?socket=/path")]
    NoSocket,
    /// `nbd+unix` with a host.
    #[error("nbd+unix:// takes no host; write three slashes: nbd+unix:///export?socket=/path")]
    HostWithSocket,
    /// The socket's path cannot be one.
    #[error("{0:?} cannot be a socket's path: it is empty, holds a NUL, or is longer than 107 bytes")]
    SocketPath(PathBuf),
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UriError::NotAUri(text.to_owned()))?;
        let scheme = scheme.to_ascii_lowercase();
        let (unix, tls) = match scheme.as_str() {
            "nbd" => (false, false),
            "nbds" => (false, true),
            "nbd+unix" => (true, false),
            "nbds+unix" => (true, true),
            "nbd+vsock" | "nbds+vsock" | "nbd+ssh" | "nbds+ssh" => {
                return Err(UriError::UnsupportedScheme(scheme));
            }
            _ => return Err(UriError::UnknownScheme(scheme)),
        };
        if rest.contains('#') {
            return Err(UriError::Fragment);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(UriError::User);
        }
        let address = if unix {
            if !authority.is_empty() {
                return Err(UriError::HostWithSocket);
            }
            Address::Unix { socket: parse_socket(query)? }
        } else {
            parse_authority(authority)?
        };
        let export = String::from_utf8(percent_decoded(path)?).map_err(|_| UriError::ExportNotUtf8)?;
        if export.len() > STRING_BYTES_MAX {
            return Err(UriError::ExportTooLong(export.len()));
        }
        Ok(Uri { address, export, tls })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        match &self.address {
            Address::Tcp { host, port } => {
                if host.contains(':') {
                    write!(f, "://[{}]", Percent { bytes: host.as_bytes(), also: b":" })?;
                } else {
                    write!(f, "://{}", Percent { bytes: host.as_bytes(), also: b"" })?;
                }
                if *port != PORT_DEFAULT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{}", Percent { bytes: self.export.as_bytes(), also: b"/@:" })
            }
            Address::Unix { socket } => {
                let export = Percent { bytes: self.export.as_bytes(), also: b"/@:" };
                let socket = Percent { bytes: socket.as_os_str().as_bytes(), also: b"/" };
                write!(f, "+unix:///{export}?socket={socket}")
            }
        }
    }
}

/// The socket of a query. Other parameters are ignored, as the spec wants.
fn parse_socket(query: &str) -> Result<PathBuf, UriError> {
    let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    let (_, path) = parameters.find(|(key, _)| *key == "socket").ok_or(UriError::NoSocket)?;
    let bytes = percent_decoded(path)?;
    let possible = !bytes.is_empty() && bytes.len() <= SOCKET_PATH_BYTES_MAX && !bytes.contains(&0);
    let socket = PathBuf::from(OsString::from_vec(bytes));
    if possible { Ok(socket) } else { Err(UriError::SocketPath(socket)) }
}

fn parse_authority(authority: &str) -> Result<Address, UriError> {
    let no_host = || UriError::Host(authority.to_owned());
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(no_host)?;
            let host = decoded_host(host, authority)?;
            if !is_ipv6(&host) {
                return Err(no_host());
            }
            let port = if after.is_empty() { "" } else { after.strip_prefix(':').ok_or_else(no_host)? };
            (host, port)
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = if host.is_empty() { HOST_DEFAULT.to_owned() } else { decoded_host(host, authority)? };
            if host.contains(':') {
                return Err(no_host());
            }
            (host, port)
        }
    };
    let port = match port {
        "" => PORT_DEFAULT,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => return Err(UriError::Port(digits.to_owned())),
        },
        other => return Err(UriError::Port(other.to_owned())),
    };
    Ok(Address::Tcp { host, port })
}

fn decoded_host(text: &str, authority: &str) -> Result<String, UriError> {
    let no_host = || UriError::Host(authority.to_owned());
    let host = String::from_utf8(percent_decoded(text)?).map_err(|_| no_host())?;
    let strange = |c: char| c.is_control() || c.is_whitespace() || "/?#[]@\\".contains(c);
    if host.is_empty() || host.contains(strange) { Err(no_host()) } else { Ok(host) }
}

/// Whether it looks like an IPv6 address, perhaps with a zone. The system's resolver judges the rest.
fn is_ipv6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _zone)| address);
    address.contains(':') && address.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, UriError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else { return Err(UriError::Percent) };
            decoded.push((high * 16 + low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    Ok(decoded)
}

/// Shows bytes with all but the unreserved characters of RFC 3986, and `also`, percent-encoded.
struct Percent<'a> {
    bytes: &'a [u8],
    also: &'a [u8],
}

impl fmt::Display for Percent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.bytes {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || self.also.contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Uri {
        let address = Address::Tcp { host: host.to_owned(), port };
        Uri { address, export: export.to_owned(), tls: false }
    }

    fn unix(socket: &str, export: &str) -> Uri {
        let address = Address::Unix { socket: PathBuf::from(socket) };
        Uri { address, export: export.to_owned(), tls: false }
    }

    #[test]
    fn uris_of_the_spec_are_understood() {
        for (text, meant) in [
            ("nbd://example.com", tcp("example.com", 10809, "")),
            ("nbd://example.com/", tcp("example.com", 10809, "")),
            ("nbd://example.com:/x", tcp("example.com", 10809, "x")),
            ("NBD://example.com:10810/disk%20one", tcp("example.com", 10810, "disk one")),
            ("nbd:///", tcp("localhost", 10809, "")),
            ("nbd://[::1]:7000/V@3", tcp("::1", 7000, "V@3")),
            ("nbd://[fe80::1%25eth0]//abs", tcp("fe80::1%eth0", 10809, "/abs")),
            ("nbd://10.0.0.1/a?tls-hostname=x", tcp("10.0.0.1", 10809, "a")),
            ("nbd+unix:///?socket=/run/a.sock", unix("/run/a.sock", "")),
            ("nbd+unix://?socket=/run/a.sock", unix("/run/a.sock", "")),
            ("nbd+unix:///x?a=b&socket=/run/a%26b", unix("/run/a&b", "x")),
            ("nbds://10.0.0.1/a", Uri { tls: true, ..tcp("10.0.0.1", 10809, "a") }),
            ("nbds+unix:///?socket=/s", Uri { tls: true, ..unix("/s", "") }),
        ] {
            assert_eq!(text.parse(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_its_reason() {
        let parse = |text: &str| text.parse::<Uri>().unwrap_err();
        assert_eq!(parse("/some/file"), UriError::NotAUri("/some/file".to_owned()));
        assert_eq!(parse("http://x/"), UriError::UnknownScheme("http".to_owned()));
        assert_eq!(parse("nbds+ssh://x/"), UriError::UnsupportedScheme("nbds+ssh".to_owned()));
        assert_eq!(parse("nbd+vsock://2/"), UriError::UnsupportedScheme("nbd+vsock".to_owned()));
        assert_eq!(parse("nbd://me@x/"), UriError::User);
        assert_eq!(parse("nbd://x/a#b"), UriError::Fragment);
        assert_eq!(parse("nbd://x/%4"), UriError::Percent);
        assert_eq!(parse("nbd://x/%zz"), UriError::Percent);
        assert_eq!(parse("nbd://x/%ff"), UriError::ExportNotUtf8);
        assert_eq!(parse("nbd://x:0/"), UriError::Port("0".to_owned()));
        assert_eq!(parse("nbd://x:65536/"), UriError::Port("65536".to_owned()));
        assert_eq!(parse("nbd://x:+1/"), UriError::Port("+1".to_owned()));
        assert_eq!(parse("nbd://::1/"), UriError::Port(":1".to_owned()));
        assert_eq!(parse("nbd://[::1/"), UriError::Host("[::1".to_owned()));
        assert_eq!(parse("nbd://[x]/"), UriError::Host("[x]".to_owned()));
        assert_eq!(parse("nbd+unix:///x"), UriError::NoSocket);
        assert_eq!(parse("nbd+unix://host/x?socket=/s"), UriError::HostWithSocket);
        assert_eq!(parse("nbd+unix:///x?socket="), UriError::SocketPath(PathBuf::new()));
        let long = format!("nbd://x/{}", "a".repeat(STRING_BYTES_MAX + 1));
        assert_eq!(parse(&long), UriError::ExportTooLong(STRING_BYTES_MAX + 1));
    }

    #[test]
    fn a_volume_at_a_generation_is_shown_as_one_writes_it() {
        let uri = tcp("::1", 7000, "01J9ZZZZZZZZZZZZZZZZZZZZZZ@3");
        assert_eq!(uri.to_string(), "nbd://[::1]:7000/01J9ZZZZZZZZZZZZZZZZZZZZZZ@3");
        assert_eq!(unix("/run/a b.sock", "").to_string(), "nbd+unix:///?socket=/run/a%20b.sock");
    }
}
