//! The pace of hydration: how it is set, and how it shows.

use crate::WorkerName;
use serde::{Deserialize, Deserializer, Serialize};
use std::num::NonZeroU64;

/// Asks for another pace of a volume's hydration, from now on, over restarts and over moves. What is left out stays as
/// it is; `null` takes it away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaceVolume {
    /// The most that is fetched in the background a second; none: as much as goes. What the guest needs is never held
    /// back, but counts.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub budget_bytes_per_s: Option<Option<NonZeroU64>>,
    /// What 99 of 100 requests of the guest may take before the background backs off, in microseconds; none: no guard.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub guard_us: Option<Option<NonZeroU64>>,
    /// When hydration shall be complete, in milliseconds since 1970; none: whenever it comes to be. Refused when that
    /// cannot be as things stand.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub finish_by_ms: Option<Option<u64>>,
}

impl PaceVolume {
    /// Whether all stays as it is.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Asks for another budget of all hydrations of a worker together, from now on, over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaceWorker {
    /// The most that all of them fetch in the background a second, shared equally among those that hydrate; none (`null`,
    /// never left out): as much as goes.
    #[serde(deserialize_with = "Option::deserialize")]
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// Only of those that read from this worker; the budget of all of them is kept beside it. None: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<WorkerName>,
}

/// Tells a target what all that it fetches from a worker in the background may take a second together, for [`PaceFrom::FOR_MS`]: what
/// that worker has for whatever it is doing, divided among its targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaceFrom {
    /// The worker.
    pub from: WorkerName,
    /// The most; none: as much as goes.
    pub bytes_per_s: Option<NonZeroU64>,
}

impl PaceFrom {
    /// For how long that holds unless it is said again, in milliseconds.
    pub const FOR_MS: u64 = 60_000;
}

/// How a volume's hydration is paced. All is none while its server does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePace {
    /// The most that hydration fetches in the background a second; none without a budget.
    #[serde(default)]
    pub budget_bytes_per_s: Option<NonZeroU64>,
    /// What it may fetch a second of the worker's budget now; the smaller one of both holds. None without a budget of the
    /// worker, and while the volume does not hydrate.
    #[serde(default)]
    pub share_bytes_per_s: Option<NonZeroU64>,
    /// What 99 of 100 requests of the guest may take before the background backs off, in microseconds; none: no guard.
    #[serde(default)]
    pub guard_us: Option<NonZeroU64>,
    /// The most that the guard lets the background fetch a second now; none while it does not hold it back.
    #[serde(default)]
    pub guard_bytes_per_s: Option<u64>,
    /// What 99 of 100 requests of the guest took at most lately, in microseconds, without those that had to wait for the
    /// source; none while it asks for nothing, and once the volume is whole.
    #[serde(default)]
    pub guest_p99_us: Option<u64>,
    /// When hydration shall be complete, in milliseconds since 1970; none: whenever it comes to be.
    #[serde(default)]
    pub finish_by_ms: Option<u64>,
    /// When it will be if what is known to come goes on as lately, in milliseconds since 1970; none while nothing crosses.
    #[serde(default)]
    pub expected_end_ms: Option<u64>,
}

impl VolumePace {
    /// What is to be set for the next hydration of the volume, on another worker. A time to be complete at is of this one.
    #[must_use]
    pub fn as_set(&self) -> PaceVolume {
        let given = |set: Option<NonZeroU64>| set.map(Some);
        PaceVolume {
            budget_bytes_per_s: given(self.budget_bytes_per_s),
            guard_us: given(self.guard_us),
            finish_by_ms: None,
        }
    }
}

/// What is there was given, also if it is `null`.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_and_null_takes_it_away() {
        let pace = |text| serde_json::from_str::<PaceVolume>(text).unwrap();
        assert_eq!(pace("{}"), PaceVolume::default());
        let gone = PaceVolume { budget_bytes_per_s: Some(None), ..PaceVolume::default() };
        assert_eq!(pace(r#"{"budget_bytes_per_s":null}"#), gone);
        let both = PaceVolume {
            budget_bytes_per_s: Some(NonZeroU64::new(7)),
            guard_us: Some(NonZeroU64::new(5_000)),
            finish_by_ms: None,
        };
        assert_eq!(pace(r#"{"budget_bytes_per_s":7,"guard_us":5000}"#), both);
        for pace in [PaceVolume::default(), gone, both] {
            let text = serde_json::to_string(&pace).unwrap();
            assert_eq!(serde_json::from_str::<PaceVolume>(&text).unwrap(), pace, "{text}");
        }
    }
}
