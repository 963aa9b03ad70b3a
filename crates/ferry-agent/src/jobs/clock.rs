//! The time, as something that is handed in: jobs pause, and tests do not wait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;

/// Tells the time and wakes up at a time, both in milliseconds since 1970.
pub trait Clock: Clone + Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> u64;
    /// Returns when it is `at_ms`, or later.
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
        tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))).await;
    }
}
