//! Services of machines, reached on every worker: who has which machine, who listens, and what becomes of a connection.
//!
//! ```text
//!   own records ─┐                        ┌─▶ listeners, one a port
//!   others' feeds ─▶ Directory (a value) ─┤        │ a connection
//!                                         ├─▶ proxy ♥ decides ──▶ the machine here · another worker · wait · refuse
//!                                         └─▶ routes ♥ decides ─▶ routes of this host, if it is to have any
//! ```
//!
//! Invariants: the directory is a cache and decides nothing about machines. A connection that is through stays with the process
//! of the machine that it was made to, and ends with it: TCP does not survive a cold move.

mod dns;
mod feeds;
mod figures;
mod forward;
mod hints;
mod listen;
mod proxy;
mod routes;
mod view;

use crate::config::Config;
use crate::entrances::Secured;
use crate::mutex::locked;
use crate::peers::Peers;
use crate::records::{Records, RecordsError};
use ferry_api::http::ClientTls;
use ferry_api::{
    AboutWorker, ApiError, AskMappings, ErrorCode, MachineId, MachineRef, MachineSpec, Mapping, Mappings,
    Network, Service, ServiceStatus, WorkerName,
};
use ferry_crossing::directory::{Claim, Directory, Known, VALID_MS};
use ferry_crossing::feed::{Feed, Told};
use ferry_crossing::proxy::Limits;
use figures::{Figures, ms_since};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

type Answer<T> = Result<T, ApiError>;
/// A service: whose, and at which port of it.
type Key = (MachineId, NonZeroU16);

