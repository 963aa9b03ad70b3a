//! By what a worker hears of the others of its cluster: who is there, and whose map of machines has news.
//!
//! ```text
//!   roster and keys ──┐            ┌── gossip: datagrams between the workers
//!                     ├─▶ Hearing ─┤
//!   own map's state ──┘            └── nats: a bucket of servers that are there already
//!                          │ is there · is gone · has news
//!                          ▼
//!                      Services, which asks that worker itself
//! ```
//!
//! Invariant: what is heard are hints. Where machines are only their owners tell, over mutual TLS; without any hint they are asked all the
//! same, only later.

mod attempt;
mod credentials;
mod gossip;
mod line;
mod nats;
mod trouble;

pub use attempt::try_bucket;
pub use credentials::CredentialsError;
pub use trouble::NatsTrouble;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::host::now_ms;
use crate::services::Services;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferry_api::{HearsBy, WorkerName};
use ferry_gossip::{Digest, GossipKey, KeyId};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

/// Where it is noted when the agent last began to take part, in milliseconds since 1970.
const EPOCH_FILE: &str = "cluster/gossip-epoch";

/// Why a worker cannot hear the others.
#[derive(Debug, thiserror::Error)]
pub enum HearingError {
    /// Datagrams cannot be received.
    #[error(
        "cannot hear other workers at {address} over UDP; choose another `listen` in the configuration, or end what has the port"
    )]
    Gossip {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It cannot be noted that the agent has begun another life.
    #[error("cannot write {}; make the directory writable", path.display())]
    Epoch {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// There is no key by which facts could be sealed.
    #[error(
        "workers tell of themselves in a NATS bucket under the key of their cluster, and this one belongs to none; join one \
         (ferry agent join), or remove [directory] from the configuration"
    )]
    Alone,
}

/// Refuses a configuration with which the others could not be heard.
///
/// # Errors
/// It names a bucket and the worker belongs to no cluster.
pub(crate) fn check(config: &Config, in_cluster: bool) -> Result<(), HearingError> {
    match config.nats.is_some() && !in_cluster {
        true => Err(HearingError::Alone),
        false => Ok(()),
    }
}

/// A worker's part in what members tell each other.
pub(crate) enum Hearing {
    /// By datagrams.
    Gossip(gossip::Heard),
    /// In a bucket.
    Nats(nats::Heard),
}

impl Hearing {
    /// Takes part from now on, as long as what it puts into `chores` runs. None where it is not known at which port.
    ///
    /// # Errors
    /// The port is taken, or the state directory cannot be written.
    pub(crate) async fn open(
        config: &Config,
        cluster: &Cluster,
        services: &Services,
        chores: &mut JoinSet<()>,
    ) -> Result<Option<Self>, HearingError> {
        let epoch = || {
            let path = config.state_dir.join(EPOCH_FILE);
            next_epoch(&path).map_err(|cause| HearingError::Epoch { path, cause })
        };
        let with = (cluster.clone(), services.clone());
        if let Some(nats) = &config.nats {
            services.hears_by(HearsBy::Nats { bucket: nats.bucket.clone() });
            return Ok(Some(Self::Nats(nats::open(nats.clone(), (&config.name, epoch()?), with, chores))));
        }
        let address = config.listen;
        if address.port() == 0 {
            return Ok(None);
        }
        services.hears_by(HearsBy::Gossip);
        let heard = gossip::open(address, (&config.name, epoch()?), with, chores).await;
        heard.map(|heard| Some(Self::Gossip(heard))).map_err(|cause| HearingError::Gossip { address, cause })
    }

    /// In which state which worker's map of machines is, as far as is known here.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Gossip(heard) => heard.digest(),
            Self::Nats(heard) => heard.digest(),
        }
    }
}

/// A number that no life of this worker's agent before had, also if the clock went back. Durable before it is used.
fn next_epoch(path: &Path) -> io::Result<u64> {
    let last = match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let epoch = now_ms().max(last + 1);
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    io::Write::write_all(&mut file, format!("{epoch}\n").as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(epoch)
}

/// The cluster's keys as the sealer takes them; one that is none is left out.
fn keys(cluster: &Cluster) -> Vec<GossipKey> {
    let key = |key: ferry_api::GossipKey| {
        let secret = URL_SAFE_NO_PAD.decode(&key.key).ok()?.try_into().ok()?;
        Some(GossipKey { id: KeyId::try_from(key.version).ok()?, secret })
    };
    cluster.gossip_keys().into_iter().filter_map(key).collect()
}

/// Which of several goes first, and who waits a little longer: nothing that anybody could gain by guessing.
struct Dice(u64);

impl Dice {
    fn of(me: &WorkerName, epoch: u64) -> Self {
        let name =
            me.as_str().bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
        Self(epoch ^ name)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_without_a_cluster_is_refused_with_what_to_do() {
        let text = "name = \"w1\"\nstate_dir = \"/s\"\n[directory]\nnats = \"tls://a\"\n";
        let config = Config::parse(Path::new("/etc/ferry.toml"), text).unwrap();
        let refusal = check(&config, false).unwrap_err().to_string();
        assert!(refusal.contains("ferry agent join") && refusal.contains("[directory]"), "{refusal}");
        assert!(check(&config, true).is_ok());
        assert!(check(&Config { nats: None, ..config }, false).is_ok());
    }

    #[test]
    fn each_life_has_a_higher_number_also_if_the_clock_went_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("epoch");
        let first = next_epoch(&path).unwrap();
        assert!(next_epoch(&path).unwrap() > first);
        let ahead = u64::MAX / 2;
        std::fs::write(&path, ahead.to_string()).unwrap();
        assert_eq!(next_epoch(&path).unwrap(), ahead + 1);
    }

    #[test]
    fn workers_with_long_names_have_dice_of_their_own() {
        let dice = |name: &str| Dice::of(&name.repeat(6).parse().unwrap(), 7).roll();
        assert_ne!(dice("worker-a"), dice("worker-b"));
    }
}
