//! The worker's part in its cluster: what it shows, whom it believes, what it hears of the others, and, on one worker, the
//! cluster's key.
//!
//! ```text
//!  callers ──▶ gate ──┐                     ┌── join · renew · token · revoke (the keeper)
//!                     ▼                     ▼
//!                 Held: papers (roster, certificate) · keeper
//!                     │ changed                ▲
//!                     ▼                        │ what others tell
//!                  peers                   keep_up: every minute, and when something has changed
//! ```
//!
//! Invariant: what is answered or told to others is on disk before.

mod enter;
mod expel;
mod gate;
mod keep_up;

pub use enter::{EnterError, Entered, found, join};

use crate::config::Config;
use crate::entrances::Secured;
use crate::host::now_ms;
use crate::mutex::locked;
use crate::peers::Peers;
use ferry_api::http::{Client, ClientError, ClientTls, ServerTls};
use ferry_api::{
    ApiError, ApiTokenMade, AskApiToken, AskJoinToken, ClusterStatus, ClusterWorker, ErrorCode, GossipKey,
    Join, JoinTokenMade, Joined, Membership, Renew, Renewed, Revoke, RevokeDone, Revoked, WorkerName,
};
use ferry_cluster::{Badge, Home, HomeError, Keeper, KeeperError, Offered, Papers, Standing, TlsError, Whom};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

type Answer<T> = Result<T, ApiError>;

/// Why a worker's part in its cluster cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// What lies on disk of it cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The URL of a worker is none.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The certificate is another worker's.
    #[error(
        "this state directory belongs to worker {certified} of its cluster, and the configuration names {configured}; \
         give it its own name again, or a state directory of its own"
    )]
    OtherName {
        /// Whose it is.
        certified: WorkerName,
        /// What the configuration says.
        configured: WorkerName,
    },
    /// The configuration has certificates of its own.
    #[error("a worker of a cluster has its cluster's certificates; remove `tls` from its configuration")]
    OwnTls,
}

/// A worker's part in its cluster. Clones share it.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    me: WorkerName,
    home: Home,
    badge: Badge,
    held: Mutex<Held>,
    /// The other members, as they are called.
    peers: Peers,
    /// Rises when the roster or the keys of gossip have changed.
    changed: watch::Sender<u64>,
    /// Rises when others are to be told.
    news: watch::Sender<u64>,
}

struct Held {
    papers: Papers,
    keeper: Option<Keeper>,
    /// What went wrong lately, by whom or what it was about.
    troubles: BTreeMap<String, String>,
}

/// A worker of the cluster, as others are to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: WorkerName,
    /// Where its agent listens.
    pub url: String,
    /// Whether it belongs to the cluster no longer.
    pub is_revoked: bool,
}