/// Why a worker serves no services.
#[derive(Debug, thiserror::Error)]
pub enum NoServices {
    /// Somebody else listens there, or nobody can.
    #[error(
        "cannot listen on {address}; choose another `{setting}` in the configuration, or end what has it"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The field of the configuration that says so.
        setting: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It is not known which machines there are.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// How another worker takes connections for its machines.
#[derive(Clone, Debug)]
struct Reached {
    /// Address and port.
    at: String,
    /// What it is shown; none if it is no worker of a cluster.
    tls: Option<ClientTls>,
}

/// The services that a worker knows of.
#[derive(Clone, Debug)]
pub struct Services {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    me: WorkerName,
    listen: SocketAddr,
    dns_listen: Option<SocketAddr>,
    /// Whether this host has routes to machines of other workers.
    has_routes: bool,
    /// The host under which other workers reach this one.
    host: String,
    limits: Limits,
    began: Instant,
    directory: Mutex<Directory>,
    /// Rises whenever something is new in the directory.
    changed: watch::Sender<u64>,
    /// What this worker tells others; none before it has looked at its records, and once it closes.
    told: watch::Sender<Option<Telling>>,
    /// In which state that is; 0 while it tells nothing.
    revision: watch::Sender<u64>,
    /// By what it is heard when others have news.
    ears: Mutex<hints::Ears>,
    /// What is heard.
    hints: Mutex<hints::Hints>,
    /// Whom it follows.
    followed: Mutex<BTreeSet<WorkerName>>,
    /// What each worker last said of itself.
    about: Mutex<BTreeMap<WorkerName, AboutWorker>>,
    /// What this one last said, and when.
    said: tokio::sync::Mutex<Option<(Instant, AboutWorker)>>,
    /// Where other workers take connections for their machines.
    reached_at: Mutex<BTreeMap<WorkerName, Reached>>,
    /// Where this worker listens for which service, or why it does not.
    places: Mutex<BTreeMap<Key, Result<SocketAddr, String>>>,
    figures: Mutex<BTreeMap<Key, Arc<Figures>>>,
}

#[derive(Debug)]
struct Telling {
    feed: Feed,
    /// `host:port` at which this worker takes connections for its machines from other workers.
    reached_at: String,
}

impl Services {
    /// What the worker that `config` describes knows before it has looked anywhere.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let listen = config.services_listen;
        let host = match listen.ip() {
            ip if ip.is_unspecified() || ip == config.listen.ip() => config.advertise.clone(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let inner = Inner {
            me: config.name.clone(),
            listen,
            dns_listen: config.dns_listen,
            has_routes: config.machine_routes,
            host,
            limits: Limits {
                hold_ms_max: config.services_hold_seconds.saturating_mul(1_000),
                held_max: config.services_held_max,
            },
            began: Instant::now(),
            directory: Mutex::new(Directory::new(config.name.clone())),
            changed: watch::Sender::new(0),
            told: watch::Sender::new(None),
            revision: watch::Sender::new(0),
            ears: Mutex::default(),
            hints: Mutex::default(),
            followed: Mutex::default(),
            about: Mutex::default(),
            said: tokio::sync::Mutex::default(),
            reached_at: Mutex::default(),
            places: Mutex::default(),
            figures: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Looks at the records, follows the other workers, and listens for clients and other workers from now on, as long as what
    /// it puts into `chores` runs.
    ///
    /// # Errors
    /// Other workers, or questions for names, cannot be listened for; the records cannot be read.
    pub(crate) async fn open(
        &self,
        records: &Records,
        peers: &Peers,
        secured: Option<Secured>,
        chores: &mut JoinSet<()>,
    ) -> Result<(), NoServices> {
        let failed = |address, setting| move |cause| NoServices::Listen { address, setting, cause };
        let listen = self.inner.listen;
        let others = TcpListener::bind(listen).await.map_err(failed(listen, "services_listen"))?;
        let port = others.local_addr().map_err(failed(listen, "services_listen"))?.port();
        if let Some(address) = self.inner.dns_listen {
            let socket = UdpSocket::bind(address).await.map_err(failed(address, "dns_listen"))?;
            chores.spawn(dns::serve(Arc::clone(&self.inner), socket));
        }
        let reached_at = format!("{}:{}", self.inner.host, port);
        let touched = records.touched();
        feeds::look_at_own(&self.inner, records, &reached_at).await?;
        chores.spawn(feeds::follow_own(Arc::clone(&self.inner), records.clone(), touched, reached_at));
        chores.spawn(feeds::follow_all(Arc::clone(&self.inner), peers.clone()));
        chores.spawn(listen::for_workers(Arc::clone(&self.inner), others, secured));
        chores.spawn(listen::for_clients(Arc::clone(&self.inner)));
        if self.inner.has_routes {
            chores.spawn(routes::keep(Arc::clone(&self.inner), peers.clone()));
        }
        Ok(())
    }

    /// Lets nobody wait any more for what this worker tells. To be called when the agent ends.
    pub(crate) fn close(&self) {
        self.inner.told.send_replace(None);
    }

    /// What this worker tells others of its machines, as soon as that is not what they know already.
    ///
    /// # Errors
    /// `Unavailable`: it does not tell anything yet, or no more.
    pub(crate) async fn told(&self, ask: AskMappings) -> Answer<Mappings> {
        let mut told = self.inner.told.subscribe();
        let is_news =
            |told: &Option<Telling>| told.as_ref().is_none_or(|told| told.feed.revision() != ask.known);
        let wait = Duration::from_millis(ask.wait_ms);
        // Nothing new in time is an answer, too: it still holds.
        let _ = timeout(wait, told.wait_for(is_news)).await;
        let told = told.borrow();
        let Some(Telling { feed, reached_at }) = &*told else {
            let message = "this worker's agent starts or ends, or serves no services; ask again later";
            return Err(ApiError::new(ErrorCode::Unavailable, message));
        };
        let told = if ask.changes { feed.since(ask.known) } else { Told::All(feed.all()) };
        let (since, mappings, gone) = match told {
            Told::Same => (Some(ask.known), Vec::new(), Vec::new()),
            Told::Changes { mappings, gone } => (Some(ask.known), mappings, gone),
            Told::All(mappings) => (None, mappings, Vec::new()),
        };
        let (worker, revision, reached_at) = (self.inner.me.clone(), feed.revision(), reached_at.clone());
        Ok(Mappings { worker, revision, since, gone, valid_ms: VALID_MS, reached_at, mappings, about: None })
    }

    /// All services that are known here.
    #[must_use]
    pub(crate) fn list(&self) -> Vec<ServiceStatus> {
        let known = locked(&self.inner.directory).all(self.inner.now_ms());
        let services = known.iter().flat_map(|known| known.mapping.services.iter().map(move |s| (known, s)));
        services.map(|(known, service)| self.inner.status(known, service)).collect()
    }

    /// What is known here of the machine that a person means, if another worker is said to have it.
    pub(crate) fn elsewhere(&self, machine: &MachineRef) -> Option<Known> {
        let known = locked(&self.inner.directory).meant(machine, self.inner.now_ms())?;
        Some(known).filter(|known| known.mapping.owner != self.inner.me)
    }

    /// Says why a new machine with this spec cannot have its services here, if it cannot.
    ///
    /// # Errors
    /// There are too many, two are alike, or a port is taken.
    pub(crate) fn check_new(&self, spec: &MachineSpec) -> Answer<()> {
        let refuse = |code, message| Err(ApiError::new(code, message));
        if spec.services.len() > Service::PER_MACHINE_MAX {
            let message =
                format!("a machine has at most {} services; leave some out", Service::PER_MACHINE_MAX);
            return refuse(ErrorCode::InvalidRequest, message);
        }
        let network = spec.network();
        if network == Network::None && !spec.services.is_empty() {
            let message = "a machine without a network has no services; leave out `network` or `services`";
            return refuse(ErrorCode::InvalidRequest, message.to_owned());
        }
        let claims = locked(&self.inner.directory).claims(self.inner.now_ms());
        let (mut ports, mut own_ports) = (BTreeSet::new(), BTreeSet::new());
        for service in &spec.services {
            let port = service.listens_on();
            if !own_ports.insert(service.port) {
                let message = format!("port {} is named for two services; name it once", service.port);
                return refuse(ErrorCode::InvalidRequest, message);
            }
            if !ports.insert(port) {
                let message = format!(
                    "two services of the machine would both listen on port {port} of the workers; give one another `listen`"
                );
                return refuse(ErrorCode::InvalidRequest, message);
            }
            if let Some(Claim { machine, .. }) = claims.get(&port).and_then(|claims| claims.first()) {
                let message = format!(
                    "port {port} of the workers is that of machine {machine} already; give the service another `listen`"
                );
                return refuse(ErrorCode::AlreadyExists, message);
            }
            if let Err(why) = self.inner.may_listen(service, network) {
                return refuse(ErrorCode::AlreadyExists, why);
            }
            let address = SocketAddr::new(self.inner.listen.ip(), port.get());
            if let Err(why) = listen::listen_at(address) {
                return refuse(ErrorCode::AlreadyExists, why);
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Milliseconds since the agent began: a clock that only goes forward.
    fn now_ms(&self) -> u64 {
        ms_since(self.began)
    }

    fn find(&self, machine: MachineId) -> Option<Known> {
        locked(&self.directory).find(machine, self.now_ms())
    }

    /// Changes the directory; whoever waits for news looks again if `change` says that something is new.
    fn change(&self, change: impl FnOnce(&mut Directory, u64) -> bool) {
        if change(&mut locked(&self.directory), self.now_ms()) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn figures(&self, key: Key) -> Arc<Figures> {
        Arc::clone(locked(&self.figures).entry(key).or_default())
    }

    /// Where a machine of this worker listens.
    fn home(machine: MachineId, network: Network) -> IpAddr {
        match network {
            Network::Host | Network::None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Network::Own => IpAddr::V6(machine.address()),
        }
    }

    /// Refuses to listen where the machine itself is to.
    fn may_listen(&self, service: &Service, network: Network) -> Result<(), String> {
        let (ip, port) = (self.listen.ip(), service.port);
        let meets = network == Network::Host && (ip == Ipv4Addr::LOCALHOST || ip.is_unspecified());
        if !meets || service.listens_on() != port {
            return Ok(());
        }
        Err(format!(
            "this worker would listen at {ip}:{port} for the machine, which is to listen there itself; give the service \
             another `listen`, or the worker another `services_listen`"
        ))
    }

    fn status(&self, known: &Known, service: &Service) -> ServiceStatus {
        let Mapping { machine, name, generation, owner, presence, .. } = &known.mapping;
        let key = (*machine, service.port);
        let figures = self.figures(key);
        let (listens_at, trouble) = match locked(&self.places).get(&key) {
            Some(Ok(address)) => (Some(address.to_string()), None),
            Some(Err(why)) => (None, Some(why.clone())),
            None => (None, Some("it was heard of just now".to_owned())),
        };
        ServiceStatus {
            service: service.clone(),
            machine: *machine,
            machine_name: name.clone(),
            owner: owner.clone(),
            generation: *generation,
            presence: *presence,
            is_certain: known.is_certain,
            listens_at,
            trouble,
            connections: figures.open.load(Relaxed),
            held: figures.held(),
            accepted: figures.accepted.load(Relaxed),
            refused: figures.refused.load(Relaxed),
            last_refusal: figures.last_refusal().map(|why| why.to_string()),
            longest_wait_ms: figures.longest_wait_ms(),
        }
    }
}
