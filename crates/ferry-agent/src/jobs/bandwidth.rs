//! What a drain takes of the network: divided among its targets, each of which divides that among what it fetches.
//!
//! Invariant: targets together are never told more than was asked for. One that cannot be told keeps to what it heard last, for a
//! minute.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use ferry_api::WorkerName;
use ferry_placement::{Stage, UnderWay, allot};
use tokio::task::JoinSet;

use super::world::Emptied;

/// Time until targets are told again what has not changed, in milliseconds: one whose agent was started anew knows nothing.
const AGAIN_MS: u64 = 5_000;

/// What a drain may take, and what targets were told of it.
#[derive(Debug)]
pub(super) struct Bandwidth {
    most: Option<NonZeroU64>,
    moves: Vec<UnderWay>,
    told: BTreeMap<WorkerName, NonZeroU64>,
    again_ms: u64,
}

impl Bandwidth {
    /// Nobody was told yet.
    pub(super) fn new(most: Option<NonZeroU64>) -> Self {
        Self { most, moves: Vec::new(), told: BTreeMap::new(), again_ms: 0 }
    }

    /// These moves are under way: tells their targets, if that has changed or is long ago.
    pub(super) async fn keep<H: Emptied>(&mut self, home: &Arc<H>, now_ms: u64, moves: Vec<UnderWay>) {
        self.moves = moves;
        self.divide(home, now_ms).await;
    }

    /// One more is about to begin: its target is told before anything crosses.
    pub(super) async fn one_more<H: Emptied>(&mut self, home: &Arc<H>, now_ms: u64, to: &WorkerName) {
        self.moves.push(UnderWay { to: to.clone(), group: None, stage: Stage::Leaves });
        self.divide(home, now_ms).await;
    }

    async fn divide<H: Emptied>(&mut self, home: &Arc<H>, now_ms: u64) {
        let Some(most) = self.most else { return };
        let parts = allot(most, &self.moves);
        if parts == self.told && now_ms < self.again_ms {
            return;
        }
        // Those that get less are told first, so that it is never more together.
        let (less, more): (BTreeMap<_, _>, BTreeMap<_, _>) = parts
            .iter()
            .map(|(to, part)| (to.clone(), Some(*part)))
            .partition(|(to, part)| self.told.get(to).is_some_and(|told| *part < Some(*told)));
        let gone = self.told.keys().filter(|to| !parts.contains_key(*to)).map(|to| (to.clone(), None));
        let gone: BTreeMap<_, _> = gone.collect();
        for told in [less, more, gone] {
            tell(home, told).await;
        }
        (self.told, self.again_ms) = (parts, now_ms.saturating_add(AGAIN_MS));
    }

    /// Nothing is under way any more.
    pub(super) async fn end<H: Emptied>(self, home: &Arc<H>) {
        tell(home, self.told.into_keys().map(|to| (to, None)).collect()).await;
    }
}

async fn tell<H: Emptied>(home: &Arc<H>, parts: BTreeMap<WorkerName, Option<NonZeroU64>>) {
    let mut telling = JoinSet::new();
    for (to, part) in parts {
        let home = home.clone();
        telling.spawn(async move {
            if let Err(error) = home.pace(&to, part).await {
                tracing::warn!(worker = %to, %error, "a target is not told how much of the network it may take");
            }
        });
    }
    telling.join_all().await;
}