impl Cluster {
    /// What the state directory of a worker has of it; none if it belongs to no cluster.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn open(config: &Config) -> Result<Option<Self>, ClusterError> {
        let home = Home::new(&config.state_dir);
        let Some(papers) = home.papers()? else { return Ok(None) };
        if papers.identity.worker != config.name {
            let (certified, configured) = (papers.identity.worker, config.name.clone());
            return Err(ClusterError::OtherName { certified, configured });
        }
        if config.tls.is_some() {
            return Err(ClusterError::OwnTls);
        }
        let keeper = Keeper::at(&home)?;
        let (certificate, key) = home.certificate_and_key()?;
        let badge = Badge::new(&certificate, &key)?;
        let moved = moved(config, &papers).map(|trouble| ("address".to_owned(), trouble));
        let held = Mutex::new(Held { papers, keeper, troubles: moved.into_iter().collect() });
        let (changed, news) = (watch::Sender::new(0), watch::Sender::new(0));
        let (me, peers) = (config.name.clone(), Peers::of_cluster(BTreeMap::new()));
        let cluster = Self(Arc::new(Inner { me, home, badge, held, peers, changed, news }));
        cluster.follow_roster();
        Ok(Some(cluster))
    }

    /// The directory of certificates for volume servers and QEMU.
    #[must_use]
    pub fn tls_dir(&self) -> std::path::PathBuf {
        self.0.home.tls_dir()
    }

    /// How callers over the network are known.
    ///
    /// # Errors
    /// The authority's certificate cannot be used.
    pub(crate) fn secured(&self) -> Result<Secured, ClusterError> {
        let tls = ServerTls::new(ferry_cluster::server(&self.held().papers.authority, &self.0.badge)?);
        Ok(Secured { tls, gate: Arc::new(self.clone()) })
    }

    /// All that belong to the cluster, or once did, newest entry of a name last.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let held = self.held();
        let member = |entry: &ferry_cluster::WorkerEntry| Member {
            name: entry.name.clone(),
            url: entry.url.clone(),
            is_revoked: !entry.is_member(),
        };
        held.papers.roster.workers.iter().map(member).collect()
    }

    /// The id of the cluster.
    #[must_use]
    pub fn id(&self) -> String {
        self.held().papers.roster.cluster.to_string()
    }

    /// The keys by which members know each other's whispers, the newest first.
    #[must_use]
    pub fn gossip_keys(&self) -> Vec<GossipKey> {
        self.held().papers.gossip_keys.clone()
    }

    /// Changes when [`Self::members`] or [`Self::gossip_keys`] do.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// The other members, as they are called.
    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// Calls from now on those that the roster says belong to the cluster.
    fn follow_roster(&self) {
        self.0.peers.replace(self.clients());
    }

    fn clients(&self) -> BTreeMap<WorkerName, Client> {
        let held = self.held();
        let others = held.papers.roster.members().filter(|entry| entry.name != self.0.me);
        let client = |entry: &ferry_cluster::WorkerEntry| {
            let client = self.client(&held.papers, &entry.name, &entry.url, true);
            client
                .inspect_err(|error| tracing::error!(worker = %entry.name, %error, "it cannot be called"))
                .ok()
        };
        others.filter_map(|entry| Some((entry.name.clone(), client(entry)?))).collect()
    }

    /// A worker as it is called; `known`: this one shows its certificate.
    fn client(
        &self,
        papers: &Papers,
        name: &WorkerName,
        url: &str,
        known: bool,
    ) -> Result<Client, ClusterError> {
        let badge = known.then_some(&self.0.badge);
        let tls = ferry_cluster::client(&papers.authority, badge, Whom::Worker(name.clone()))?;
        Ok(Client::secured(url, ClientTls::new(tls))?)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        locked(&self.0.held)
    }

    /// Does something with what is held, beside everything else: it writes to disk.
    async fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut Held, u64) -> T + Send + 'static) -> T {
        let this = self.clone();
        crate::host::blocking(move || act(&mut this.held(), now_ms())).await
    }

    /// The same on the keeper.
    async fn keeping<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Keeper, &mut Papers, u64) -> Result<T, KeeperError> + Send + 'static,
    ) -> Answer<T> {
        let me = self.0.me.clone();
        let done = self.with(move |held, now_ms| {
            let Held { papers, keeper, .. } = held;
            let keeps = papers.roster.keeper == me;
            let Some(keeper) = keeper.as_mut().filter(|_| keeps) else { return Err(not_here(papers)) };
            act(keeper, papers, now_ms).map_err(|error| refusal(&error))
        });
        done.await
    }

    /// The others are told, and whoever looks at the members looks again.
    fn has_changed(&self) {
        self.follow_roster();
        self.0.changed.send_modify(|changed| *changed += 1);
        self.0.news.send_modify(|news| *news += 1);
    }

    /// How the cluster stands.
    pub(crate) async fn status(&self) -> ClusterStatus {
        self.with(|held, now_ms| status(held, now_ms)).await
    }

    /// Makes a token for joining.
    pub(crate) async fn token(&self, ask: AskJoinToken) -> Answer<JoinTokenMade> {
        let me = self.0.me.clone();
        self.keeping(move |keeper, papers, now_ms| {
            let url = papers.roster.member(&me).map(|entry| entry.url.clone()).unwrap_or_default();
            keeper.token(ask, &url, now_ms)
        })
        .await
    }

    /// Makes an API token.
    pub(crate) async fn api_token(&self, ask: AskApiToken) -> Answer<ApiTokenMade> {
        self.keeping(move |keeper, papers, now_ms| keeper.api_token(papers, ask, now_ms)).await
    }

    /// Takes a worker in, and tells the others.
    pub(crate) async fn join(&self, join: Join) -> Answer<Joined> {
        tracing::info!(worker = %join.worker, url = join.url, "a worker asks to join");
        let before = self.held().papers.roster.version;
        let joined = self.keeping(move |keeper, papers, now_ms| keeper.join(papers, &join, now_ms)).await?;
        if self.held().papers.roster.version != before {
            self.has_changed();
        }
        Ok(joined)
    }

    /// A new certificate for a member.
    pub(crate) async fn renew(&self, renew: Renew) -> Answer<Renewed> {
        self.keeping(move |keeper, papers, now_ms| keeper.renew(papers, &renew, now_ms)).await
    }

    /// Lets somebody in no longer, and tells all that can be reached before it answers.
    pub(crate) async fn revoke(&self, revoke: Revoke) -> Answer<RevokeDone> {
        let gone = match &revoke.what {
            Revoked::Worker(name) => self.held().papers.roster.member(name).cloned(),
            Revoked::ApiToken(_) => None,
        };
        self.keeping(move |keeper, papers, now_ms| keeper.revoke(papers, revoke, now_ms)).await?;
        self.follow_roster();
        self.0.changed.send_modify(|changed| *changed += 1);
        let unreached = self.tell_all(gone).await;
        Ok(RevokeDone { status: self.status().await, unreached })
    }

    /// Takes what a member tells, and tells what this worker has.
    pub(crate) async fn hear(&self, told: Membership) -> Answer<Membership> {
        self.take(None, told).await?;
        Ok(self.told())
    }

    fn told(&self) -> Membership {
        Membership { now_ms: now_ms(), ..self.held().papers.membership() }
    }

    /// Takes what a member tells.
    async fn take(&self, from: Option<WorkerName>, told: Membership) -> Answer<()> {
        let heard = self.with(move |held, _| {
            let before = (held.papers.signed.clone(), held.papers.gossip_keys.clone());
            let offered = held.papers.hear(&told);
            let is_changed = before != (held.papers.signed.clone(), held.papers.gossip_keys.clone());
            if matches!(offered, Ok(Offered::Fork)) {
                let version = held.papers.roster.version;
                let who = from.map_or_else(|| "another worker".to_owned(), |from| from.to_string());
                held.troubles.insert("roster".to_owned(), fork(&who, version));
            } else if is_changed {
                held.troubles.remove("roster");
            }
            (offered, is_changed, held.papers.standing())
        });
        let (offered, is_changed, standing) = heard.await;
        offered.map_err(|error| ApiError::because(ErrorCode::InvalidRequest, &error))?;
        if is_changed {
            self.has_changed();
            if let Err(stranger) = standing {
                tracing::error!("{stranger}");
            }
        }
        Ok(())
    }
}

