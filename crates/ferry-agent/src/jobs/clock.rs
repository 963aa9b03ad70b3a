//! The time, as something that is handed in: jobs pause, and tests do not wait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;

/// Longest time for which nobody looks whether the clock was set, in milliseconds.
pub(super) const NAP_MS: u64 = 10_000;

/// Tells the time and wakes up at a time, both in milliseconds since 1970.
pub trait Clock: Clone + Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> u64;
    /// Returns when it is `at_ms`, or when as much time has passed as was left until then: a clock that is set back
    /// holds nobody up, and one that is set forward is noticed soon. Whoever needs it to be `at_ms` looks again.
    fn sleep_until(&self, at_ms: u64) -> impl Future<Output = ()> + Send;
}

/// The clock of the worker's host.
#[derive(Clone)]
pub struct HostClock(pub Arc<dyn Host>);

impl Clock for HostClock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    async fn sleep_until(&self, at_ms: u64) {
        let mut left_ms = at_ms.saturating_sub(self.now_ms());
        while left_ms > 0 && self.now_ms() < at_ms {
            let nap_ms = left_ms.min(NAP_MS);
            tokio::time::sleep(Duration::from_millis(nap_ms)).await;
            left_ms -= nap_ms;
        }
    }
}
