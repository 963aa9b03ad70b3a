//! A connection to NATS servers, and the bucket there.
//!
//! What the library would do about trouble by itself is turned off, so that what is told to people is what happens.

use super::credentials;
use super::trouble::NatsTrouble;
use crate::config::NatsConfig;
use crate::host::blocking;
use crate::mutex::locked;
use async_nats::jetstream::context::{
    GetStreamError, GetStreamErrorKind, KeyValueError, RequestError, RequestErrorKind,
};
use async_nats::jetstream::kv::Store;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use ferry_gossip::Kept;
use std::error::Error;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a server may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many values wait to be read; if more do, the connection is given up and all are read anew.
const WAITING_MAX: usize = 16_384;
/// What is said of a server that does not answer in time.
pub(super) const NO_ANSWER: &str = "there is no answer";

/// A connection, and what it says of itself.
pub(super) struct Line {
    client: Client,
    config: NatsConfig,
    /// Becomes true when it is lost.
    lost: watch::Receiver<bool>,
    /// What the server last complained of.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Line {
    /// Connects to one of the servers, each of which may take that long; they know the connection by `name`.
    pub(super) async fn connect(
        config: &NatsConfig,
        name: &str,
        each_at_most: Duration,
    ) -> Result<Self, NatsTrouble> {
        let options = options(config).await?;
        let (lose, lost) = watch::channel(false);
        let complaint = Arc::new(Mutex::new(None));
        let complaints = Arc::clone(&complaint);
        let on_event = move |event| {
            match event {
                Event::Disconnected | Event::Closed | Event::SlowConsumer(_) => {
                    lose.send_replace(true);
                }
                Event::ServerError(error) => *locked(&complaints) = Some(error.to_string()),
                Event::Connected | Event::LameDuckMode | Event::Draining | Event::ClientError(_) => {}
            }
            std::future::ready(())
        };
        let options = options
            .name(name)
            .require_tls(config.is_secured())
            // Only those that were named, and each once.
            .ignore_discovered_servers()
            .max_reconnects(config.servers.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .connection_timeout(each_at_most)
            .subscription_capacity(WAITING_MAX)
            .event_callback(on_event);
        let client =
            options.connect(config.servers.clone()).await.map_err(|error| not_connected(config, &error))?;
        Ok(Self { client, config: config.clone(), lost, complaint })
    }

    /// The bucket, if it is one that keeps facts as they are to be kept.
    pub(super) async fn store(&self) -> Result<Store, NatsTrouble> {
        let bucket = self.config.bucket.clone();
        // Of the two that wait for an answer always the same one gives up.
        let context = jetstream::ContextBuilder::new().timeout(2 * ANSWER_TIMEOUT).build(self.client.clone());
        let store = match timeout(ANSWER_TIMEOUT, context.get_key_value(&bucket)).await {
            Ok(Ok(store)) => store,
            Ok(Err(error)) => return Err(no_store(&self.config, &error).with(self.complaint())),
            Err(_) => return Err(self.refused(NO_ANSWER.to_owned())),
        };
        let stream = &store.stream.cached_info().config;
        let kept = Kept {
            history: u64::try_from(stream.max_messages_per_subject).unwrap_or(u64::MAX),
            for_at_most: stream.max_age,
            // A negative number is none.
            value_bytes_max: u64::try_from(stream.max_message_size).ok().filter(|most| *most > 0),
        };
        match kept.check() {
            Ok(()) => Ok(store),
            Err(why) => Err(NatsTrouble::Unfit { bucket, why }),
        }
    }

    /// Returns when the connection is lost.
    pub(super) async fn is_lost(&self) -> NatsTrouble {
        drop(self.lost.clone().wait_for(|lost| *lost).await);
        self.loss()
    }

    /// That the connection is lost.
    pub(super) fn loss(&self) -> NatsTrouble {
        NatsTrouble::Lost { servers: servers(&self.config) }
    }

    /// That the bucket cannot be used.
    pub(super) fn refused(&self, why: String) -> NatsTrouble {
        NatsTrouble::Refused { bucket: self.config.bucket.clone(), why }.with(self.complaint())
    }

    /// A subject at which only this connection hears.
    pub(super) fn inbox(&self) -> String {
        self.client.new_inbox()
    }

    fn complaint(&self) -> Option<String> {
        locked(&self.complaint).clone()
    }
}

/// What comes of it, if the server answers in time.
pub(super) async fn in_time<T, E: Error>(what: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, what).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

/// The servers' URLs, for people.
pub(super) fn servers(config: &NatsConfig) -> String {
    let urls: Vec<&str> = config.servers.iter().map(ServerAddr::as_url_str).collect();
    urls.join(", ")
}

/// Who the worker is to the servers, and whom it believes, from files that were looked at.
async fn options(config: &NatsConfig) -> Result<ConnectOptions, NatsTrouble> {
    let NatsConfig { ca, certificate, .. } = config;
    let mut options = match config.credentials.clone() {
        Some(path) => blocking(move || credentials::options(&path)).await?,
        None => ConnectOptions::new(),
    };
    let files = ca.iter().chain(certificate.iter().flat_map(|(certificate, key)| [certificate, key]));
    let files: Vec<PathBuf> = files.cloned().collect();
    // The library would not say which of them it cannot read.
    blocking(move || files.into_iter().try_for_each(readable)).await?;
    if let Some(ca) = ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

fn readable(path: PathBuf) -> Result<(), NatsTrouble> {
    match File::open(&path) {
        Ok(_) => Ok(()),
        Err(error) => Err(NatsTrouble::File { path, cause: error.to_string() }),
    }
}

fn not_connected(config: &NatsConfig, error: &ConnectError) -> NatsTrouble {
    let (servers, why) = (servers(config), error.to_string());
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            NatsTrouble::Denied { servers, has_credentials: config.credentials.is_some() }
        }
        ConnectErrorKind::Tls => NatsTrouble::Tls { servers, why },
        // So whoever speaks TLS says that what it was told is none, or not what was asked for.
        ConnectErrorKind::Io if io_kind(error) == Some(io::ErrorKind::InvalidData) => {
            NatsTrouble::Tls { servers, why }
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => NatsTrouble::Unreachable { servers, why },
    }
}

fn io_kind(error: &ConnectError) -> Option<io::ErrorKind> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn no_store(config: &NatsConfig, error: &KeyValueError) -> NatsTrouble {
    let bucket = config.bucket.clone();
    let stream = error.source().and_then(|source| source.downcast_ref::<GetStreamError>());
    let request = stream.and_then(Error::source).and_then(|source| source.downcast_ref::<RequestError>());
    if request.is_some_and(|request| request.kind() == RequestErrorKind::NoResponders) {
        return NatsTrouble::NoJetStream { servers: servers(config) };
    }
    let code = match stream.map(GetStreamError::kind) {
        Some(GetStreamErrorKind::JetStream(error)) => Some(error.error_code()),
        _ => None,
    };
    match code {
        Some(ErrorCode::STREAM_NOT_FOUND) => NatsTrouble::Missing { bucket },
        Some(ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT) => {
            NatsTrouble::NoJetStream { servers: servers(config) }
        }
        _ => NatsTrouble::Refused { bucket, why: error.to_string() },
    }
}
