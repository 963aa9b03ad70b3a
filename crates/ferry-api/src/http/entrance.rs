//! Where callers come in, and what is known of whoever comes in there.

use super::admit::{CallerAddress, Presence, Remote};
use super::stream::Stream;
use super::tls::ServerTls;
use crate::Gate;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

/// How long a caller may take to secure its connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections are being secured at once; others wait.
const HANDSHAKES_MAX: usize = 256;
/// Pause after a connection could not be taken, which is most often because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// One place where callers come in.
pub enum Entrance {
    /// Whoever reaches it may ask for everything: of an agent that belongs to no cluster.
    Open(TcpListener),
    /// Whoever may open the socket is the administrator of this host.
    Local(UnixListener),
    /// Whoever comes has to show something that `gate` believes.
    Secured {
        /// Where it listens.
        listener: TcpListener,
        /// What it shows, and whose certificates it verifies.
        tls: ServerTls,
        /// Who says who a caller is.
        gate: Arc<dyn Gate>,
    },
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(listener) => write!(f, "open at {:?}", listener.local_addr()),
            Self::Local(listener) => write!(f, "local at {:?}", listener.local_addr()),
            Self::Secured { listener, .. } => write!(f, "secured at {:?}", listener.local_addr()),
        }
    }
}

/// A connection that can be spoken over.
pub struct Arrived {
    pub stream: Stream,
    pub presence: Presence,
    pub address: Option<CallerAddress>,
}

impl Entrance {
    /// Takes connections for ever, and hands them on once they are secured.
    pub async fn let_in(self, to: mpsc::Sender<Arrived>) {
        match self {
            Self::Open(listener) => loop {
                match listener.accept().await {
                    Ok((stream, address)) => drop(to.send(open(stream, address)).await),
                    Err(error) => breathe(error).await,
                }
            },
            Self::Local(listener) => loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (stream, presence) = (Stream::Unix(stream), Presence::Local);
                        drop(to.send(Arrived { stream, presence, address: None }).await);
                    }
                    Err(error) => breathe(error).await,
                }
            },
            Self::Secured { listener, tls, gate } => {
                let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
                loop {
                    let permit = Arc::clone(&handshakes).acquire_owned().await;
                    match listener.accept().await {
                        Ok((stream, address)) => {
                            let (tls, gate, to) = (tls.clone(), Arc::clone(&gate), to.clone());
                            // One that takes its time must not keep others out.
                            tokio::spawn(async move {
                                let arrived = shake_hands(stream, address, &tls, gate).await;
                                drop(permit);
                                if let Some(arrived) = arrived {
                                    drop(to.send(arrived).await);
                                }
                            });
                        }
                        Err(error) => breathe(error).await,
                    }
                }
            }
        }
    }
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
    gate: Arc<dyn Gate>,
) -> Option<Arrived> {
    match timeout(HANDSHAKE_TIMEOUT, secure(stream, address, tls, gate)).await {
        Ok(Ok(arrived)) => return Some(arrived),
        Ok(Err(error)) => tracing::debug!(%address, %error, "a connection cannot be secured"),
        Err(_) => tracing::debug!(%address, "a connection was not secured in time"),
    }
    None
}

/// After a connection could not be taken.
async fn breathe(error: io::Error) {
    // Else whoever called has gone again.
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "a connection cannot be taken");
        sleep(ACCEPT_PAUSE).await;
    }
}

fn open(stream: TcpStream, address: SocketAddr) -> Arrived {
    at_once(&stream);
    let address = Some(CallerAddress(address.ip()));
    Arrived { stream: Stream::Tcp(stream), presence: Presence::Anybody, address }
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
    gate: Arc<dyn Gate>,
) -> io::Result<Arrived> {
    at_once(&stream);
    let stream = tls.secure(stream).await?;
    let certificate = stream.certificate().map(<[u8]>::to_vec);
    let presence = Presence::Remote(Arc::new(Remote { gate, certificate }));
    Ok(Arrived { stream, presence, address: Some(CallerAddress(address.ip())) })
}

/// Answers are small, and the caller waits for each.
fn at_once(stream: &TcpStream) {
    // A connection that cannot be told so is only slower.
    let _ = stream.set_nodelay(true);
}
