//! A worker's part in the gossip of its cluster: who is there, and who has news for the directory.
//!
//! ```text
//!   UDP at the agent's own port ─▶ Sealer ─▶ Gossip ─▶ Services: ask that worker now · it is gone
//! ```
//!
//! A thin shell: what is told to whom, and when, is `ferry-gossip`'s. Only members of the roster are heard, and sent to where the
//! roster says that they are. Where datagrams do not pass, workers still ask each other, only later.

use super::{Dice, keys};
use crate::cluster::{Cluster, Member as Entry};
use crate::mutex::locked;
use crate::peers::Peers;
use crate::services::Services;
use ferry_api::{AgentApi, WorkerName};
use ferry_gossip::{COMPARE_PAUSE, Digest, Effect, Fact, Gossip, Medium, Member, SEEK_PAUSE, Sealer, Wake};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Largest datagram that is read, in bytes; larger ones are none of ours.
const DATAGRAM_BYTES_MAX: usize = 2_048;
/// How long another worker may take to say what it knows.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// What others ask of a worker's part.
#[derive(Clone)]
pub(crate) struct Heard(Arc<Mutex<Gossip>>);

impl Heard {
    /// In which state which worker's map of machines is, as far as is known here.
    pub(super) fn digest(&self) -> Digest {
        locked(&self.0).digest()
    }
}

/// Takes part from now on in a life that no earlier one of it had, as long as what it puts into `chores` runs.
///
/// # Errors
/// The port is taken.
pub(super) async fn open(
    listen: SocketAddr,
    (me, epoch): (&WorkerName, u64),
    (cluster, services): (Cluster, Services),
    chores: &mut JoinSet<()>,
) -> io::Result<Heard> {
    let socket = UdpSocket::bind(listen).await?;
    let members = NonZeroU32::new(u32::try_from(cluster.members().len()).unwrap_or(u32::MAX));
    let identity = Member { name: me.clone(), address: socket.local_addr()?, epoch };
    let size = members.unwrap_or(NonZeroU32::MIN);
    let mut dice = Dice::of(me, epoch);
    let gossip = Arc::new(Mutex::new(Gossip::new(identity, size, dice.roll())));
    let sealer = Sealer::new(Medium::Datagrams, me.clone(), epoch, keys(&cluster));
    let peers = cluster.peers().clone();
    let part = Part {
        me: me.clone(),
        epoch,
        socket,
        gossip: Arc::clone(&gossip),
        sealer,
        members: BTreeMap::new(),
        due: BTreeMap::new(),
        wakes: 0,
        dice,
        services,
        peers,
    };
    chores.spawn(part.live(cluster));
    Ok(Heard(gossip))
}

struct Part {
    me: WorkerName,
    epoch: u64,
    socket: UdpSocket,
    gossip: Arc<Mutex<Gossip>>,
    sealer: Sealer,
    /// Where the members are, by the roster.
    members: BTreeMap<WorkerName, SocketAddr>,
    due: BTreeMap<(Instant, u64), Wake>,
    wakes: u64,
    dice: Dice,
    services: Services,
    peers: Peers,
}

