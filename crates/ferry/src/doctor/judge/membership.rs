//! Whether the worker's part in its cluster is in order. Clocks are compared by agents: `ferry cluster status`.

use super::Finding;
use crate::doctor::facts::Facts;

const WHAT: &str = "cluster";
const PURPOSE: &str = "other workers, over TLS";
const DAY_S: u64 = 24 * 60 * 60;
const HOUR_S: u64 = 60 * 60;

/// None for a worker that belongs to no cluster.
pub(super) fn membership(facts: &Facts) -> Option<Finding> {
    let found = match &facts.membership {
        Ok(found) => found.as_ref()?,
        Err(why) => {
            let advice = "run this as the agent's user, or restore the directory `cluster` from a backup";
            return Some(Finding::missing(WHAT, PURPOSE, why.clone(), advice));
        }
    };
    let (worker, good, now_s) = (&found.worker, &found.certificate_s, facts.now_s);
    if let Some(why) = &found.lost {
        let advice = "move the directory `cluster` away and join as a successor: `ferry cluster token --worker NAME --again`";
        return Some(Finding::missing(WHAT, PURPOSE, why.clone(), advice));
    }
    if now_s >= good.end {
        let seen = format!("the certificate of {worker} expired {} hours ago", (now_s - good.end) / HOUR_S);
        let advice = "start its agent, which renews it; if the clock is wrong, set it";
        return Some(Finding::missing(WHAT, PURPOSE, seen, advice));
    }
    if now_s < good.start {
        let seen = format!(
            "the certificate of {worker} is good only in {} hours",
            (good.start - now_s).div_ceil(HOUR_S)
        );
        return Some(Finding::missing(WHAT, PURPOSE, seen, "set the clock of this host"));
    }
    let (version, days) = (found.roster_version, (good.end - now_s) / DAY_S);
    let seen =
        format!("worker {worker}, version {version} of the roster, a certificate for {days} more days");
    Some(Finding::works(WHAT, PURPOSE, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::Membership;
    use crate::doctor::judge::{State, tests::rich};

    const FROM_S: u64 = 1_800_000_000;

    fn judged(now_s: u64, lost: Option<&str>) -> Finding {
        let lost = lost.map(str::to_owned);
        let found = Membership {
            worker: "w1".to_owned(),
            roster_version: 3,
            certificate_s: FROM_S..FROM_S + 7 * DAY_S,
            lost,
        };
        membership(&Facts { now_s, membership: Ok(Some(found)), ..rich() }).unwrap()
    }

    #[test]
    fn a_worker_whose_certificate_is_not_good_now_or_that_was_revoked_is_told_what_to_do() {
        assert_eq!(judged(FROM_S + DAY_S, None).state, State::Works);
        for (now_s, says) in
            [(FROM_S + 8 * DAY_S, "expired 24 hours ago"), (FROM_S - HOUR_S, "good only in 1 hours")]
        {
            let finding = judged(now_s, None);
            assert!(finding.seen.contains(says) && finding.advice.is_some(), "{finding:?}");
        }
        assert_eq!(judged(FROM_S + DAY_S, Some("worker w1 was revoked")).state, State::Missing);
        assert_eq!(membership(&rich()), None, "a worker without a cluster needs nothing");
    }
}
