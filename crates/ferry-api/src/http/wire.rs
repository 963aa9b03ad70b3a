//! How a client reaches an agent: HTTP over TCP, over TLS, or over a unix socket.

use super::stream::Stream;
use super::tls::ClientTls;
use axum::body::{Body, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, Request, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::error::Error;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tower_service::Service;

/// How long connecting may take, and then securing the connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the other side may be silent on the TCP level before the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How many times the other side is asked for a sign of life in that time, after it has been silent for a while.
const PROBES: u32 = 3;
/// For how long a connection is kept that nobody uses: shorter than servers wait for the next call.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// Which way an agent is reached.
#[derive(Clone, Debug)]
pub enum Way {
    Tcp,
    Tls(ClientTls),
    Unix(PathBuf),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// Nobody listens, or nobody in time.
    Unconnected(String),
    /// It took too long.
    TooLate,
    /// The two sides do not accept each other's certificates.
    Refused(String),
    /// The connection broke, or what came over it is no HTTP.
    Broken(String),
}

/// Carries requests to one agent. Connections are kept and used again.
#[derive(Clone, Debug)]
pub struct Http {
    way: Way,
    token: Option<HeaderValue>,
    /// With how often the way's certificates had been replaced when it was made.
    pool: Arc<Mutex<(u64, Pool)>>,
}

type Pool = legacy::Client<Connector, Body>;

impl Http {
    pub fn new(way: Way) -> Self {
        let (connector, replaced) = Connector::by(&way);
        Self { way, token: None, pool: Arc::new(Mutex::new((replaced, pool(connector)))) }
    }

    /// The same, and each request bears the token.
    pub fn with_token(mut self, mut token: HeaderValue) -> Self {
        token.set_sensitive(true);
        self.token = Some(token);
        self
    }

    /// Another agent is reached the same way, with the same token.
    pub fn anew(&self) -> Self {
        Self { token: self.token.clone(), ..Self::new(self.way.clone()) }
    }

    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Sends a request with a body of JSON or none; gives the answer's status and body.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<Vec<u8>>,
        within: Option<Duration>,
    ) -> Result<(u16, Vec<u8>), Unanswered> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, Body::from);
        let request = request.body(body).map_err(|e| Unanswered::Broken(e.to_string()))?;
        let answered = self.answered(request);
        match within {
            Some(within) => timeout(within, answered).await.unwrap_or(Err(Unanswered::TooLate)),
            None => answered.await,
        }
    }

    async fn answered(&self, request: Request<Body>) -> Result<(u16, Vec<u8>), Unanswered> {
        let pool = self.current();
        let response = pool.request(request).await.map_err(|e| why(&e, e.is_connect()))?;
        let status = response.status().as_u16();
        let body = to_bytes(Body::new(response.into_body()), usize::MAX).await;
        Ok((status, body.map_err(|e| why(&e, false))?.to_vec()))
    }

    /// The pool, made anew if the certificates were replaced.
    fn current(&self) -> Pool {
        let mut pooled = self.pool.lock().expect("nobody panics while he holds it");
        if let Way::Tls(tls) = &self.way
            && tls.replaced() != pooled.0
        {
            let (connector, replaced) = Connector::by(&self.way);
            *pooled = (replaced, pool(connector));
        }
        pooled.1.clone()
    }
}

fn pool(connector: Connector) -> Pool {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector)
}

/// What the causes of an error tell.
fn why(error: &(dyn Error + 'static), connecting: bool) -> Unanswered {
    let mut cause = error;
    loop {
        let io = cause.downcast_ref::<io::Error>();
        let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn Error + 'static));
        if let Some(tls) = inner.unwrap_or(cause).downcast_ref::<rustls::Error>() {
            return Unanswered::Refused(tls.to_string());
        }
        if io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) && connecting {
            return Unanswered::TooLate;
        }
        match cause.source().or(inner) {
            Some(next) => cause = next,
            None if connecting => return Unanswered::Unconnected(cause.to_string()),
            None => return Unanswered::Broken(cause.to_string()),
        }
    }
}

/// Makes connections.
#[derive(Clone, Debug)]
enum Connector {
    Tcp(HttpConnector),
    Tls(HttpConnector, ClientTls),
    Unix(PathBuf),
}

impl Connector {
    fn by(way: &Way) -> (Self, u64) {
        match way {
            Way::Tcp => (Self::Tcp(tcp()), 0),
            Way::Tls(tls) => (Self::Tls(tcp(), tls.clone()), tls.replaced()),
            Way::Unix(path) => (Self::Unix(path.clone()), 0),
        }
    }
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(SILENCE_MAX / (PROBES + 1)));
    tcp.set_keepalive_interval(Some(SILENCE_MAX / (PROBES + 1)));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp
}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, Box<dyn Error + Send + Sync>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Connecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Tcp(tcp) | Self::Tls(tcp, _) => tcp.poll_ready(cx).map_err(Into::into),
            Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, to: Uri) -> Connecting {
        match self {
            Self::Tcp(tcp) => {
                let connecting = tcp.call(to);
                Box::pin(async move { Ok(TokioIo::new(Stream::Tcp(connecting.await?.into_inner()))) })
            }
            Self::Tls(tcp, tls) => {
                let host = to.host().unwrap_or_default().to_owned();
                let (connecting, tls) = (tcp.call(to), tls.clone());
                Box::pin(async move {
                    let securing = tls.secure(&host, connecting.await?.into_inner());
                    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
                    Ok(TokioIo::new(timeout(CONNECT_TIMEOUT, securing).await.map_err(late)??))
                })
            }
            Self::Unix(path) => {
                let path = path.clone();
                Box::pin(async move { Ok(TokioIo::new(Stream::Unix(UnixStream::connect(path).await?))) })
            }
        }
    }
}
