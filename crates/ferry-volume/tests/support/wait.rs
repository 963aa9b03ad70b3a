//! Waiting for a state, for as long as only a fault takes; and an address that nobody else takes meanwhile.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long a state may take to come on any machine before a test gives it up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks: who looks all the time takes the processor from whom it waits for.
pub const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Looks until there is something.
#[track_caller]
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Any port of a loopback address of its own (127.0.0.0/8 is all this host's). A server that was stopped finds its port free again there: at
/// 127.0.0.1 another test, or an outgoing connection, may have been given it.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 | high & 63, low, NEXT.fetch_add(1, Ordering::Relaxed)], 0))
}
