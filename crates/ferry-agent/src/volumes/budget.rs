//! The budget of all hydrations of the worker: remembered in the records, and divided anew every second.
//!
//! ```text
//!  records ──budget──▶ divide (shares.rs) ──share──▶ volume server ──▶ min(own budget, share)
//!  volume servers ──who hydrates, own budget──▶┘
//! ```
//!
//! A server that nobody tells its share any more drops it after a minute, so nothing need be undone when an agent dies.

use super::shares::divide;
use super::{Inner, Volumes, VolumesError, service};
use crate::records::Change;
use ferry_api::VolumeKey;
use ferry_volume::control::Status;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often the budget is divided anew.
const DIVIDE_EVERY: Duration = Duration::from_secs(1);

impl Volumes {
    /// Sets what all hydrations together may fetch in the background a second. Durable when it answers; each volume has
    /// its share within a second.
    ///
    /// # Errors
    /// The records were lost.
    pub async fn set_budget(&self, bytes_per_s: Option<NonZeroU64>) -> Result<(), VolumesError> {
        self.inner.records.change(vec![Change::Budget(bytes_per_s)]).await?;
        self.inner.budget_news.notify_one();
        Ok(())
    }

    /// Divides the budget among the volumes that hydrate, for ever.
    pub async fn share_budget(&self) {
        loop {
            let divided = divide_once(&self.inner).await;
            let again = async {
                match &divided {
                    // Whoever still has a share has it for a minute at most.
                    Ok(None) => std::future::pending().await,
                    Ok(Some(_)) => tokio::time::sleep(DIVIDE_EVERY).await,
                    Err(error) => {
                        tracing::warn!(%error, "the budget of the worker cannot be divided");
                        tokio::time::sleep(DIVIDE_EVERY).await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = again => {}
                () = self.inner.budget_news.notified() => {}
            }
        }
    }
}

/// Gives each volume its share, and tells of which budget.
async fn divide_once(inner: &Arc<Inner>) -> Result<Option<NonZeroU64>, VolumesError> {
    let budget = inner.records.worker().await?.budget_bytes_per_s;
    let unfinished = unfinished(inner).await?;
    let shares = match budget {
        None => {
            let sharing = unfinished.iter().filter(|(_, status)| status.share_bytes_per_s.is_some());
            sharing.map(|(key, _)| (*key, None)).collect()
        }
        Some(budget) => shares(budget, &unfinished),
    };
    let mut telling = JoinSet::new();
    for (key, share) in shares {
        let inner = Arc::clone(inner);
        // A server that is gone has nothing to keep to; the next division finds it again.
        telling.spawn(async move {
            let told = inner.ask(key, move |client| client.set_share(share));
            tokio::time::timeout(DIVIDE_EVERY, told).await.is_ok()
        });
    }
    telling.join_all().await;
    Ok(budget)
}

/// What each is told. One that waits for its source takes nothing from the others, and comes back with what would be its
/// share.
fn shares(budget: NonZeroU64, unfinished: &[(VolumeKey, Status)]) -> Vec<(VolumeKey, Option<NonZeroU64>)> {
    let (hydrating, waiting): (Vec<_>, Vec<_>) = unfinished
        .iter()
        .partition(|(_, status)| status.source.as_ref().is_some_and(|source| source.connected));
    let own: Vec<_> = hydrating.iter().map(|(_, status)| status.budget_bytes_per_s).collect();
    let as_one_more = budget.get() / (own.len() as u64 + 1);
    let as_one_more = NonZeroU64::new(as_one_more).unwrap_or(NonZeroU64::MIN);
    let shares = divide(budget, &own).into_iter().chain(std::iter::repeat(as_one_more));
    hydrating.iter().chain(&waiting).map(|(key, _)| *key).zip(shares.map(Some)).collect()
}

/// The copies whose servers have not fetched everything yet, in the order of their keys.
async fn unfinished(inner: &Arc<Inner>) -> Result<Vec<(VolumeKey, Status)>, VolumesError> {
    let mut asking = JoinSet::new();
    for record in inner.records.volumes().await? {
        if record.source.is_some() && service::wanted(&record.ownership, false) != service::Service::None {
            let (key, inner) = (record.key(), Arc::clone(inner));
            asking.spawn(async move { Some((key, inner.status(key).await.ok()?)) });
        }
    }
    let mut found: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    found.retain(|(_, status)| !status.hydration.complete);
    found.sort_by_key(|(key, _)| *key);
    Ok(found)
}
