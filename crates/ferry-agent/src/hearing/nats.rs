//! A worker's part in a bucket of NATS JetStream: what it puts there, and what it reads of the others.
//!
//! ```text
//!   own map's state, every 10 s again ─▶ put ─▶ bucket ─▶ watch ─▶ ferry-gossip's Bucket ─▶ Services: ask that worker now · it is gone
//! ```
//!
//! A thin shell: what is taken of what lies there is `ferry_gossip::Bucket`'s to say. A session is one connection, from its begin to its
//! first trouble; then there is a pause and another one. What the library would do about trouble by itself is turned off, so that what
//! is told to people is what happens.

use super::credentials::{self, CredentialsError};
use super::{Dice, keys};
use crate::cluster::Cluster;
use crate::config::NatsConfig;
use crate::host::blocking;
use crate::mutex::locked;
use crate::services::Services;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, KeyValueError};
use async_nats::jetstream::kv::{Entry, Operation, Store};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use ferry_api::WorkerName;
use ferry_gossip::{Bucket, Digest, Fleet, Kept, RENEW_PAUSE, Seen, Unfit};
use futures_util::StreamExt;
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};

/// First and longest pause before servers are connected to again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How many values wait to be read; if more do, the connection is given up and all are read anew.
const WAITING_MAX: usize = 16_384;

/// Why a session ended, for people.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "cannot connect to {servers}: {why}; look whether NATS runs there and takes this worker's credentials"
    )]
    Connect { servers: String, why: String },
    #[error(
        "there is no bucket {bucket}; make it: nats kv add {bucket} --history 1 --ttl 1h --max-value-size 1024 --replicas 3"
    )]
    Missing { bucket: String },
    #[error(
        "the bucket {bucket} is not fit for a directory: {why}; change it with `nats kv` or name another one"
    )]
    Unfit { bucket: String, why: Unfit },
    #[error(
        "the bucket {bucket} cannot be used: {why}; look whether JetStream is there and this worker's user may do that"
    )]
    Refused { bucket: String, why: String },
    #[error("the connection to {servers} is lost")]
    Lost { servers: String },
}

/// What others ask of a worker's part.
pub(crate) struct Heard(Arc<Mutex<Bucket>>);

impl Heard {
    /// In which state which worker's map of machines is, as far as is known here.
    pub(super) fn digest(&self) -> Digest {
        locked(&self.0).digest()
    }
}

/// Takes part from now on in a life that no earlier one of it had, as long as what it puts into `chores` runs. Servers that are not
/// there are waited for.
pub(super) fn open(
    config: NatsConfig,
    (me, epoch): (&WorkerName, u64),
    (cluster, services): (Cluster, Services),
    chores: &mut JoinSet<()>,
) -> Heard {
    let bucket = Bucket::new((me.clone(), epoch), &cluster.id(), fleet(&cluster));
    let bucket = Arc::new(Mutex::new(bucket));
    let (heard, dice, began) = (Heard(Arc::clone(&bucket)), Dice::of(me, epoch), Instant::now());
    let name = format!("ferry {me}");
    chores.spawn(Part { name, config, bucket, cluster, services, dice, began }.live());
    heard
}

fn fleet(cluster: &Cluster) -> Fleet {
    let members = cluster.members().into_iter().filter(|member| !member.is_revoked);
    Fleet { members: members.map(|member| member.name).collect(), keys: keys(cluster) }
}

struct Part {
    /// Under which the connection is known to those who run the servers.
    name: String,
    config: NatsConfig,
    bucket: Arc<Mutex<Bucket>>,
    cluster: Cluster,
    services: Services,
    dice: Dice,
    /// When this clock began.
    began: Instant,
}

