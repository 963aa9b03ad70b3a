//! A worker's part in a bucket of NATS JetStream: what it puts there, and what it reads of the others.
//!
//! ```text
//!   own map's state, every 10 s again ─▶ put ─▶ bucket ─▶ watch ─▶ ferry-gossip's Bucket ─▶ Services: ask that worker now · it is gone
//! ```
//!
//! A thin shell: what is taken of what lies there is `ferry_gossip::Bucket`'s to say. A session is one connection, from its begin to its
//! first trouble; then there is a pause and another one.

use super::line::{ANSWER_TIMEOUT, Line, in_time};
use super::trouble::NatsTrouble;
use super::{Dice, keys};
use crate::cluster::Cluster;
use crate::config::NatsConfig;
use crate::mutex::locked;
use crate::services::Services;
use async_nats::jetstream::kv::{Entry, Operation, Store};
use ferry_api::WorkerName;
use ferry_gossip::{Bucket, Digest, Fleet, RENEW_PAUSE, Seen};
use futures_util::StreamExt;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep};

/// First and longest pause before servers are connected to again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

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
    async fn session(&self, pause: &mut Duration) -> Result<Infallible, NatsTrouble> {
        let (mut roster, mut revision) = (self.cluster.watch(), self.services.revision());
        roster.mark_unchanged();
        self.follow_roster();
        let line = Line::connect(&self.config, &self.name, ANSWER_TIMEOUT).await?;
        let refused = |why: String| line.refused(why);
        let store = line.store().await?;
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
                loss = line.is_lost() => return Err(loss),
                entry = entries.next() => match entry {
                    Some(Ok(entry)) => self.read(&entry),
                    Some(Err(why)) => return Err(refused(why.to_string())),
                    None => return Err(line.loss()),
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

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