impl Part {
    async fn live(mut self, cluster: Cluster) {
        let mut roster = cluster.watch();
        let mut revision = self.services.revision();
        let (tell, mut digests) = mpsc::channel::<Digest>(1);
        let (mut seek, mut compare) =
            (tokio::time::interval(SEEK_PAUSE), tokio::time::interval(COMPARE_PAUSE));
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        self.look_up(cluster.members()).await;
        self.say(*revision.borrow_and_update());
        loop {
            let due = self.due.first_key_value().map(|((at, _), _)| *at);
            let wakes = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((len, _)) => self.receive(&buffer[..len]).await,
                    // What the system says of earlier datagrams that nobody took.
                    Err(error) => tracing::debug!(%error, "a datagram was not received"),
                },
                () = wakes => self.wake().await,
                _ = seek.tick() => self.seek().await,
                _ = compare.tick() => self.compare(tell.clone()),
                Some(theirs) = digests.recv() => {
                    let effects = locked(&self.gossip).compare(&theirs);
                    self.follow(effects).await;
                }
                Ok(()) = revision.changed() => {
                    let now = *revision.borrow_and_update();
                    self.say(now);
                }
                Ok(()) = roster.changed() => {
                    self.sealer.rekey(keys(&cluster));
                    self.look_up(cluster.members()).await;
                }
            }
        }
    }

    /// Finds out where the members are. One that has no address now is looked up again with the next roster.
    async fn look_up(&mut self, entries: Vec<Entry>) {
        let mut members = BTreeMap::new();
        for entry in entries.into_iter().filter(|entry| !entry.is_revoked && entry.name != self.me) {
            let host = entry.url.trim_start_matches("https://").trim_end_matches('/');
            let found = timeout(COMPARE_TIMEOUT, lookup_host(host)).await;
            match found.map_err(io::Error::other).flatten().map(|mut all| all.next()) {
                Ok(Some(address)) => drop(members.insert(entry.name, address)),
                Ok(None) => {}
                Err(error) => tracing::info!(worker = %entry.name, %error, "a worker's host is not found"),
            }
        }
        for gone in self.members.keys().filter(|name| !members.contains_key(name)) {
            self.sealer.forget(gone);
            self.services.is_gone(gone);
        }
        self.members = members;
    }

    fn say(&mut self, revision: u64) {
        let fact = Fact { worker: self.me.clone(), epoch: self.epoch, revision };
        if let Err(error) = locked(&self.gossip).tell(&fact) {
            tracing::warn!(%error, "other workers are not told that there is news");
        }
    }

    async fn receive(&mut self, sealed: &[u8]) {
        let opened = match self.sealer.open(sealed) {
            Ok((from, datagram)) if self.members.contains_key(&from) => datagram,
            Ok((from, _)) => {
                return tracing::debug!(worker = %from, "a datagram of a worker that is no member");
            }
            Err(error) => return tracing::debug!(%error, "a datagram is not opened"),
        };
        let effects = locked(&self.gossip).receive(&opened);
        match effects {
            Ok(effects) => self.follow(effects).await,
            Err(error) => tracing::debug!(%error, "a datagram is not taken"),
        }
    }

    async fn wake(&mut self) {
        let Some((_, wake)) = self.due.pop_first() else { return };
        let effects = locked(&self.gossip).wake(wake);
        self.follow(effects.unwrap_or_default()).await;
    }

    async fn seek(&mut self) {
        let all = self.members.iter();
        // Which life of theirs it is they know themselves.
        let all = all.map(|(name, address)| Member { name: name.clone(), address: *address, epoch: 0 });
        let (all, dice) = (all.collect::<Vec<_>>(), self.dice.roll());
        let effects = locked(&self.gossip).seek(&all, dice);
        self.follow(effects.unwrap_or_default()).await;
    }

    /// Asks one of those that are there what it knows.
    fn compare(&mut self, tell: mpsc::Sender<Digest>) {
        let up: Vec<WorkerName> = locked(&self.gossip).up().iter().cloned().collect();
        let Some(count) = NonZeroU32::new(u32::try_from(up.len()).unwrap_or(u32::MAX)) else { return };
        let with = &up[usize::try_from(self.dice.roll() % u64::from(count.get())).unwrap_or_default()];
        let Ok(client) = self.peers.client(with) else { return };
        tokio::spawn(async move {
            // If it does not answer another one is asked the next time.
            if let Ok(Ok(theirs)) = timeout(COMPARE_TIMEOUT, client.peer_digest()).await {
                let _ = tell.try_send(theirs);
            }
        });
    }

    async fn follow(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, datagram } => {
                    let Some(address) = self.members.get(&to.name) else { continue };
                    let Some(sealed) = self.sealer.seal(&datagram) else { continue };
                    if let Err(error) = self.socket.send_to(&sealed, address).await {
                        tracing::debug!(worker = %to.name, %error, "a datagram was not sent");
                    }
                }
                Effect::Wake { after, wake } => {
                    self.wakes += 1;
                    self.due.insert((Instant::now() + after, self.wakes), wake);
                }
                Effect::Up(member) => self.services.is_there(&member.name),
                Effect::Down(name) => self.services.is_gone(&name),
                Effect::News(fact) => self.services.has_news(&fact.worker, (fact.epoch, fact.revision)),
            }
        }
    }
}
