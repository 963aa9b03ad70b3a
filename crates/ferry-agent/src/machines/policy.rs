//! What happens to a machine that ended by itself. Pure.

use crate::drivers::Ended;
use ferry_api::RestartPolicy;
use std::time::Duration;

/// A machine that ran at least this long before it ended is started again without delay.
pub(super) const RAN_WELL: Duration = Duration::from_secs(10);
/// First wait before a machine is started again that ended soon.
const WAIT_FIRST: Duration = Duration::from_millis(200);
/// Longest wait before a machine is started again.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Whether a machine that ended like this stays down.
pub(super) fn stays_down(policy: RestartPolicy, ended: Ended) -> bool {
    match policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => ended.code == Some(0),
        RestartPolicy::Never => true,
    }
}

/// How long to wait before the `restarts`th start in a row (from 1) of a machine that does not run well.
pub(super) fn wait(restarts: u32) -> Duration {
    let doublings = restarts.saturating_sub(1).min(16);
    WAIT_FIRST.saturating_mul(1 << doublings).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_comes_back_as_its_policy_says() {
        let ended = |code, signal| Ended { code, signal, ..Ended::UNSEEN };
        let (well, badly, killed, unknown) =
            (ended(Some(0), None), ended(Some(1), None), ended(None, Some(9)), ended(None, None));
        for end in [well, badly, killed, unknown] {
            assert!(!stays_down(RestartPolicy::Always, end));
            assert!(stays_down(RestartPolicy::Never, end));
        }
        assert!(stays_down(RestartPolicy::OnFailure, well));
        for end in [badly, killed, unknown] {
            assert!(!stays_down(RestartPolicy::OnFailure, end));
        }
    }

    #[test]
    fn waits_grow_to_a_limit() {
        assert_eq!(wait(1), WAIT_FIRST);
        assert_eq!(wait(2), WAIT_FIRST * 2);
        assert_eq!(wait(u32::MAX), WAIT_MAX);
    }
}
