//! Connecting to an NBD server and shaking hands, over TLS where the URI says so, blocking: used by the blocking client, and on a thread of its own
//! by a volume server whose reactor must not wait for a network.

use crate::tls::{Credentials, Session as TlsSession, TlsError, Wire};
use ferry_nbd::client::{Handshake, HandshakeError, Outcome, Session, Wanted};
use ferry_nbd::{Address, Uri};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long connecting, and each answer of the handshake, may take. Not about the amount of data: a handshake is
/// a few hundred bytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody is there, or the network failed.
    #[error("cannot connect to {uri}: {cause}")]
    Connect {
        /// The server.
        uri: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The connection broke during the handshake.
    #[error("the connection to {uri} broke during the handshake: {cause}")]
    Broken {
        /// The server.
        uri: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// There is nothing to prove ourselves with.
    #[error(
        "{uri} is read over TLS, for which there are no certificates; name their directory (`tls` in the agent's \
         configuration)"
    )]
    NoCredentials {
        /// The server.
        uri: String,
    },
    /// TLS cannot begin.
    #[error("{uri} cannot be used: {cause}")]
    Tls {
        /// The server.
        uri: String,
        /// What was wrong.
        #[source]
        cause: TlsError,
    },
    /// The server and we did not agree.
    #[error("{uri} cannot be used: {cause}")]
    Handshake {
        /// The server.
        uri: String,
        /// What was wrong.
        #[source]
        cause: HandshakeError,
    },
}

/// A connection in transmission.
pub(crate) struct Dialled {
    pub(crate) wire: Wire,
    pub(crate) session: Session,
}

/// Connects to `uri` and agrees on its export, with those of the `contexts` that the server knows.
pub(crate) fn dial(
    uri: &Uri,
    contexts: &[&str],
    credentials: Option<&Credentials>,
) -> Result<Dialled, DialError> {
    let tls = tls_session(uri, credentials)?;
    let socket = connect(uri).map_err(|cause| DialError::Connect { uri: uri.to_string(), cause })?;
    let broken = |cause| DialError::Broken { uri: uri.to_string(), cause };
    let refused = |cause| DialError::Handshake { uri: uri.to_string(), cause };
    let mut wire = Wire::new(socket);
    let contexts = contexts.iter().map(|&c| c.to_owned()).collect();
    let wanted = Wanted { export: uri.export.clone(), contexts, tls: uri.tls };
    let mut tls = tls;
    let mut handshake = Handshake::new(wanted).map_err(refused)?;
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut chunk = [0; 4096];
    loop {
        let advance = handshake.advance(&input, &mut output);
        wire.write_all(&output).map_err(broken)?;
        output.clear();
        let advance = advance.map_err(refused)?;
        input.drain(..advance.consumed);
        match advance.outcome {
            Outcome::Ready(session) => {
                // A server may only speak when asked, so nothing can be left.
                if !input.is_empty() {
                    return Err(broken(io::Error::from(io::ErrorKind::InvalidData)));
                }
                // From here on an answer may take as long as the server's own source does.
                wire.set_patience(None).map_err(broken)?;
                return Ok(Dialled { wire, session: *session });
            }
            Outcome::StartTls => {
                let session = tls.take().expect("TLS begins once, and only where the URI says so");
                wire.secure(session, std::mem::take(&mut input)).map_err(broken)?;
            }
            Outcome::NeedMore => {
                let count = wire.read(&mut chunk).map_err(broken)?;
                if count == 0 {
                    return Err(refused(handshake.closed()));
                }
                input.extend_from_slice(&chunk[..count]);
            }
        }
    }
}

fn tls_session(uri: &Uri, credentials: Option<&Credentials>) -> Result<Option<TlsSession>, DialError> {
    if !uri.tls {
        return Ok(None);
    }
    let credentials = credentials.ok_or_else(|| DialError::NoCredentials { uri: uri.to_string() })?;
    let host = match &uri.address {
        Address::Tcp { host, .. } => host.as_str(),
        Address::Unix { .. } => "localhost",
    };
    let session = TlsSession::client(credentials, host);
    session.map(Some).map_err(|cause| DialError::Tls { uri: uri.to_string(), cause })
}

fn connect(uri: &Uri) -> io::Result<OwnedFd> {
    match &uri.address {
        Address::Unix { socket } => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream.into())
        }
        Address::Tcp { host, port } => {
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, ANSWER_TIMEOUT) {
                    Ok(stream) => return tune(stream),
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
    }
}

fn tune(stream: TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    notice_dead_peers(&stream)?;
    Ok(stream.into())
}

/// Lets the kernel find out that a peer vanished without a word: after 10 s of silence it asks every 5 s, and gives
/// up after 4 unanswered questions or 30 s of unacknowledged data.
pub(crate) fn notice_dead_peers(socket: impl std::os::fd::AsFd) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(&socket, 4)?;
    sockopt::set_tcp_user_timeout(&socket, 30_000)?;
    Ok(())
}
