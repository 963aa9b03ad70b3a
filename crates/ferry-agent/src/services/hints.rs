//! What is heard of the other workers (see [`crate::hearing`]): who is there, and whose map of machines is in another state than it was.

use super::{Inner, Services};
use crate::mutex::locked;
use ferry_api::{Hears, HearsBy, WorkerName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// After how long a worker is asked again of which nothing is heard.
const UNHINTED_MAX: Duration = Duration::from_secs(30);

/// In which state a worker's map is, by what is heard: in which life of it, and which one.
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

/// By what others are heard, and how that goes.
#[derive(Debug, Default)]
pub(super) struct Ears {
    by: HearsBy,
    /// When something was last heard, where others keep what is heard.
    heard_at: Option<Instant>,
    /// Why nothing is heard.
    trouble: Option<String>,
    /// How much of it was not taken.
    ignored: u64,
}

impl Services {
    /// From now on it is heard by that when there is news: nobody waits for it with an open request.
    pub(crate) fn hears_by(&self, by: HearsBy) {
        locked(&self.inner.ears).by = by;
    }

    /// What others keep was read or written just now; so much of it was not taken since the agent began.
    pub(crate) fn hears(&self, ignored: u64) {
        let mut ears = locked(&self.inner.ears);
        (ears.heard_at, ears.trouble, ears.ignored) = (Some(Instant::now()), None, ignored);
    }

    /// What others keep is not to be had, for that reason. Tells whether it is another one than it was.
    pub(crate) fn hears_nothing(&self, trouble: String) -> bool {
        locked(&self.inner.ears).trouble.replace(trouble.clone()) != Some(trouble)
    }

    /// How the others are heard.
    pub(crate) fn hearing(&self) -> Hears {
        let Ears { by, heard_at, trouble, ignored } = &*locked(&self.inner.ears);
        let ms_ago = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let heard_ms_ago = heard_at.map(ms_ago);
        Hears { by: by.clone(), heard_ms_ago, trouble: trouble.clone(), ignored: *ignored }
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
    /// Whether it is heard when others have news.
    pub(super) fn is_hinted(&self) -> bool {
        locked(&self.ears).by != HearsBy::Requests
    }

    /// Who is there, by what is heard.
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
