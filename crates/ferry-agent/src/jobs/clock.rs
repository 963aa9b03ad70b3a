//! The time, as something that is handed in: jobs pause, and tests do not wait.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time and wakes up at a time, both in milliseconds since 1970.
pub trait Clock: Clone + Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> u64;
    /// Returns when it is `at_ms`, or later.
    fn sleep_until(&self, at_ms: u64) -> impl Future<Output = ()> + Send;
}

/// The worker's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    async fn sleep_until(&self, at_ms: u64) {
        tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))).await;
    }
}
