//! What gossip says of the other workers: who is there, and whose map of machines is in another state than it was.

use super::{Inner, Services};
use crate::mutex::locked;
use ferry_api::WorkerName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// After how long a worker is asked again that gossip tells nothing of.
const UNHINTED_MAX: Duration = Duration::from_secs(30);

/// In which state a worker's map is, by gossip: in which life of it, and which one.
pub(crate) type State = (u64, u64);

/// What is heard of a worker.
#[derive(Debug)]
pub(super) struct Hint {
    /// The state of its map.
    news: watch::Sender<State>,
    /// Whether it is there.
    is_there: bool,
}

impl Default for Hint {
    fn default() -> Self {
        Self { news: watch::Sender::new((0, 0)), is_there: false }
    }
}

/// What is heard of each worker.
pub(super) type Hints = BTreeMap<WorkerName, Hint>;

impl Services {
    /// From now on gossip says when there is news: nobody waits for it with an open request.
    pub(crate) fn listen_to_gossip(&self) {
        self.inner.gossips.store(true, Relaxed);
    }

    /// In which state what this worker tells is, whenever that changes; 0 while it tells nothing.
    pub(crate) fn revision(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// A worker is there.
    pub(crate) fn is_there(&self, worker: &WorkerName) {
        locked(&self.inner.hints).entry(worker.clone()).or_default().is_there = true;
    }

    /// A worker is not there any more.
    pub(crate) fn is_gone(&self, worker: &WorkerName) {
        locked(&self.inner.hints).entry(worker.clone()).or_default().is_there = false;
    }

    /// A worker's map of machines is in that state.
    pub(crate) fn has_news(&self, worker: &WorkerName, state: State) {
        locked(&self.inner.hints).entry(worker.clone()).or_default().news.send_replace(state);
    }
}

impl Inner {
    /// Who is there, by gossip.
    pub(super) fn there(&self) -> BTreeSet<WorkerName> {
        let hints = locked(&self.hints);
        hints.iter().filter(|(_, hint)| hint.is_there).map(|(name, _)| name.clone()).collect()
    }

    /// Waits until a worker is to be asked again of which the state `seen` was the last that was heard; gives what is heard now.
    pub(super) async fn until_news(&self, worker: &WorkerName, seen: State) -> State {
        let mut news = locked(&self.hints).entry(worker.clone()).or_default().news.subscribe();
        let _ = timeout(UNHINTED_MAX, news.wait_for(|state| *state != seen)).await;
        *news.borrow()
    }
}
