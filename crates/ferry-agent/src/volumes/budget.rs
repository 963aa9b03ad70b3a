//! The budgets of all hydrations of the worker, and of those that read from one other worker: remembered in the records, and divided
//! anew every second.
//!
//! ```text
//!  records ──budget──▶ divide (shares.rs) ──share──▶ volume server ──▶ min(own budget, share)
//!  volume servers ──who hydrates, from where, own budget──▶┤
//!  other workers ──what all that reads from them may take, for a minute──▶┘
//! ```
//!
//! A server that nobody tells its share any more drops it after a minute, so nothing need be undone when an agent dies.

use super::shares::{Claim, can_use, share_out};
use super::{Inner, Volumes, VolumesError, service};
use crate::mutex::locked;
use crate::records::Change;
use ferry_api::{PaceFrom, VolumeKey, WorkerName};
use ferry_volume::control::Status;
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

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

    /// Sets the same of all that reads from one other worker. Durable when it answers.
    ///
    /// # Errors
    /// The records were lost.
    pub async fn set_pair_budget(
        &self,
        from: WorkerName,
        bytes_per_s: Option<NonZeroU64>,
    ) -> Result<(), VolumesError> {
        self.inner.records.change(vec![Change::PairBudget { from, bytes_per_s }]).await?;
        self.inner.budget_news.notify_one();
        Ok(())
    }

    /// Another worker says what all that reads from it may take together; forgotten after a minute.
    pub fn pace_from(&self, pace: PaceFrom) {
        let until = Instant::now() + Duration::from_millis(PaceFrom::FOR_MS);
        let mut told = locked(&self.inner.told_paces);
        let is_news = match pace.bytes_per_s {
            Some(most) => told.insert(pace.from, (most, until)).is_none_or(|(before, _)| before != most),
            // What the agent before this one gave of it ends, too.
            None => {
                told.remove(&pace.from);
                locked(&self.inner.ended_paces).insert(pace.from)
            }
        };
        if is_news {
            self.inner.budget_news.notify_one();
        }
    }

    /// Divides the budgets among the volumes that hydrate, for ever.
    pub async fn share_budget(&self) {
        loop {
            let divided = divide_once(&self.inner).await;
            let again = async {
                match &divided {
                    // Whoever still has a share has it for a minute at most.
                    Ok(false) => std::future::pending().await,
                    Ok(true) => tokio::time::sleep(DIVIDE_EVERY).await,
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

/// A copy that its server has not fetched whole yet.
struct Unfinished {
    key: VolumeKey,
    from: Option<WorkerName>,
    status: Status,
}

impl Unfinished {
    fn claim(&self) -> Claim<'_> {
        let slow = self.status.source.as_ref().and_then(|source| source.slow_ms);
        let uses = slow.map(|_| can_use(self.status.hydration.rate_bytes_per_s));
        Claim { own: self.status.budget_bytes_per_s, uses, from: self.from.as_ref() }
    }
}

/// Gives each volume its share, and tells whether there is a budget at all.
async fn divide_once(inner: &Arc<Inner>) -> Result<bool, VolumesError> {
    let set = inner.records.worker().await?;
    let (budget, mut pairs) = (set.budget_bytes_per_s, set.pair_budgets_bytes_per_s);
    for (from, told) in told_now(inner) {
        let most = pairs.entry(from).or_insert(told);
        *most = told.min(*most);
    }
    let unfinished = unfinished(inner).await?;
    let ended = std::mem::take(&mut *locked(&inner.ended_paces));
    let mut telling = JoinSet::new();
    for (one, share) in unfinished.iter().zip(shares(budget, &pairs, &unfinished)) {
        let (inner, key) = (Arc::clone(inner), one.key);
        // A share that the agent before this one gave may be of what another worker said, and will say again: it ends by itself.
        if share.is_some() {
            locked(&inner.shared).insert(key);
        } else {
            let has_ended = one.from.as_ref().is_some_and(|from| ended.contains(from));
            if !locked(&inner.shared).remove(&key) && !has_ended {
                continue;
            }
        }
        // A server that is gone has nothing to keep to; the next division finds it again.
        telling.spawn(async move {
            let told = inner.ask(key, move |client| client.set_share(share));
            tokio::time::timeout(DIVIDE_EVERY, told).await.is_ok()
        });
    }
    telling.join_all().await;
    Ok(budget.is_some() || !pairs.is_empty())
}

/// What other workers have said lately.
fn told_now(inner: &Inner) -> Vec<(WorkerName, NonZeroU64)> {
    let now = Instant::now();
    let mut told = locked(&inner.told_paces);
    told.retain(|_, (_, until)| *until > now);
    told.iter().map(|(from, (most, _))| (from.clone(), *most)).collect()
}

/// What each is told, in their order. One that waits for its source takes nothing from the others, and comes back with what would
/// be its share.
fn shares(
    budget: Option<NonZeroU64>,
    pairs: &BTreeMap<WorkerName, NonZeroU64>,
    unfinished: &[Unfinished],
) -> Vec<Option<NonZeroU64>> {
    let hydrates = |one: &Unfinished| one.status.source.as_ref().is_some_and(|source| source.connected);
    let claims: Vec<Claim<'_>> =
        unfinished.iter().filter(|one| hydrates(one)).map(Unfinished::claim).collect();
    let mut of_hydrating = share_out(budget, pairs, &claims).into_iter();
    let as_one_more = |one: &Unfinished| {
        let own = Claim { own: None, uses: None, ..one.claim() };
        share_out(budget, pairs, &[&claims[..], &[own]].concat()).pop().flatten()
    };
    unfinished
        .iter()
        .map(|one| if hydrates(one) { of_hydrating.next().flatten() } else { as_one_more(one) })
        .collect()
}

/// The copies whose servers have not fetched everything yet, in the order of their keys.
async fn unfinished(inner: &Arc<Inner>) -> Result<Vec<Unfinished>, VolumesError> {
    let mut asking = JoinSet::new();
    for record in inner.records.volumes().await? {
        let key = record.key();
        let is_served = service::wanted(&record.ownership, false) != service::Service::None;
        if let Some(source) = record.source.filter(|_| is_served) {
            let inner = Arc::clone(inner);
            asking.spawn(async move {
                Some(Unfinished { key, from: source.worker, status: inner.status(key).await.ok()? })
            });
        }
    }
    let mut found: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    found.retain(|one| !one.status.hydration.complete);
    found.sort_by_key(|one| one.key);
    Ok(found)
}
