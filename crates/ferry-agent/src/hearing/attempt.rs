//! One short try whether a worker could take part in a bucket of NATS servers. It leaves nothing behind.

use super::line::{Line, NO_ANSWER, servers};
use super::trouble::NatsTrouble;
use crate::config::NatsConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::kv::{Store, UpdateErrorKind};
use ferry_api::WorkerName;
use ferry_gossip::{Bucket, Fleet};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long all of it may take.
const TRY_MAX: Duration = Duration::from_secs(5);
/// A revision that no key of any bucket has: what is put there in its place is refused, and only for that.
const NEVER: u64 = 1 << 62;

/// Tries within five seconds whether one of the servers is reached and the bucket can be used, by this worker of the cluster of that id
/// (letters and digits); for who belongs to none yet, without reading and writing.
///
/// # Errors
/// What is in the way.
pub async fn try_bucket(config: &NatsConfig, member: Option<(&WorkerName, &str)>) -> Result<(), NatsTrouble> {
    let until = Instant::now() + TRY_MAX;
    // So that one server that is silent leaves time for the others, and the last one for the bucket.
    let each_at_most = TRY_MAX / u32::try_from(config.servers.len() + 1).unwrap_or(u32::MAX);
    let line = match timeout_at(until, Line::connect(config, "ferry doctor", each_at_most)).await {
        Ok(line) => line?,
        Err(_) => {
            return Err(NatsTrouble::Unreachable { servers: servers(config), why: NO_ANSWER.to_owned() });
        }
    };
    match timeout_at(until, used(&line, member)).await {
        Ok(used) => used,
        Err(_) => Err(line.refused(NO_ANSWER.to_owned())),
    }
}

async fn used(line: &Line, member: Option<(&WorkerName, &str)>) -> Result<(), NatsTrouble> {
    let store = line.store().await?;
    let Some((worker, cluster)) = member else { return Ok(()) };
    let nobody = Fleet { members: BTreeSet::new(), keys: Vec::new() };
    let bucket = Bucket::new((worker.clone(), 0), cluster, nobody);
    read(line, &store, &bucket.keys()).await.map_err(|why| line.refused(format!("watch: {why}")))?;
    write(&store, &bucket.key()).await.map_err(|why| line.refused(format!("put: {why}")))
}

/// Asks for the keys as an agent does, and takes that back.
async fn read(line: &Line, store: &Store, keys: &str) -> Result<(), String> {
    let asked = push::OrderedConfig {
        deliver_subject: line.inbox(),
        filter_subject: format!("{}{keys}", store.prefix),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..Default::default()
    };
    let reader = store.stream.create_consumer(asked).await.map_err(|error| error.to_string())?;
    // If that is refused, the server forgets it by itself soon, for nobody listens.
    drop(store.stream.delete_consumer(&reader.cached_info().name).await);
    Ok(())
}

/// Writes what the server must refuse, because it is said to replace what is not there.
async fn write(store: &Store, key: &str) -> Result<(), String> {
    match store.update(key, Vec::new().into(), NEVER).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