/// A connection, and what it says of itself.
struct Line {
    client: Client,
    /// Becomes true when it is lost.
    lost: watch::Receiver<bool>,
    /// What the server last complained of.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Part {
    async fn live(mut self) {
        let mut pause = AGAIN.0;
        loop {
            let Err(trouble) = self.session(&mut pause).await;
            if self.services.hears_nothing(trouble.to_string()) {
                tracing::warn!(%trouble, "other workers are not heard by NATS, and asked every now and then");
            }
            // Of many workers that lost the same server not all come back at once.
            let half_ms = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX).max(1);
            sleep(pause / 2 + Duration::from_millis(self.dice.roll() % half_ms)).await;
            pause = pause.saturating_mul(2).min(AGAIN.1);
        }
    }

    /// From a connection to its first trouble. Once it is whole, the next one may begin soon after it: `pause` is as at first.
    async fn session(&self, pause: &mut Duration) -> Result<Infallible, Trouble> {
        let (mut roster, mut revision) = (self.cluster.watch(), self.services.revision());
        roster.mark_unchanged();
        self.follow_roster();
        let Line { client, mut lost, complaint } = self.connect().await?;
        let refused = |why: String| self.refused(why, &complaint);
        let store = self.store(client).await.map_err(|trouble| trouble.with(&complaint))?;
        let keys = locked(&self.bucket).keys();
        let mut entries =
            in_time(store.watch_with_history(keys)).await.map_err(|why| refused(format!("watch: {why}")))?;
        let (now_ms, mine) = (self.now_ms(), *revision.borrow_and_update());
        locked(&self.bucket).begin(now_ms);
        self.put(&store, mine).await.map_err(refused)?;
        *pause = AGAIN.0;
        tracing::info!(bucket = self.config.bucket, "the other workers are heard by NATS");
        let mut renew = tokio::time::interval_at(Instant::now() + RENEW_PAUSE, RENEW_PAUSE);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = async { drop(lost.wait_for(|lost| *lost).await) } => return Err(Trouble::Lost { servers: self.servers() }),
                entry = entries.next() => match entry {
                    Some(Ok(entry)) => self.read(&entry),
                    Some(Err(why)) => return Err(refused(why.to_string())),
                    None => return Err(Trouble::Lost { servers: self.servers() }),
                },
                _ = renew.tick() => {
                    let mine = *revision.borrow_and_update();
                    self.put(&store, mine).await.map_err(refused)?;
                    let now_ms = self.now_ms();
                    self.pass_on(locked(&self.bucket).look(now_ms));
                }
                Ok(()) = revision.changed() => {
                    let mine = *revision.borrow_and_update();
                    self.put(&store, mine).await.map_err(refused)?;
                }
                Ok(()) = roster.changed() => self.follow_roster(),
            }
        }
    }

    async fn connect(&self) -> Result<Line, Trouble> {
        let options = match self.config.credentials.clone() {
            Some(path) => blocking(move || credentials::options(&path)).await?,
            None => ConnectOptions::new(),
        };
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
        let NatsConfig { servers, ca, certificate, .. } = &self.config;
        let mut options = options
            .name(&self.name)
            .require_tls(self.config.is_secured())
            // Only those that were named, and each once: see this room's beginning.
            .ignore_discovered_servers()
            .max_reconnects(servers.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .connection_timeout(ANSWER_TIMEOUT)
            .subscription_capacity(WAITING_MAX)
            .event_callback(on_event);
        if let Some(ca) = ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some((certificate, key)) = certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let failed = |why: async_nats::ConnectError| Trouble::Connect {
            servers: self.servers(),
            why: why.to_string(),
        };
        let client = options.connect(servers.clone()).await.map_err(failed)?;
        Ok(Line { client, lost, complaint })
    }

    /// The bucket, if it is one that keeps facts as they are to be kept.
    async fn store(&self, client: Client) -> Result<Store, Trouble> {
        let bucket = self.config.bucket.clone();
        // Of the two that wait for an answer always the same one gives up.
        let context = jetstream::ContextBuilder::new().timeout(2 * ANSWER_TIMEOUT).build(client);
        let store = match timeout(ANSWER_TIMEOUT, context.get_key_value(&bucket)).await {
            Ok(Ok(store)) => store,
            Ok(Err(error)) if is_missing(&error) => return Err(Trouble::Missing { bucket }),
            Ok(Err(error)) => return Err(Trouble::Refused { bucket, why: error.to_string() }),
            Err(_) => return Err(Trouble::Refused { bucket, why: NO_ANSWER.to_owned() }),
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
            Err(why) => Err(Trouble::Unfit { bucket, why }),
        }
    }

    /// Says in which state this worker's map is.
    async fn put(&self, store: &Store, revision: u64) -> Result<(), String> {
        let (key, said) = {
            let mut bucket = locked(&self.bucket);
            (bucket.key(), bucket.say(revision))
        };
        let Some(said) = said else { return Err("the cluster has no key".to_owned()) };
        in_time(store.put(key, said.into())).await.map_err(|why| format!("put: {why}"))?;
        self.services.hears(locked(&self.bucket).ignored());
        Ok(())
    }

    fn read(&self, entry: &Entry) {
        if entry.operation == Operation::Put {
            let now_ms = self.now_ms();
            let read = locked(&self.bucket).read(&entry.key, &entry.value, now_ms);
            match read {
                Ok(seen) => self.pass_on(seen),
                Err(why) => tracing::debug!(key = entry.key, %why, "a value of the bucket is not taken"),
            }
        }
        self.services.hears(locked(&self.bucket).ignored());
    }

    fn follow_roster(&self) {
        let seen = locked(&self.bucket).follow(fleet(&self.cluster));
        self.pass_on(seen);
    }

    fn pass_on(&self, seen: Vec<Seen>) {
        for seen in seen {
            match seen {
                Seen::Up(worker) => self.services.is_there(&worker),
                Seen::Down(worker) => self.services.is_gone(&worker),
                Seen::News(fact) => self.services.has_news(&fact.worker, (fact.epoch, fact.revision)),
            }
        }
    }

    fn refused(&self, why: String, complaint: &Mutex<Option<String>>) -> Trouble {
        Trouble::Refused { bucket: self.config.bucket.clone(), why }.with(complaint)
    }

    fn servers(&self) -> String {
        let urls: Vec<&str> = self.config.servers.iter().map(ServerAddr::as_url_str).collect();
        urls.join(", ")
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Trouble {
    /// The same with what the server complained of: that somebody may not do something it says only there.
    fn with(self, complaint: &Mutex<Option<String>>) -> Self {
        match (self, locked(complaint).clone()) {
            (Self::Refused { bucket, why }, Some(said)) => {
                Self::Refused { bucket, why: format!("{why} ({said})") }
            }
            (trouble, _) => trouble,
        }
    }
}

const NO_ANSWER: &str = "there is no answer";

/// What comes of it, if the server answers in time.
async fn in_time<T, E: Error>(what: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, what).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

fn is_missing(error: &KeyValueError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<GetStreamError>());
    matches!(
        source.map(GetStreamError::kind),
        Some(GetStreamErrorKind::JetStream(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND
    )
}