/// What is wrong if the agent listens elsewhere than others call it.
fn moved(config: &Config, papers: &Papers) -> Option<String> {
    let (here, known) = (enter::url_of(config), &papers.roster.member(&config.name)?.url);
    let trouble = format!(
        "others call this worker at {known}, and by its configuration it is at {here}; let it be there again, or have it join anew \
         as its own successor"
    );
    (here != *known).then_some(trouble).inspect(|trouble| tracing::warn!("{trouble}"))
}

fn fork(who: &str, version: u64) -> String {
    format!(
        "{who} has another roster of version {version}: two workers have kept the cluster's key; take it from one of them and \
         have the other make a change"
    )
}

fn not_here(papers: &Papers) -> ApiError {
    let keeper = &papers.roster.keeper;
    let url = papers.roster.member(keeper).map_or("", |entry| &entry.url);
    let message = format!("this worker does not have the cluster's key; ask {keeper} (--agent {url})");
    ApiError::new(ErrorCode::Conflict, message)
}

fn refusal(error: &KeeperError) -> ApiError {
    let code = match error {
        KeeperError::Ticket(_) | KeeperError::Stranger(_) => ErrorCode::Forbidden,
        KeeperError::Join(_) | KeeperError::IsKeeper(_) => ErrorCode::Conflict,
        KeeperError::NoWorker(_) | KeeperError::NoToken(_) => ErrorCode::NotFound,
        KeeperError::TooLong { .. } | KeeperError::Reason => ErrorCode::InvalidRequest,
        KeeperError::Authority(ferry_cluster::AuthorityError::Request) => ErrorCode::InvalidRequest,
        KeeperError::Authority(_) | KeeperError::Home(_) => ErrorCode::Internal,
        KeeperError::TooMany => ErrorCode::Unavailable,
    };
    ApiError::because(code, error)
}

fn status(held: &Held, now_ms: u64) -> ClusterStatus {
    let Held { papers, keeper, troubles } = held;
    let worker = |entry: &ferry_cluster::WorkerEntry| {
        let (revoked_ms, reason) = match &entry.standing {
            Standing::Member => (None, None),
            Standing::Revoked { since_ms, reason } => (Some(*since_ms), reason.clone()),
        };
        ClusterWorker {
            name: entry.name.clone(),
            url: entry.url.clone(),
            key: entry.key.to_string(),
            joined_ms: entry.joined_ms,
            revoked_ms,
            reason,
        }
    };
    let own = papers.standing().err().map(|stranger| stranger.to_string());
    ClusterStatus {
        cluster: papers.roster.cluster.to_string(),
        worker: papers.identity.worker.clone(),
        keeper: papers.roster.keeper.clone(),
        authority: papers.authority.fingerprint.to_string(),
        roster_version: papers.roster.version,
        certificate_from_ms: papers.identity.from_ms,
        certificate_until_ms: papers.identity.until_ms,
        troubles: own.into_iter().chain(troubles.values().cloned()).collect(),
        workers: papers.roster.workers.iter().map(worker).collect(),
        api_tokens: keeper.as_ref().map(|keeper| keeper.api_tokens(now_ms)).unwrap_or_default(),
    }
}

/// What is answered by a worker that belongs to no cluster.
pub(crate) fn in_none() -> ApiError {
    let message =
        "this worker belongs to no cluster; `ferry cluster init` makes one, `ferry agent join` joins one";
    ApiError::new(ErrorCode::Conflict, message)
}

#[cfg(test)]
mod tests;
