//! What is counted of one service on this worker. It begins anew with the agent.

use crate::mutex::locked;
use ferry_crossing::proxy::Refusal;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::Instant;

/// Counts of one service.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) accepted: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) refused: AtomicU64,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    /// Those that wait now, by when they began to.
    now: BTreeSet<(Instant, u64)>,
    begun: u64,
    longest_ms: u64,
    last_refusal: Option<Refusal>,
}

impl Figures {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        locked(&self.waits)
    }

    /// How many connections wait now.
    pub(super) fn held(&self) -> u64 {
        self.waits().now.len() as u64
    }

    /// The longest that any has waited, in milliseconds, those that wait now included.
    pub(super) fn longest_wait_ms(&self) -> u64 {
        let waits = self.waits();
        let now_ms = waits.now.first().map_or(0, |(since, _)| ms_since(*since));
        waits.longest_ms.max(now_ms)
    }

    /// Why the last one was refused.
    pub(super) fn last_refusal(&self) -> Option<Refusal> {
        self.waits().last_refusal
    }

    /// Counts one that is refused.
    pub(super) fn refuse(&self, why: Refusal) {
        self.refused.fetch_add(1, Relaxed);
        self.waits().last_refusal = Some(why);
    }

    /// Counts a connection as one that waits, since `began`, until what is answered is dropped.
    pub(super) fn hold(self: &Arc<Self>, began: Instant) -> Held {
        let mut waits = self.waits();
        waits.begun += 1;
        let place = (began, waits.begun);
        waits.now.insert(place);
        Held { figures: Arc::clone(self), place }
    }

    /// Counts a connection as one that is through, until what is answered is dropped.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(Arc::clone(self))
    }
}

/// A place among those that wait.
pub(super) struct Held {
    figures: Arc<Figures>,
    place: (Instant, u64),
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut waits = self.figures.waits();
        waits.now.remove(&self.place);
        waits.longest_ms = waits.longest_ms.max(ms_since(self.place.0));
    }
}

/// A connection that is through.
pub(super) struct Open(Arc<Figures>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// Milliseconds since then.
pub(super) fn ms_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_is_that_of_whoever_waits_or_has_waited() {
        let figures = Arc::new(Figures::default());
        let long_ago = Instant::now().checked_sub(std::time::Duration::from_secs(70)).unwrap();
        let (first, second) = (figures.hold(long_ago), figures.hold(Instant::now()));
        assert_eq!(figures.held(), 2);
        assert!(figures.longest_wait_ms() >= 70_000);
        drop(first);
        assert_eq!(figures.held(), 1);
        drop(second);
        assert_eq!(figures.held(), 0);
        assert!(figures.longest_wait_ms() >= 70_000);
    }
}
