//! The one place where the agent looks at the clock on the wall.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970. For records and people; never to decide whether something took too long.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
